//! The temporary file next to a target, until it is complete.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;

const BEGINS: &str = ".easyroutine-";
const ENDS: &str = ".partial";
/// Number of letters and digits in between.
const LETTERS: usize = 6;
/// A younger file may be about to be locked.
const YOUNG: Duration = Duration::from_secs(60);
/// Limit on folder entries examined: clearing up must not take long.
const LOOKED_AT: usize = 10_000;

/// Creates such a file in a folder, with the user's usual permissions, and clears away what interrupted runs left
/// there. The writer holds its lock, so that others see that it is in use.
pub(crate) fn new(folder: &Path) -> io::Result<NamedTempFile> {
    // What can't be cleared away does no harm.
    let _ = clear(folder);
    let mut builder = tempfile::Builder::new();
    builder.prefix(BEGINS).suffix(ENDS).rand_bytes(LETTERS);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    // A single call draws the name and creates the file: two processes with the same id, as in containers that share a
    // folder, must not write into each other's files.
    let partial = builder.tempfile_in(folder)?;
    // Where there are no locks, nothing is cleared away.
    let _ = partial.as_file().try_lock();
    Ok(partial)
}

fn clear(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.take(LOOKED_AT) {
        let entry = entry?;
        let name = entry.file_name();
        let letters = name.to_str().and_then(|name| name.strip_prefix(BEGINS)?.strip_suffix(ENDS));
        let is_named = letters.is_some_and(|l| l.len() == LETTERS && l.chars().all(char::is_alphanumeric));
        // A link does not count as a file here.
        if !is_named || !entry.file_type()?.is_file() {
            continue;
        }
        let age = SystemTime::now().duration_since(entry.metadata()?.modified()?).unwrap_or_default();
        if age >= YOUNG && File::open(entry.path())?.try_lock().is_ok() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_interrupted_runs_left_is_cleared_away_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let age = |path: &Path| {
            let hour_ago = SystemTime::now() - Duration::from_secs(3600);
            File::options().write(true).open(path).unwrap().set_modified(hour_ago).unwrap();
        };
        let old = [".easyroutine-aB3dE6.partial", ".easyroutine-longer1.partial", ".easyroutine-aB3dE6.txt"];
        for name in old.into_iter().chain([".easyroutine-young1.partial", "mine"]) {
            fs::write(at(name), "bytes").unwrap();
        }
        old.iter().for_each(|name| age(&at(name)));
        std::os::unix::fs::symlink(at("mine"), at(".easyroutine-link12.partial")).unwrap();
        age(&at("mine"));
        let in_use = new(folder.path()).unwrap();
        age(in_use.path());
        let _next = new(folder.path()).unwrap();
        assert!(!at(old[0]).exists());
        for name in [old[1], old[2], ".easyroutine-young1.partial", ".easyroutine-link12.partial", "mine"] {
            assert!(at(name).exists(), "{name}");
        }
        assert!(in_use.path().exists());
    }
}
