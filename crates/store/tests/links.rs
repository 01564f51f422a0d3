//! Links in a store: wherever one is, and whatever is done to the store, its target is not touched.
#![cfg(unix)]

use crate::common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use common::{contents, fast_folder, provenance};
use easyroutine_store::{
    ActivationLoader, ActivationSaver, Begun, Edit, Error, Joining, OpenRun, Plan, Query, Store, Sweep,
};
use tempfile::TempDir;

const SAID: &str = "is a symbolic link; a store does not follow links";
const MODEL: &str = "e/org_tiny";

/// A store with a committed run and an open one, and a folder next to it.
struct Place {
    base: TempDir,
    outside: TempDir,
    index: TempDir,
    committed: String,
    open: String,
}

fn plan() -> Plan {
    Plan { n_examples: 6, unit: 3, spec: serde_json::Map::new() }
}

fn begin(saver: &ActivationSaver, joining: Joining) -> Result<OpenRun, Error> {
    match saver.begin("job", &plan(), &provenance(1), joining)? {
        Begun::Open(run) => Ok(run),
        Begun::Committed(path) => panic!("committed: {path}"),
    }
}

impl Place {
    fn new() -> Self {
        let (base, outside, index) = (fast_folder(), fast_folder(), fast_folder());
        let saver = ActivationSaver::new(base.path(), "e").unwrap();
        let committed = saver.save(&contents(1), &provenance(1)).unwrap();
        saver.store().edit(&committed, &[Edit::Tag("edited".to_owned())], None).unwrap();
        let run = begin(&saver, Joining::New).unwrap();
        run.put(0, &contents(2)).unwrap();
        // A torn receipt is deleted by whichever process finds it.
        fs::write(base.path().join(run.path()).join("parts/00001.json"), "{").unwrap();
        let open = run.path().to_owned();
        drop(run);
        fs::create_dir_all(base.path().join(".easyroutine/trash/left/run/data")).unwrap();
        Place { base, outside, index, committed, open }
    }

    /// Moves what is at a path out of the store and puts a link to it there; if nothing is there, links to a run. Code
    /// that follows the link thus finds just what it looks for.
    fn link(&self, path: &str) {
        let (place, out) = (self.base.path().join(path), self.outside.path().join("there"));
        if fs::symlink_metadata(&place).is_ok() {
            fs::rename(&place, &out).unwrap();
        } else {
            fs::create_dir_all(out.join("data")).unwrap();
            for file in ["metadata.json", "data/00000-aaaa.safetensors", ".tmp-old"] {
                fs::write(out.join(file), "{").unwrap();
            }
        }
        if out.is_dir() {
            fs::write(out.join(".tmp-old"), "unfinished").unwrap();
        }
        symlink(&out, place).unwrap();
    }

    fn store(&self) -> Result<Store, Error> {
        Store::open(self.base.path())
    }

    fn saver(&self, experiment: &str) -> Result<ActivationSaver, Error> {
        ActivationSaver::new(self.base.path(), experiment)
    }
}

/// Everything below a folder: contents, links, and modification times.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        found.insert(folder.clone(), (Vec::new(), folder.symlink_metadata().unwrap().modified().unwrap()));
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let about = path.symlink_metadata().unwrap();
            let content = match about.file_type() {
                kind if kind.is_dir() => {
                    folders.push(path);
                    continue;
                }
                kind if kind.is_symlink() => {
                    fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
                }
                _ => fs::read(&path).unwrap(),
            };
            found.insert(path, (content, about.modified().unwrap()));
        }
    }
    found
}

/// All that a command prints.
type Command = fn(&Place) -> Result<Vec<String>, Error>;

fn problems(scan: &[easyroutine_store::Problem]) -> Vec<String> {
    scan.iter().map(|problem| format!("{}: {}", problem.path, problem.error)).collect()
}

