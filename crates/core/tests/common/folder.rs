//! Folders that vanish with the test, and environments within them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use easyroutine::source::Environment;

/// A folder of its own for one test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("source-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("a folder for the test");
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, creating its folders; returns its path.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a file in the folder")).expect("its folders");
        fs::write(&path, bytes).expect("the file");
        path
    }

    /// The environment of a process whose caches are all in this folder.
    pub(crate) fn environment(&self, variables: &[(&str, &str)]) -> Environment {
        let mut all = BTreeMap::from([("HOME".to_owned(), self.0.display().to_string())]);
        all.insert("HF_HUB_CACHE".into(), self.0.join("hub").display().to_string());
        all.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Environment::from_variables(&|name| all.get(name).map(Into::into))
    }

    /// Every file and link below, relative to the folder, sorted; lock files and folders are left out.
    pub(crate) fn tree(&self) -> Vec<String> {
        fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(folder).expect("a folder").flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    walk(&entry.path(), root, found);
                } else {
                    found.push(entry.path().strip_prefix(root).expect("below").display().to_string());
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.0, &self.0, &mut found);
        found.retain(|name| !name.ends_with(".lock"));
        found.sort();
        found
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Anything left is in the build's folder for tests.
        let _ = fs::remove_dir_all(&self.0);
    }
}
