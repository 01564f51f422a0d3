//! A model whose weights memory does not hold: layer by layer, with the bits of a run in memory.

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::path::Path;

use crate::common::{assert_same_bits, cases, fixtures, folder, those_of, tiny};
use easyroutine::attribution::attribution_patching;
use easyroutine::cache::{ActivationCache, Examples, Numbers, RunningMean};
use easyroutine::edit::{Edits, Intervention, Reference};
use easyroutine::extract::{Collect, End, Example, Extraction, Options, Sink, extract};
use easyroutine::generate::{GenerateOptions, Sampling, generate};
use easyroutine::gradients::Rule;
use easyroutine::load::{LoadOptions, load, open};
use easyroutine::patching::Metric;
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine::sites::Point;
use easyroutine::{Batch, ErrorKind, Model, Result, Stop, Tap, Value, Want};

/// A model of a folder that may take one byte less than its weights.
fn bounded(path: impl AsRef<Path>) -> Result<Model> {
    let options = LoadOptions { threads: Some(2), ..LoadOptions::default() };
    let opened = open(&folder(path.as_ref()), &options)?;
    let memory = Some(opened.weight_bytes(options.dtype)? - 1);
    opened.build(&LoadOptions { memory, ..options })
}

/// A tiny model, layer by layer; `None` where one of its layers and its unembedding are nearly all of it.
fn by_layer(case: &str) -> Option<Model> {
    match bounded(fixtures().join("tiny").join(case)) {
        Ok(model) => {
            assert!(model.is_by_layer(), "{case}");
            assert!(model.warnings().iter().any(|w| w.ends_with("layer by layer")), "{case}");
            Some(model)
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Memory, "{case}: {error}");
            None
        }
    }
}

/// Rows of many lengths, in no order.
fn examples(model: &Model) -> Vec<Example> {
    let length = |number: usize| 2 + number * 7 % 9;
    let ids = |number: usize| {
        (0..length(number)).map(|i| ((number * 31 + i * 17) % model.arch().vocabulary) as u32).collect()
    };
    (0..9).map(|number| Example { number, ids: ids(number), ..Example::default() }).collect()
}

fn request(activations: &str, positions: &str) -> Request {
    Request::parse(activations, positions).unwrap()
}

#[track_caller]
fn assert_same(place: &str, ours: &ActivationCache, theirs: &ActivationCache) {
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{place}");
    for (key, kept) in ours.iter() {
        let other = theirs.get(key).unwrap();
        assert_eq!(kept.row_shapes, other.row_shapes, "{place}: {key}");
        match (&kept.data, &other.data) {
            (Numbers::I64(ours), Numbers::I64(theirs)) => assert_eq!(ours, theirs, "{place}: {key}"),
            _ => assert_same_bits(format!("{place}: {key}"), kept.values(), other.values()),
        }
    }
}

#[test]
fn one_layer_at_a_time_gives_the_same_bits() {
    let mut n_run = 0;
    for case in cases("tiny") {
        let (whole, Some(bounded)) = (tiny(&case), by_layer(&case)) else { continue };
        n_run += 1;
        let keys = "input_ids,input_embeddings,resid_in_*,resid_out_*,attn_out_*,mlp_out_*,pattern_*,head_out_*,last_layernorm,logits,score";
        for (keys, positions) in [(keys, "all"), ("resid_mid_0,logits,score", "last"), ("resid_in_1", "0")] {
            let asked = request(&those_of(&whole, keys), positions);
            let options = Options { batch_tokens: 20, window: 5, ..Options::default() };
            let theirs = extract(&whole, &asked, &examples(&whole), options).unwrap();
            let ours = extract(&bounded, &asked, &examples(&whole), options).unwrap();
            assert_same(&format!("{case}, {keys}"), &ours, &theirs);
            // One batch, and the same again.
            let row: Vec<u32> = (1..9).collect();
            let one = crate::common::extract(
                &bounded,
                std::slice::from_ref(&row),
                &those_of(&whole, keys),
                positions,
            );
            let other = crate::common::extract(&whole, &[row], &those_of(&whole, keys), positions);
            assert_same(&case, &one, &other);
        }
        let row = vec![(1..9).collect()];
        let both = |model| crate::exact::both(model, &row);
        assert!(both(&whole) == both(&bounded), "{case}: also in f64");
    }
    assert!(n_run > 40, "{n_run} of the tiny models could run layer by layer");
}

