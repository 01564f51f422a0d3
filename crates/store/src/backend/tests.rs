//! The laws that every backend obeys: one suite for all.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use super::{Backend, Local};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{EntryKind, OsFiles};
use crate::read::whole;

const RUN: &str = "experiment/org_model/2026-11-23_06-50-00-k3f9a2";

/// Checks a law on a fresh store of each kind; in a bucket too, if `EASYROUTINE_TEST_BUCKET` names one.
fn holds_on_every_backend(law: impl Fn(&dyn Backend)) {
    let folder = tempfile::tempdir().unwrap();
    law(&Local::new(Arc::new(OsFiles::open(folder.path()).unwrap())));
    #[cfg(feature = "cloud")]
    for prefix in ["", "a prefix/of two"] {
        let objects = Arc::new(object_store::memory::InMemory::new());
        law(&super::Cloud::over(objects, prefix.to_owned(), "memory://".to_owned()).unwrap());
    }
    #[cfg(feature = "cloud")]
    if let Ok(bucket) = std::env::var("EASYROUTINE_TEST_BUCKET") {
        law(&*super::connect(&format!("{bucket}/{}", crate::names::nonce())).unwrap());
    }
}

fn put(backend: &dyn Backend, path: &str, content: &[u8]) -> Result<()> {
    let mut upload = backend.upload(path)?;
    upload.write_all(content).unwrap();
    upload.finish()
}

fn read(backend: &dyn Backend, path: &str) -> Result<Vec<u8>> {
    whole(&*backend.open(path)?, path)
}

fn names(backend: &dyn Backend, folder: &str) -> Vec<String> {
    let entries = backend.list(folder).unwrap().into_iter();
    entries.map(|entry| entry.name).filter(|name| !name.starts_with('.')).collect()
}

#[track_caller]
fn fails<T>(result: Result<T>, kind: ErrorKind) {
    assert_eq!(result.err().map(|e| e.kind()), Some(kind));
}

#[test]
fn a_run_is_claimed_once_and_is_a_folder_then() {
    holds_on_every_backend(|backend| {
        assert!(names(backend, "").is_empty());
        fails(backend.entry(RUN), ErrorKind::NotFound);
        backend.claim(RUN).unwrap();
        fails(backend.claim(RUN), ErrorKind::Exists);
        assert_eq!(backend.entry(RUN).unwrap().kind, EntryKind::Folder);
        assert_eq!(backend.entry("experiment").unwrap().kind, EntryKind::Folder);
        assert_eq!(names(backend, ""), ["experiment"]);
        assert_eq!(names(backend, "experiment/org_model"), ["2026-11-23_06-50-00-k3f9a2"]);
        assert!(names(backend, RUN).is_empty());
    });
}

#[test]
fn files_are_there_whole_once_they_are_finished_and_are_never_replaced() {
    holds_on_every_backend(|backend| {
        let shard = format!("{RUN}/data/00000-7f3a.safetensors");
        fails(put(backend, &shard, b"x"), ErrorKind::NotFound);
        backend.claim(RUN).unwrap();
        // Three and a half parts, where an object is uploaded in parts.
        let long: Vec<u8> = (0..(56 << 20) + 5u32).map(|i| (i % 251) as u8).collect();
        let mut upload = backend.upload(&shard).unwrap();
        upload.write_all(&long).unwrap();
        fails(backend.open(&shard), ErrorKind::NotFound);
        upload.finish().unwrap();
        let source = backend.open(&shard).unwrap();
        assert_eq!(source.size(), long.len() as u64);
        assert!(whole(&*source, "shard").unwrap() == long);
        for (offset, length) in [(0, 10), (131_070, 4), (40 << 20, 20 << 20), (long.len() - 3, 3)] {
            let mut out = vec![0; length.min(long.len() - offset)];
            source.read_at(offset as u64, &mut out).unwrap();
            assert!(out == long[offset..offset + out.len()], "{offset}");
        }
        assert!(source.read_at(long.len() as u64 - 2, &mut [0; 3]).is_err());
        // An abandoned upload leaves nothing.
        let mut upload = backend.upload(&format!("{RUN}/data/00001-aaaa.safetensors")).unwrap();
        upload.write_all(&long).unwrap();
        drop(upload);
        assert_eq!(names(backend, &format!("{RUN}/data")), ["00000-7f3a.safetensors"]);
        let manifest = format!("{RUN}/manifest.json");
        put(backend, &manifest, b"first").unwrap();
        fails(put(backend, &manifest, b"second"), ErrorKind::Exists);
        assert_eq!(read(backend, &manifest).unwrap(), b"first");
        let about = backend.entry(&manifest).unwrap();
        assert_eq!((about.kind, about.size, &*about.name), (EntryKind::File, 5, "manifest.json"));
        assert!(about.modified > 0);
        put(backend, &format!("{RUN}/data/00002-bbbb.safetensors"), b"").unwrap();
        assert_eq!(read(backend, &format!("{RUN}/data/00002-bbbb.safetensors")).unwrap(), b"");
        backend.settle(RUN).unwrap();
        assert_eq!(names(backend, RUN), ["data", "manifest.json"]);
    });
}

