use std::path::{Path, PathBuf};

use easyroutine_sites::{Point, Site};

use crate::batch::Batch;
use crate::error::Result;
use crate::load::{LoadOptions, load};
use crate::pass::Reg;
use crate::positions::{Context, Row};
use crate::request::Request;
use crate::source::{FilesKind, ModelFiles};
use crate::tap::{Tap, Value, Want};

/// Extra work would not change a reported number, but it would change the stream that the run leaves behind.
#[test]
fn a_run_ends_after_the_last_wanted_point() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny");
    let mut n_points = 0;
    for folder in std::fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path()) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let files =
            ModelFiles { kind: FilesKind::Folder(folder), name: name.clone(), commit: None, adapter: None };
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

/// Cuts a file short when the run reaches a point.
struct Cut(PathBuf);

impl Tap for Cut {
    fn wants(&self, point: Point) -> Want {
        if point == Point::layer_of(Site::ResidOut, 0) || point == Point::model(Site::Logits) {
            Want::Read
        } else {
            Want::Nothing
        }
    }

    fn at(&mut self, point: Point, _: &mut Value<'_>) -> Result<()> {
        if point.site() == Site::ResidOut {
            std::fs::File::options().write(true).open(&self.0).unwrap().set_len(1000).unwrap();
        }
        Ok(())
    }
}

/// Also the run that packs the last weight, after which no file is checked any more.
#[test]
fn a_file_that_is_cut_short_during_a_run_gives_no_numbers_then_nor_later() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny");
    let mut n_errors = 0;
    for case in std::fs::read_dir(tiny).unwrap().map(|entry| entry.unwrap().path()) {
        for runs_before in [0, 2] {
            let folder = tempfile::tempdir().unwrap();
            for name in ["config.json", "model.safetensors"] {
                std::fs::copy(case.join(name), folder.path().join(name)).unwrap();
            }
            let kind = FilesKind::Folder(folder.path().to_owned());
            let files = ModelFiles { kind, name: "copy".to_owned(), commit: None, adapter: None };
            let model = load(&files, &LoadOptions::default()).unwrap();
            let batch = Batch::new(&[[5, 6, 7]]).unwrap();
            let logits = || {
                let request = Request::parse("logits", "last").unwrap();
                request.run(&model, &batch, &[Row::of(0, &[5, 6, 7])], Context::default())
            };
            for _ in 0..runs_before {
                logits().unwrap();
            }
            let during = model.forward(&batch, &mut Cut(folder.path().join("model.safetensors")));
            // A model whose weights were all packed before needs no file.
            let is_lost = during.is_err();
            let results = (0..4).map(|_| logits().map(drop));
            for result in std::iter::once(during).chain(results) {
                match result {
                    Ok(()) => assert!(!is_lost, "{}: numbers of a file that is cut short", case.display()),
                    Err(error) => {
                        assert!(is_lost && error.to_string().contains("model.safetensors"), "{error}")
                    }
                }
            }
            n_errors += usize::from(is_lost);
        }
    }
    assert!(n_errors > 40, "only {n_errors} models lost their files");
}