const COMMANDS: &[(&str, Command)] = &[
    ("scan", |place| Ok(problems(&place.store()?.scan(None)?.problems))),
    ("scan of the experiment", |place| Ok(problems(&place.store()?.scan(Some("e"))?.problems))),
    ("query", |place| {
        let loader = ActivationLoader::of(place.store()?, "*").indexed_in(place.index.path());
        Ok(problems(loader.query(&Query::default())?.problems()))
    }),
    ("load", |place| place.store()?.run(&place.committed)?.read_all().map(|_| Vec::new())),
    ("verify", |place| {
        let store = place.store()?;
        let mut said = problems(&store.links()?);
        said.extend(problems(&store.scan(None)?.problems));
        for found in store.scan(None)?.runs {
            said.extend(store.run(&found.path)?.verify()?.iter().map(ToString::to_string));
        }
        Ok(said)
    }),
    ("tag", |place| {
        place.store()?.edit(&place.committed, &[Edit::Tag("x".to_owned())], None).map(|_| Vec::new())
    }),
    ("mv", |place| place.store()?.move_run(&place.committed, "other").map(|_| Vec::new())),
    ("rename", |place| place.store()?.rename_experiment("e", "other").map(|()| Vec::new())),
    ("rm", |place| place.store()?.remove(&place.committed).map(|()| Vec::new())),
    ("gc", |place| {
        let swept = place.store()?.gc(Duration::ZERO, Sweep::Delete)?;
        let cleared = swept.garbage.iter().map(|garbage| format!("{}: {}", garbage.path, garbage.what));
        Ok(problems(&swept.problems).into_iter().chain(cleared).collect())
    }),
    ("save", |place| place.saver("e")?.save(&contents(3), &provenance(3)).map(|_| Vec::new())),
    ("resume", |place| {
        let run = begin(&place.saver("e")?, Joining::Resume)?;
        for unit in run.missing()? {
            run.put(unit, &contents(4))?;
        }
        run.commit(|_| {}).map(|_| Vec::new())
    }),
    ("commit", |place| match place.store()?.begun("e", "job")? {
        Begun::Open(run) => {
            for unit in run.missing()? {
                run.put(unit, &contents(4))?;
            }
            run.commit(|_| {}).map(|_| Vec::new())
        }
        Begun::Committed(path) => panic!("committed: {path}"),
    }),
    ("import", |place| {
        let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/store/original");
        let imported = place.store()?.import(&original)?;
        Ok(imported.into_iter().filter_map(|run| run.to.err()).map(|error| error.to_string()).collect())
    }),
    ("import from it", |place| {
        let other = fast_folder();
        let imported = Store::create(other.path())?.import(place.base.path())?;
        Ok(imported.into_iter().filter_map(|run| run.to.err()).map(|error| error.to_string()).collect())
    }),
];