#[test]
fn a_record_is_published_once_by_whoever_is_first() {
    holds_on_every_backend(|backend| {
        backend.claim(RUN).unwrap();
        let record = format!("{RUN}/metadata.json");
        let won = std::thread::scope(|scope| {
            let one = |n: usize| backend.publish(&record, format!("{n}").as_bytes());
            let racing: Vec<_> = (0..8).map(|n| scope.spawn(move || (n, one(n)))).collect();
            let done = racing.into_iter().map(|thread| thread.join().unwrap());
            let (won, lost): (Vec<_>, Vec<_>) = done.partition(|(_, result)| result.is_ok());
            lost.into_iter().for_each(|(_, result)| fails(result, ErrorKind::Exists));
            won.into_iter().map(|(n, _)| n).collect::<Vec<_>>()
        });
        assert_eq!(won.len(), 1);
        assert_eq!(read(backend, &record).unwrap(), format!("{}", won[0]).as_bytes());
        fails(backend.claim(RUN), ErrorKind::Exists);
    });
}

#[test]
fn small_files_are_made_once_beside_runs_and_in_claimed_ones() {
    holds_on_every_backend(|backend| {
        for path in [".easyroutine/store.json", "experiment/org_model/.open-name.json"] {
            backend.put_new(path, b"first").unwrap();
            fails(backend.put_new(path, b"second"), ErrorKind::Exists);
            assert_eq!(read(backend, path).unwrap(), b"first");
            backend.delete_file(path).unwrap();
            fails(backend.open(path), ErrorKind::NotFound);
        }
        let receipt = format!("{RUN}/parts/00000.json");
        fails(backend.put_new(&receipt, b"x"), ErrorKind::NotFound);
        backend.claim(RUN).unwrap();
        backend.put_new(&receipt, b"x").unwrap();
        assert_eq!(names(backend, &format!("{RUN}/parts")), ["00000.json"]);
        backend.delete_folder(&format!("{RUN}/parts")).unwrap();
        fails(backend.list(&format!("{RUN}/parts")), ErrorKind::NotFound);
    });
}

#[test]
fn changes_from_many_sides_are_all_made() {
    holds_on_every_backend(|backend| {
        backend.claim(RUN).unwrap();
        let record = format!("{RUN}/metadata.json");
        backend.publish(&record, b"0").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        let number = |text: &[u8]| std::str::from_utf8(text).unwrap().parse::<u32>().unwrap();
                        let more = |text: &[u8]| Ok((number(text) + 1).to_string().into_bytes());
                        backend.update(&record, &mut { more }).unwrap();
                    }
                });
            }
        });
        assert_eq!(read(backend, &record).unwrap(), b"40");
        // A refusal changes nothing, and is not retried.
        let mut asked = 0;
        let refused = backend.update(&record, &mut |_| {
            asked += 1;
            Err(Error::new(ErrorKind::Conflict, "no"))
        });
        fails(refused, ErrorKind::Conflict);
        assert_eq!((asked, read(backend, &record).unwrap()), (1, b"40".to_vec()));
        fails(
            backend.update("experiment/org_model/none/metadata.json", &mut |_| Ok(Vec::new())),
            ErrorKind::NotFound,
        );
    });
}

