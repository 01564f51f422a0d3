use std::os::unix::fs::symlink;
use std::path::Path;

use super::Tree;
use crate::fs::link_of;

/// A call with a path; its result is ignored.
type Call = fn(&Tree, &str) -> std::io::Result<()>;

const CALLS: &[(&str, Call)] = &[
    ("create_dir", |tree, path| tree.create_dir(path)),
    ("create_file", |tree, path| tree.create_file(path).map(|_| ())),
    ("create_or_open", |tree, path| tree.create_or_open(path).map(|_| ())),
    ("open_file", |tree, path| tree.open_file(path).map(|_| ())),
    ("open_folder", |tree, path| tree.open_folder(path).map(|_| ())),
    ("replace from", |tree, path| tree.replace(path, "other")),
    ("replace to", |tree, path| tree.replace("file", path)),
    ("rename_new from", |tree, path| tree.rename_new(path, "other")),
    ("rename_new to", |tree, path| tree.rename_new("file", path)),
    ("remove_file", |tree, path| tree.remove_file(path)),
    ("remove_dir", |tree, path| tree.remove_dir(path)),
    ("list", |tree, path| tree.list(path).map(|_| ())),
    ("entry", |tree, path| tree.entry(path).map(|_| ())),
];

/// A folder with a file, and a link `link` to a folder next to it.
fn prepare(folder: &Path) {
    for below in ["top/a/b", "out/b/c"] {
        std::fs::create_dir_all(folder.join(below)).unwrap();
    }
    for file in ["top/file", "out/file", "out/b/file"] {
        std::fs::write(folder.join(file), file).unwrap();
    }
    symlink("../out", folder.join("top/link")).unwrap();
    symlink("../../out", folder.join("top/a/link")).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            names.push(entry.path().display().to_string());
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    names.sort();
    names
}

#[test]
fn no_call_goes_through_a_link_whether_the_system_walks_or_this_does() {
    for open in [Tree::open, Tree::walking] {
        for (name, call) in CALLS {
            for path in ["link/file", "link/b", "link/b/file", "link/new", "a/link/b/file", "a/link/new"] {
                let folder = tempfile::tempdir().unwrap();
                prepare(folder.path());
                let tree = open(folder.path().join("top")).unwrap();
                let before = names(&folder.path().join("out"));
                let error = call(&tree, path).unwrap_err();
                assert!(link_of(&error).is_some(), "{name} {path}: {error}");
                assert!(error.to_string().contains("link is a symbolic link"), "{name} {path}: {error}");
                assert_eq!(names(&folder.path().join("out")), before, "{name} {path}");
            }
            for path in ["..", "../out", "a/../../out", "a/..", "", "."] {
                let folder = tempfile::tempdir().unwrap();
                prepare(folder.path());
                let tree = open(folder.path().join("top")).unwrap();
                let is_itself =
                    path.is_empty() && matches!(*name, "open_file" | "open_folder" | "list" | "entry");
                let is_a_look = path == "." && matches!(*name, "open_file" | "open_folder" | "list");
                assert_eq!(call(&tree, path).is_ok(), is_itself || is_a_look, "{name} {path:?}");
            }
        }
    }
}

#[test]
fn what_is_no_link_is_found_on_both_ways() {
    for open in [Tree::open, Tree::walking] {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let tree = open(folder.path().join("top")).unwrap();
        tree.create_dir("a/b/c").unwrap();
        drop(tree.create_file("a/b/c/new").unwrap());
        assert!(tree.create_file("a/b/c/new").is_err());
        tree.rename_new("a/b/c/new", "a/b/moved").unwrap();
        assert!(tree.rename_new("file", "a/b/moved").is_err());
        tree.replace("file", "a/b/moved").unwrap();
        assert_eq!(std::fs::read(folder.path().join("top/a/b/moved")).unwrap(), b"top/file");
        let mut found: Vec<String> = tree.list("a/b").unwrap().into_iter().map(|entry| entry.name).collect();
        found.sort();
        assert_eq!(found, ["c", "moved"]);
        assert_eq!(tree.entry("a/b/moved").unwrap().size, 8);
        tree.remove_file("a/b/moved").unwrap();
        tree.remove_dir("a/b/c").unwrap();
        // A link itself may be removed and inspected.
        assert_eq!(tree.entry("link").unwrap().kind, crate::fs::EntryKind::Link);
        tree.remove_file("link").unwrap();
        assert!(folder.path().join("out/file").exists());
        for gone in ["a/b/c", "none", "none/x", "file/x"] {
            assert!(tree.open_file(gone).is_err_and(|e| link_of(&e).is_none()), "{gone}");
        }
    }
}

#[test]
fn a_file_that_is_locked_has_no_other_name() {
    use crate::fs::{FileSystem, OsFiles};
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    std::fs::hard_link(folder.path().join("out/file"), folder.path().join("top/clock")).unwrap();
    let files = OsFiles::open(folder.path().join("top")).unwrap();
    let mut locked = files.lock("clock").unwrap();
    assert_eq!(locked.read().unwrap(), b"out/file", "what it says is kept");
    locked.write(b"ours").unwrap();
    assert_eq!(std::fs::read(folder.path().join("out/file")).unwrap(), b"out/file");
    assert_eq!(std::fs::read(folder.path().join("top/clock")).unwrap(), b"ours");
}
