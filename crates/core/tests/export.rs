//! An interrupted export leaves nothing behind.

use std::path::Path;

use easyroutine::load::{LoadOptions, open};
use easyroutine::source::{ResolveOptions, resolve};
use easyroutine::{ErrorKind, Stop};

#[test]
fn an_export_that_is_stopped_leaves_nothing_and_the_next_one_is_whole() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/llama");
    let files = resolve(model.to_str().unwrap(), &ResolveOptions::default()).unwrap();
    let opened = open(&files, &LoadOptions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let names = || std::fs::read_dir(folder.path()).unwrap().count();
    let flag = std::cell::Cell::new(true);
    let is_due = || flag.get();
    let stop = Stop::When(&is_due);
    let error = opened.export(folder.path(), easyroutine::Dtype::F32, stop).unwrap_err();
    assert_eq!((error.kind(), names()), (ErrorKind::Interrupted, 0), "{error}");
    flag.set(false);
    opened.export(folder.path(), easyroutine::Dtype::F32, stop).unwrap();
    assert_eq!(names(), 2);
    let again = resolve(folder.path().to_str().unwrap(), &ResolveOptions::default()).unwrap();
    assert_eq!(
        open(&again, &LoadOptions::default()).unwrap().parameters().unwrap(),
        opened.parameters().unwrap()
    );
}
