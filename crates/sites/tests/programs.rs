//! Tests that are modules of one program must all be declared in it: an undeclared file would never run.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::Path;

#[test]
fn every_file_of_tests_is_a_module_of_its_program() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut programs = 0;
    for entry in fs::read_dir(&crates).unwrap() {
        let folder = entry.unwrap().path();
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
        if !manifest.contains("autotests = false") {
            continue;
        }
        programs += 1;
        let main = fs::read_to_string(folder.join("tests/main.rs")).unwrap();
        for file in fs::read_dir(folder.join("tests")).unwrap() {
            let file = file.unwrap().path();
            let name = file.file_stem().unwrap().to_string_lossy().into_owned();
            let is_rust = file.extension().is_some_and(|ending| ending == "rs");
            if is_rust && name != "main" {
                let module = format!("mod {name};");
                assert!(
                    main.lines().any(|line| line == module),
                    "{}: tests/main.rs lacks `{module}`",
                    folder.display()
                );
            }
        }
    }
    assert!(programs > 0);
}