/// Each path in a store, and the commands that need it: they report that it is a link.
fn places(place: &Place) -> Vec<(String, Vec<&'static str>)> {
    let everything: Vec<&str> =
        COMMANDS.iter().map(|(name, _)| *name).filter(|name| *name != "import from it").collect();
    let (committed, open) = (&place.committed, &place.open);
    let shard =
        fs::read_dir(place.base.path().join(committed).join("data")).unwrap().next().unwrap().unwrap();
    let shard = format!("{committed}/data/{}", shard.file_name().into_string().unwrap());
    let looks = ["scan", "scan of the experiment", "query", "verify"];
    let with_looks = |more: &[&'static str]| looks.iter().chain(more).copied().collect::<Vec<_>>();
    vec![
        (".easyroutine".into(), everything.clone()),
        (".easyroutine/store.json".into(), everything),
        (".easyroutine/clock".into(), vec!["save", "verify", "import"]),
        (".easyroutine/trash".into(), vec!["rm", "gc", "verify"]),
        (".easyroutine/trash/L".into(), vec!["gc"]),
        (
            "e".into(),
            with_looks(&[
                "load",
                "tag",
                "mv",
                "rename",
                "rm",
                "save",
                "resume",
                "commit",
                "gc",
                "import from it",
            ]),
        ),
        (
            MODEL.into(),
            with_looks(&["load", "tag", "mv", "rm", "save", "resume", "commit", "gc", "import from it"]),
        ),
        (format!("{MODEL}/linked"), with_looks(&["gc", "import from it"])),
        (format!("{MODEL}/.tmp-linked"), vec!["gc"]),
        (format!("{MODEL}/.open-job.json"), vec!["resume", "commit", "gc"]),
        (committed.clone(), with_looks(&["load", "tag", "mv", "rm", "gc", "import from it"])),
        (format!("{committed}/metadata.json"), with_looks(&["load", "tag", "gc"])),
        (format!("{committed}/.lock"), vec!["tag", "verify"]),
        (format!("{committed}/data"), vec!["load", "verify", "gc"]),
        (format!("{committed}/parts"), vec!["verify", "gc"]),
        (shard, vec!["load", "verify"]),
        (open.clone(), vec!["resume", "commit", "gc"]),
        (format!("{open}/data"), vec!["resume", "commit", "gc"]),
        (format!("{open}/parts"), vec!["resume", "commit", "gc"]),
    ]
}

#[test]
fn what_a_link_leads_to_is_never_touched_whatever_is_done_and_wherever_it_stands() {
    let mut silent = Vec::new();
    for (number, (_, needs)) in places(&Place::new()).into_iter().enumerate() {
        for (name, command) in COMMANDS {
            let place = Place::new();
            let path = places(&place)[number].0.clone();
            place.link(&path);
            let before = snapshot(place.outside.path());
            let said = command(&place);
            assert_eq!(snapshot(place.outside.path()), before, "{name}, with a link at {path}: {said:?}");
            let says = match &said {
                Ok(said) => said.iter().any(|said| said.contains("symbolic link")),
                Err(error) => error.to_string().contains(SAID),
            };
            if needs.contains(name) && !says {
                silent.push(format!("{name}, with a link at {path}: {said:?}"));
            }
        }
    }
    assert!(silent.is_empty(), "not a word of it:\n{}", silent.join("\n"));
}

#[test]
fn the_folder_of_a_store_itself_may_be_named_by_a_link() {
    let place = Place::new();
    let named = place.outside.path().join("named");
    symlink(place.base.path(), &named).unwrap();
    let store = Store::open(&named).unwrap();
    assert_eq!(store.scan(None).unwrap().runs.len(), 1);
    ActivationSaver::new(&named, "e").unwrap().save(&contents(2), &provenance(2)).unwrap();
    store.remove(&place.committed).unwrap();
    assert_eq!(place.store().unwrap().scan(None).unwrap().runs.len(), 1);
}

/// Swaps folders for links and back, as fast as possible.
fn swapping(targets: &[PathBuf], canary: &Path, aside: &Path, stop: &AtomicBool) -> u64 {
    let mut swaps = 0;
    while !stop.load(Ordering::Relaxed) {
        for (number, folder) in targets.iter().enumerate() {
            let kept = aside.join(number.to_string());
            if fs::rename(folder, &kept).is_err() {
                continue;
            }
            let linked = symlink(canary, folder).is_ok();
            std::hint::spin_loop();
            // The link may have been detected and removed.
            if linked {
                let _ = fs::remove_file(folder);
            }
            let _ = fs::rename(&kept, folder);
            swaps += 1;
        }
    }
    swaps
}

#[test]
fn a_folder_that_becomes_a_link_while_it_is_cleared_away_leads_nowhere() {
    for by_gc in [true, false] {
        let (base, outside, aside) = (fast_folder(), fast_folder(), fast_folder());
        let canary = outside.path().join("canary");
        fs::create_dir_all(canary.join("data")).unwrap();
        for number in 0..50 {
            fs::write(canary.join(format!("{number}.txt")), "mine").unwrap();
            fs::write(canary.join(format!("data/{number}.txt")), "mine").unwrap();
        }
        let before = snapshot(&canary);
        let store = Store::create(base.path()).unwrap();
        let stop = AtomicBool::new(false);
        let begin = Instant::now();
        let mut swaps = 0;
        while begin.elapsed() < Duration::from_millis(700) {
            stop.store(false, Ordering::Relaxed);
            let runs: Vec<PathBuf> = (0..8).map(|n| base.path().join(format!("{MODEL}/{n}"))).collect();
            for run in &runs {
                let _ = fs::remove_dir_all(run);
                fs::create_dir_all(run.join("data/more")).unwrap();
                for number in 0..10 {
                    fs::write(run.join(format!("data/{number}.safetensors")), "x").unwrap();
                }
                if !by_gc {
                    fs::write(run.join("metadata.json"), "{}").unwrap();
                }
            }
            let mut targets: Vec<PathBuf> = runs.iter().map(|run| run.join("data")).collect();
            targets.extend(runs.iter().map(|run| run.join("data/more")));
            targets.push(base.path().join(".easyroutine/trash"));
            std::thread::scope(|scope| {
                let swapper = scope.spawn(|| swapping(&targets, &canary, aside.path(), &stop));
                for _ in 0..5 {
                    // Whether it succeeds is chance.
                    if by_gc {
                        let _ = store.gc(Duration::ZERO, Sweep::Delete);
                    } else {
                        (0..8).for_each(|n| drop(store.remove(&format!("{MODEL}/{n}"))));
                    }
                }
                stop.store(true, Ordering::Relaxed);
                swaps += swapper.join().unwrap();
            });
            let _ = fs::remove_dir_all(aside.path());
            fs::create_dir_all(aside.path()).unwrap();
        }
        assert_eq!(snapshot(&canary), before, "by gc: {by_gc}");
        assert!(swaps > 100, "only {swaps} swaps");
    }
}
