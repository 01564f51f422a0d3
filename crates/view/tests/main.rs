//! Pictures and tables in every format. One program for all tests of this crate, since each links the whole crate.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

mod attention;
mod bars;
mod circuit;
mod features;
mod graph;
mod grid;
mod pictures;
mod steering;
mod table;

/// Compares a text with the committed one, or rewrites that if `EASYROUTINE_BLESS` is set.
#[track_caller]
fn expect(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/expected").join(name);
    if std::env::var_os("EASYROUTINE_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{name}: {e}; EASYROUTINE_BLESS=1 writes it"));
    assert!(expected == text, "{name} differs; EASYROUTINE_BLESS=1 accepts it:\n{text}");
}