#[test]
fn a_moved_run_is_at_its_new_place_alone_and_takes_no_more_files_at_the_old() {
    holds_on_every_backend(|backend| {
        let to = RUN.replace("experiment/", "other/");
        fails(backend.move_folder(RUN, &to), ErrorKind::NotFound);
        backend.claim(RUN).unwrap();
        put(backend, &format!("{RUN}/data/00000-7f3a.safetensors"), b"shard").unwrap();
        backend.publish(&format!("{RUN}/metadata.json"), b"record").unwrap();
        backend.move_folder(RUN, &to).unwrap();
        assert_eq!(read(backend, &format!("{to}/data/00000-7f3a.safetensors")).unwrap(), b"shard");
        assert_eq!(read(backend, &format!("{to}/metadata.json")).unwrap(), b"record");
        fails(backend.entry(RUN), ErrorKind::NotFound);
        fails(put(backend, &format!("{RUN}/data/00001-aaaa.safetensors"), b"late"), ErrorKind::NotFound);
        fails(backend.publish(&format!("{RUN}/metadata.json"), b"late"), ErrorKind::NotFound);
        fails(backend.settle(RUN), ErrorKind::NotFound);
        fails(backend.open(&format!("{RUN}/metadata.json")), ErrorKind::NotFound);
        // A move does not replace an existing folder.
        backend.claim(RUN).unwrap();
        backend.publish(&format!("{RUN}/metadata.json"), b"another").unwrap();
        fails(backend.move_folder(RUN, &to), ErrorKind::Exists);
        assert_eq!(read(backend, &format!("{to}/metadata.json")).unwrap(), b"record");
        assert_eq!(read(backend, &format!("{RUN}/metadata.json")).unwrap(), b"another");
        // A whole experiment.
        fails(backend.move_folder("other", "experiment"), ErrorKind::Exists);
        backend.move_folder("other", "third").unwrap();
        assert_eq!(names(backend, ""), ["experiment", "third"]);
        assert_eq!(
            read(backend, &format!("{}/metadata.json", to.replace("other/", "third/"))).unwrap(),
            b"record"
        );
    });
}

#[test]
fn a_retired_run_is_gone() {
    holds_on_every_backend(|backend| {
        fails(backend.retire(RUN), ErrorKind::NotFound);
        backend.claim(RUN).unwrap();
        put(backend, &format!("{RUN}/data/00000-7f3a.safetensors"), b"shard").unwrap();
        backend.publish(&format!("{RUN}/metadata.json"), b"record").unwrap();
        let mut neighbour = RUN.to_owned();
        neighbour.push('b');
        backend.claim(&neighbour).unwrap();
        backend.retire(RUN).unwrap();
        fails(backend.entry(RUN), ErrorKind::NotFound);
        fails(backend.list(RUN), ErrorKind::NotFound);
        fails(backend.open(&format!("{RUN}/data/00000-7f3a.safetensors")), ErrorKind::NotFound);
        // A neighbour with the same prefix in its name stays.
        assert_eq!(backend.entry(&neighbour).unwrap().kind, EntryKind::Folder);
        backend.delete_folder(&neighbour).unwrap();
        fails(backend.entry(&neighbour), ErrorKind::NotFound);
    });
}

#[test]
fn what_is_swept_is_gone_unless_it_is_found_to_be_wanted() {
    holds_on_every_backend(|backend| {
        let record = format!("{RUN}/metadata.json");
        backend.claim(RUN).unwrap();
        put(backend, &format!("{RUN}/data/00000-7f3a.safetensors"), b"shard").unwrap();
        assert!(!backend.sweep(RUN, &|_| Ok(false)).unwrap());
        let refused = backend.sweep(RUN, &|_| Err(Error::new(ErrorKind::Io, "cannot look")));
        fails(refused, ErrorKind::Io);
        // It is unchanged, and can go on.
        backend.publish(&record, b"record").unwrap();
        let is_published = |at: &str| backend.entry(&format!("{at}/metadata.json")).is_ok();
        assert!(!backend.sweep(RUN, &|at| Ok(!is_published(at))).unwrap());
        assert_eq!(read(backend, &record).unwrap(), b"record");
        assert_eq!(read(backend, &format!("{RUN}/data/00000-7f3a.safetensors")).unwrap(), b"shard");
        assert!(backend.sweep(RUN, &|_| Ok(true)).unwrap());
        fails(backend.entry(RUN), ErrorKind::NotFound);
        fails(backend.publish(&record, b"late"), ErrorKind::NotFound);
        assert_eq!(backend.empty_trash(true).unwrap(), []);
        let other = ".easyroutine/other";
        backend.put_new(other, b"one").unwrap();
        backend.delete_if(other, &|found| found == b"another").unwrap();
        assert_eq!(read(backend, other).unwrap(), b"one");
        backend.delete_if(other, &|found| found == b"one").unwrap();
        fails(backend.open(other), ErrorKind::NotFound);
        backend.delete_if(other, &|_| true).unwrap();
    });
}

#[test]
fn the_clock_gives_every_number_once_and_only_grows() {
    holds_on_every_backend(|backend| {
        backend.put_new(".easyroutine/store.json", b"{}").unwrap();
        let ticks = std::thread::scope(|scope| {
            let some = || (0..10).map(|_| backend.tick(1000).unwrap()).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(some)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(ticks.iter().all(|ticks| ticks.windows(2).all(|w| w[0] < w[1])));
        let all: BTreeSet<u64> = ticks.into_iter().flatten().collect();
        assert_eq!((all.len(), all.first(), all.last()), (40, Some(&1000), Some(&1039)));
        assert_eq!(backend.tick(5000).unwrap(), 5000);
    });
}
