//! Files that are cut short while they are mapped.
#![cfg(any(target_os = "linux", target_vendor = "apple"))]
#![allow(clippy::print_stdout, reason = "the process that is looked at says what it read")]

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use easyroutine_files::MappedFile;

const SIZE: usize = 1 << 20;

fn file(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, vec![7u8; SIZE]).unwrap();
    path
}

fn cut(path: &Path, length: u64) {
    File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

#[test]
fn what_is_gone_reads_as_zeros_and_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for length in [0, 1, 100_000] {
        let path = file(folder.path(), "weights");
        let opened = MappedFile::open(&path).unwrap();
        let other =
            MappedFile::from_file(&File::open(file(folder.path(), "whole")).unwrap(), "whole").unwrap();
        opened.check_unchanged().unwrap();
        assert_eq!(opened.bytes()[SIZE / 2], 7);
        let by_handle = MappedFile::from_file(&File::open(&path).unwrap(), "by handle").unwrap();
        cut(&path, length);
        // From several threads at once, faulting in different places.
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (opened, by_handle) = (&opened, &by_handle);
                scope.spawn(move || {
                    for at in (thread * 1000..SIZE).step_by(8000) {
                        let gone = at as u64 >= length.next_multiple_of(65536);
                        let bytes = [opened.bytes()[at], by_handle.bytes()[at]];
                        assert!(!gone || bytes == [0, 0], "{at}: {bytes:?}");
                    }
                });
            }
        });
        for (map, name) in [(&opened, "weights"), (&by_handle, "by handle")] {
            let error = map.check_unchanged().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        // Released pages do not come back either.
        opened.drop_pages(0..SIZE);
        assert_eq!(opened.bytes()[SIZE - 1], 0);
        other.check_unchanged().unwrap();
        assert!(other.bytes().iter().all(|byte| *byte == 7));
    }
    // A dropped map leaves nothing behind: the next one starts afresh.
    let fresh = MappedFile::open(file(folder.path(), "weights")).unwrap();
    assert!(fresh.bytes().iter().all(|byte| *byte == 7));
    fresh.check_unchanged().unwrap();
}

/// Touches a missing page of a map that is not ours: not this crate's business.
fn touch_anothers_map() {
    let folder = tempfile::tempdir().unwrap();
    let _ours = MappedFile::open(file(folder.path(), "ours")).unwrap();
    let path = file(folder.path(), "another's");
    // SAFETY: the map is only read here; cutting its file short is the point.
    let map = unsafe { memmap2::Mmap::map(&File::open(&path).unwrap()) }.unwrap();
    cut(&path, 0);
    println!("{}", map[SIZE / 2]);
}

#[test]
fn the_signal_of_anothers_map_ends_the_process_as_ever() {
    const CHILD: &str = "EASYROUTINE_TEST_TOUCHES";
    if std::env::var_os(CHILD).is_some() {
        return touch_anothers_map();
    }
    let name = "cut_short::the_signal_of_anothers_map_ends_the_process_as_ever";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let status = child.args(["--exact", name]).env(CHILD, "1").output().unwrap().status;
    const SIGBUS: [i32; 2] = [7, 10];
    assert!(status.signal().is_some_and(|signal| SIGBUS.contains(&signal)), "{status}");
}
