//! The temporary folder for weights.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

/// The prefix of such a folder's name; letters and digits follow.
const BEGINS: &str = ".easyroutine-";
/// How many letters and digits follow.
const LETTERS: usize = 6;
/// A younger folder may be about to be held.
const YOUNG: Duration = Duration::from_secs(60);

/// A new temporary folder, deleted when dropped. The writer holds it, so that other processes see that it is in use.
pub(super) struct Partial {
    folder: TempDir,
    _held: Option<File>,
}

impl Partial {
    /// Creates one in a folder, and clears away what interrupted exports left there.
    pub(super) fn new(within: &Path) -> io::Result<Self> {
        // What can't be cleared away does no harm.
        let _ = clear(within);
        let folder = tempfile::Builder::new().prefix(BEGINS).rand_bytes(LETTERS).tempdir_in(within)?;
        let _held = hold(folder.path());
        Ok(Partial { folder, _held })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn clear(within: &Path) -> io::Result<()> {
    for entry in fs::read_dir(within)? {
        let entry = entry?;
        let name = entry.file_name();
        let letters = name.to_str().and_then(|name| name.strip_prefix(BEGINS));
        let is_named = letters.is_some_and(|l| l.len() == LETTERS && l.chars().all(char::is_alphanumeric));
        // A link does not count as a folder here.
        if !is_named || !entry.file_type()?.is_dir() {
            continue;
        }
        let age = SystemTime::now().duration_since(entry.metadata()?.modified()?).unwrap_or_default();
        if age < YOUNG {
            continue;
        }
        // Without locks there is no telling whether it is in use.
        if let Some(_held) = hold(&entry.path())
            && holds_files_alone(&entry.path())?
        {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// `None` if another process holds it, or folders cannot be locked.
fn hold(folder: &Path) -> Option<File> {
    let file = File::open(folder).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

/// We create no folders in such a folder, so one that contains folders is not ours.
fn holds_files_alone(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        if !entry?.file_type()?.is_file() {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    /// Makes a folder an hour old.
    fn age(folder: &Path) {
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        File::open(folder).unwrap().set_modified(hour_ago).unwrap();
    }

    #[test]
    fn what_interrupted_exports_left_is_cleared_away_and_nothing_else() {
        let within = tempfile::tempdir().unwrap();
        let at = |name: &str| within.path().join(name);
        for name in [
            ".easyroutine-aB3dE6",
            ".easyroutine-young1",
            ".easyroutine-longer1",
            ".easyroutine-folder",
            "model",
        ] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("model.safetensors"), "weights").unwrap();
        }
        fs::create_dir(at(".easyroutine-folder").join("mine")).unwrap();
        fs::write(at(".easyroutine-file12"), "mine").unwrap();
        std::os::unix::fs::symlink(at("model"), at(".easyroutine-link12")).unwrap();
        let in_use = Partial::new(within.path()).unwrap();
        for name in [".easyroutine-aB3dE6", ".easyroutine-longer1", ".easyroutine-folder", "model"] {
            age(&at(name));
        }
        age(in_use.path());
        let next = Partial::new(within.path()).unwrap();
        assert!(!at(".easyroutine-aB3dE6").exists());
        for name in
            [".easyroutine-young1", ".easyroutine-longer1", ".easyroutine-folder", ".easyroutine-file12"]
        {
            assert!(at(name).exists(), "{name}");
        }
        assert!(at(".easyroutine-link12").join("model.safetensors").exists());
        assert!(in_use.path().exists());
        let own = next.path().to_owned();
        drop(next);
        assert!(!own.exists());
    }
}
