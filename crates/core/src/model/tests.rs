use std::path::Path;

use crate::batch::Batch;
use crate::load::{LoadOptions, load};
use crate::pass::Reg;
use crate::positions::{Context, Row};
use crate::request::Request;
use crate::source::{FilesKind, ModelFiles};

/// Needless work changes no number that is reported, but it would move the stream that the run leaves behind.
#[test]
fn a_run_ends_after_the_last_wanted_point() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny");
    let mut n_points = 0;
    for folder in std::fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path()) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let files = ModelFiles { kind: FilesKind::Folder(folder), name: name.clone(), commit: None };
        let model = load(&files, &LoadOptions::default()).unwrap();
        let ids = [5, 6, 7];
        let row = Row::of(0, &ids);
        for key in ["resid_in_1", "resid_mid_1", "resid_out_1"] {
            let request = Request::parse(key, "last").unwrap();
            let batch = Batch::new(&[ids]).unwrap();
            let Ok(cache) = request.run(&model, &batch, &[row], Context::default()) else {
                assert_eq!(key, "resid_mid_1", "{name}: every block has {key}");
                continue;
            };
            let registers = model.registers.lock().unwrap();
            let left_behind = registers.last().unwrap().get(Reg::Stream).rows();
            assert_eq!(
                cache.get(key).unwrap().values(),
                left_behind.row(left_behind.n_rows() - 1),
                "{name}: {key}"
            );
            n_points += 1;
        }
    }
    assert!(n_points > 60, "only {n_points} points were looked at");
}
