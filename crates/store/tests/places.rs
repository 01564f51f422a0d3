//! Indices of runs, such as `-1` for the most recent: valid only if every run could be read.

use crate::common;

use std::fs;
use std::path::PathBuf;

use common::{contents, fast_folder, provenance};
use easyroutine_store::{ActivationLoader, ActivationSaver, ErrorKind, Query, QueryResult, Which};
use tempfile::TempDir;

struct Place {
    base: TempDir,
    index: TempDir,
    paths: Vec<String>,
}

impl Place {
    fn new() -> Self {
        let (base, index) = (fast_folder(), fast_folder());
        let saver = ActivationSaver::new(base.path(), "e").unwrap();
        let paths = (0..3).map(|seed| saver.save(&contents(seed), &provenance(seed)).unwrap()).collect();
        Place { base, index, paths }
    }

    fn query(&self) -> QueryResult {
        let loader = ActivationLoader::new(self.base.path(), "e").unwrap();
        loader.indexed_in(self.index.path()).query(&Query::default()).unwrap()
    }

    fn record(&self, run: usize) -> PathBuf {
        self.base.path().join(&self.paths[run]).join("metadata.json")
    }

    /// Number of runs in the store.
    fn left(&self) -> usize {
        self.paths.iter().filter(|path| self.base.path().join(path).exists()).count()
    }
}

/// The name of a kind of damage, and a function that does it to a run's record.
type Damage = (&'static str, fn(&Place, usize));

/// Ways in which the record of a run can be unreadable.
fn damages() -> Vec<Damage> {
    let mut damages: Vec<Damage> = vec![
        ("a flipped bit", |place, run| {
            let mut text = fs::read(place.record(run)).unwrap();
            text[0] ^= 1;
            fs::write(place.record(run), text).unwrap();
        }),
        ("a flipped bit in the name of what tells ours from others", |place, run| {
            let text = fs::read_to_string(place.record(run)).unwrap();
            fs::write(place.record(run), text.replacen("\"_store\"", "\"_stope\"", 1)).unwrap();
        }),
        ("cut short", |place, run| fs::write(place.record(run), "").unwrap()),
    ];
    #[cfg(unix)]
    damages.push(("a link", |place, run| {
        let kept = place.base.path().join(".kept");
        fs::rename(place.record(run), &kept).unwrap();
        std::os::unix::fs::symlink(kept, place.record(run)).unwrap();
    }));
    damages
}

#[test]
fn places_are_refused_while_a_run_can_t_be_read_and_it_is_named() {
    for (what, damage) in damages() {
        for broken in 0..3 {
            let place = Place::new();
            assert_eq!(place.query().load(-1).unwrap().path(), place.paths[2]);
            damage(&place, broken);
            let mut found = place.query();
            assert_eq!(found.len(), 2, "{what}: {found}");
            for index in [-1, -2, -3, i64::MIN] {
                let error = found.load(index).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Damaged, "{what}: {error}");
                assert!(error.to_string().contains(&place.paths[broken]), "{what}: {error}");
                let hint = error.hint_text().unwrap();
                assert!(hint.contains("runs rm") && hint.contains(found.get_paths()[1]), "{what}: {hint}");
                assert!(found.slice(0..2).get(index).is_err());
            }
            for index in [-1, 0, 1] {
                assert!(found.remove(index).is_err(), "{what}");
                assert!(found.update_run_experiment(index, "f").is_err(), "{what}");
                assert!(found.path(index).is_err(), "{what}");
            }
            assert_eq!(place.left(), 3, "{what}: nothing was touched");
            // A readable run is still found, by its name and by its number in the list.
            let whole = found.get_paths()[1].to_owned();
            assert_eq!(found.load(1).unwrap().path(), whole);
            assert_eq!(found.load(whole.as_str()).unwrap().path(), whole);
            // So is the broken one, by what is known of it.
            let error = found.load(place.paths[broken].as_str()).unwrap_err();
            assert!(error.to_string().contains(&place.paths[broken]), "{what}: {error}");
            // Three runs have this prefix, readable or not; two of their ids are known.
            let beginning = &place.paths[0][..20];
            assert_eq!(found.get(beginning).unwrap_err().kind(), ErrorKind::Ambiguous, "{what}");
            let id = found.get(0).unwrap().metadata.run_id().to_owned();
            assert_eq!(found.get(id.as_str()).unwrap().metadata.run_id(), id);
            assert_eq!(found.get(&id[..id.len() - 1]).unwrap_err().kind(), ErrorKind::Damaged, "{what}");
            found.remove(place.paths[broken].as_str()).unwrap();
            assert_eq!(place.left(), 2, "{what}");
            assert!(place.query().load(-1).is_ok(), "{what}: what can't be read is gone");
        }
    }
}

#[test]
fn runs_of_the_original_beside_ours_are_none_of_ours_and_are_not_counted() {
    let place = Place::new();
    let original = place.base.path().join("e/org_tiny/2023-04-15_14-30-25");
    fs::create_dir(&original).unwrap();
    for file in ["metadata.json", "tensor.pt"] {
        fs::write(original.join(file), "{}").unwrap();
    }
    let found = place.query();
    assert_eq!((found.len(), found.problems().len()), (3, 1));
    assert_eq!(found.load(Which::Index(-1)).unwrap().path(), place.paths[2]);
}