/// A model in memory keeps records of its blocks for the way back; layer by layer, each block runs a second time.
#[test]
fn gradients_of_blocks_that_run_again_have_the_same_bits() {
    let (target, base) = (vec![5, 90, 17, 200, 31, 8, 64], vec![44, 3, 121, 9, 77, 150, 21]);
    let (target, base) = ([Row::of(0, &target)], [Row::of(0, &base)]);
    let metric = [Metric::LogitDiff { answer: 7, against: 100 }];
    let mut n_run = 0;
    for case in cases("tiny") {
        let (whole, Some(bounded)) = (tiny(&case), by_layer(&case)) else { continue };
        if whole.unembedding().is_err() {
            continue;
        }
        n_run += 1;
        for keys in ["resid_in_*,z_L*,mlp_hidden_*,pattern_L1H*,head_keys_L0H*,mixer_out_*", "resid_out_1"] {
            let asked = request(&those_of(&whole, keys), "all");
            let scores = |model: &Model| {
                let (context, stop) = (Context::default(), Stop::Never);
                let found = attribution_patching(
                    model,
                    &base,
                    &target,
                    &asked,
                    &metric,
                    Rule::Gradient,
                    context,
                    stop,
                )
                .unwrap();
                let scores = found.scores.into_iter().flat_map(|(_, kept)| kept.values().to_vec());
                (scores.collect::<Vec<_>>(), found.target)
            };
            let (ours, theirs) = (scores(&bounded), scores(&whole));
            assert_same_bits(format!("{case}, {keys}"), &ours.0, &theirs.0);
            assert_eq!(ours.1, theirs.1, "{case}");
        }
    }
    assert!(n_run > 40, "{n_run}");
}

#[test]
fn what_else_runs_has_the_same_bits_too() {
    for case in ["llama", "gemma2", "qwen3"] {
        let (whole, Some(bounded)) = (tiny(case), by_layer(case)) else { panic!("{case} does not fit") };
        let options =
            GenerateOptions { max_new_tokens: 6, sampling: Sampling::Greedy, ends: Vec::new(), seed: 0 };
        let ids = |model: &Model| {
            let rows: [&[u32]; 2] = [&[3, 1, 4], &[1, 5]];
            let generated = generate(model, &rows, &options, (), |_| Ok(ControlFlow::Continue(()))).unwrap();
            generated.into_iter().map(|row| row.ids).collect::<Vec<_>>()
        };
        assert_eq!(ids(&whole), ids(&bounded), "{case}");
    }
}

#[test]
fn means_over_examples_are_the_same_to_the_bit() {
    for case in ["llama", "gemma2"] {
        let (whole, Some(bounded)) = (tiny(case), by_layer(case)) else { panic!("{case} does not fit") };
        let mut asked = request("pattern_*", "last,0");
        asked.reduction.examples = Examples::Mean;
        let options = Options { batch_tokens: 12, ..Options::default() };
        let theirs = extract(&whole, &asked, &examples(&whole), options).unwrap();
        assert_same(case, &extract(&bounded, &asked, &examples(&whole), options).unwrap(), &theirs);
    }
}

/// Writes down which batch was where.
struct Log<'a> {
    batch: usize,
    seen: &'a RefCell<Vec<(usize, usize)>>,
}

impl Tap for Log<'_> {
    fn wants(&self, point: Point) -> Want {
        if point.to_string().starts_with("resid_in_") { Want::Read } else { Want::Nothing }
    }

    fn at(&mut self, point: Point, _: &mut Value<'_>) -> Result<()> {
        self.seen.borrow_mut().push((point.layer().unwrap(), self.batch));
        Ok(())
    }
}

