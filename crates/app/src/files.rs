//! Files that are complete or absent.

use std::io;
use std::path::{Path, PathBuf};

use easyroutine::{Error, ErrorKind};

use crate::partial;

/// Creates a file with `fill`, as a sibling that is then renamed, so that the file is complete or absent. A link stays
/// a link, and its target is replaced; a device or a pipe is written directly. A replaced file keeps its permissions.
///
/// # Errors
/// The error of `fill` or of the system.
pub fn replace(file: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Error> {
    fill_and_rename(file, fill)
        .map_err(|e| Error::new(ErrorKind::Io, format!("{}: {e}", file.display())).because(e))
}

fn fill_and_rename(file: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let old = file.metadata().ok();
    // Under its own name: if `/dev/stdout` is a pipe, its target is not a path.
    if old.as_ref().is_some_and(|old| !old.is_file()) {
        return fill(file);
    }
    let target = linked(file);
    if old.as_ref().is_some_and(|old| old.permissions().readonly()) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file is there and read-only"));
    }
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let partial = partial::new(folder)?;
    fill(partial.path())?;
    if let Some(old) = old {
        std::fs::set_permissions(partial.path(), old.permissions())?;
    }
    partial.persist(&target).map(drop).map_err(|e| e.error)
}

/// The target of a path, even if nothing exists there yet.
fn linked(file: &Path) -> PathBuf {
    const LONGEST: usize = 40;
    let mut target = file.to_owned();
    for _ in 0..LONGEST {
        let Ok(next) = target.read_link() else { break };
        target = target.parent().unwrap_or(Path::new("")).join(next);
    }
    target
}