#[test]
fn many_batches_go_through_a_layer_before_the_next_is_read() {
    let model = by_layer("llama").unwrap();
    let (asked, rows) = (request("logits", "last"), examples(&model));
    let seen = RefCell::new(Vec::new());
    let batches = Cell::new(0);
    let options = Options { batch_tokens: 1, ..Options::default() };
    let extraction = Extraction::new(&model, &asked, &rows, options).unwrap();
    let mut first = |_: &Batch, _: &[Row<'_>]| -> Result<Box<dyn Tap + '_>> {
        batches.set(batches.get() + 1);
        Ok(Box::new(Log { batch: batches.get(), seen: &seen }))
    };
    extraction.run_after(&mut first, &mut Collect::default()).unwrap();
    assert_eq!(batches.get(), rows.len());
    let seen = seen.borrow();
    assert_eq!(seen.len(), rows.len() * model.arch().layers.len());
    // Within a pass all batches have passed a layer before the first comes to the next.
    let changes = seen.windows(2).filter(|pair| pair[0].0 != pair[1].0).count();
    assert!(changes + 1 < rows.len(), "{seen:?}");
}

/// Keeps rows, and does something when the first come.
struct After<F> {
    collect: Collect,
    act: Option<F>,
}

impl<F: FnOnce()> Sink for After<F> {
    fn rows(&mut self, numbers: &[usize], cache: ActivationCache) -> Result<()> {
        if let Some(act) = self.act.take() {
            act();
        }
        self.collect.rows(numbers, cache)
    }

    fn means(&mut self, means: &RunningMean) -> Result<()> {
        self.collect.means(means)
    }
}

#[test]
fn a_run_that_is_stopped_keeps_whole_passes() {
    let model = by_layer("llama").unwrap();
    let rows = examples(&model);
    let asked = request("resid_out_*", "all");
    let calls = Cell::new(0);
    let mut kept = Vec::new();
    for most in [0, 1, 5, 30, 70] {
        calls.set(0);
        let is_due = || {
            calls.set(calls.get() + 1);
            calls.get() > most
        };
        let options = Options { batch_tokens: 8, stop: Stop::When(&is_due), ..Options::default() };
        let mut collect = Collect::default();
        let end = Extraction::new(&model, &asked, &rows, options).unwrap().run(&mut collect).unwrap();
        let (numbers, cache) = collect.finish().unwrap();
        assert_eq!(end == End::Finished, numbers.len() == rows.len(), "{most}");
        if !numbers.is_empty() {
            let done: Vec<Example> = numbers.iter().map(|number| rows[*number].clone()).collect();
            let other = extract(&tiny("llama"), &asked, &done, Options::default()).unwrap();
            assert_same(&format!("stopped after {most}"), &cache, &other);
        }
        kept.push(numbers.len());
    }
    assert!(kept[0] == 0 && kept.is_sorted() && kept[4] > 0, "{kept:?}");
}

#[test]
fn a_file_that_changes_between_two_passes_is_refused() {
    for what in ["written to", "cut short"] {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fixtures().join("tiny/llama")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
            }
        }
        let weights = copy.path().join("model.safetensors");
        let model = bounded(copy.path()).unwrap();
        let act = || {
            let file = OpenOptions::new().write(true).open(&weights).unwrap();
            match what {
                "cut short" => file.set_len(4096).unwrap(),
                _ => file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap(),
            }
        };
        let asked = request("resid_out_*,pattern_*", "all");
        let rows = examples(&model);
        let options = Options { batch_tokens: 1, ..Options::default() };
        let mut sink = After { collect: Collect::default(), act: Some(act) };
        let error = Extraction::new(&model, &asked, &rows, options).unwrap().run(&mut sink).unwrap_err();
        assert!(error.to_string().contains("model.safetensors"), "{what}: {error}");
        assert!(
            model.forward(&Batch::new(&[[1_u32]]).unwrap(), &mut ()).is_ok(),
            "nothing is read for nothing"
        );
        let again = extract(&model, &asked, &rows, options).unwrap_err();
        assert!(again.to_string().contains("model.safetensors"), "{what}: {again}");
    }
}

#[test]
fn a_folder_in_which_nothing_can_wait_is_named() {
    let model = by_layer("llama").unwrap();
    let options =
        Options { batch_tokens: 8, folder: Some(Path::new("/no/such/folder")), ..Options::default() };
    let rows: Vec<Example> = (0..40).flat_map(|_| examples(&model)).collect();
    let error = extract(&model, &request("input_embeddings", "0"), &rows, options);
    assert!(error.is_ok(), "nothing waits where no layer runs");
    let error = extract(&model, &request("logits", "0"), &rows, options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().starts_with("/no/such/folder: cannot write the activations"), "{error}");
    assert!(error.hint_text().unwrap().contains("--memory"));
}

#[test]
fn memory_for_less_than_a_layer_is_refused_with_what_it_takes() {
    let files = folder(fixtures().join("tiny/llama"));
    let error = load(&files, &LoadOptions { memory: Some(1000), ..LoadOptions::default() }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Memory);
    assert!(error.to_string().contains("layer 0 needs"), "{error}");
    let whole = load(&files, &LoadOptions { memory: Some(1 << 30), ..LoadOptions::default() }).unwrap();
    assert!(!whole.is_by_layer(), "weights that fit stay");
}

#[test]
fn edits_change_what_the_next_layers_see() {
    let (whole, bounded) = (tiny("llama"), by_layer("llama").unwrap());
    let edits = ["resid_out_0@last=0".parse::<Intervention<Reference>>().unwrap().load().unwrap()];
    let asked = request("logits", "last");
    let rows = examples(&whole);
    let run = |model: &Model| {
        let mut first = |_: &Batch, rows: &[Row<'_>]| -> Result<Box<dyn Tap>> {
            Ok(Box::new(Edits::new(&edits, model.arch(), rows, Context::default())?))
        };
        let mut collect = Collect::default();
        let extraction = Extraction::new(model, &asked, &rows, Options::default()).unwrap();
        extraction.run_after(&mut first, &mut collect).unwrap();
        collect.finish().unwrap().1
    };
    assert_same("edited", &run(&bounded), &run(&whole));
}
