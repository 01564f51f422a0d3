//! A data set through the model: the same bits in any batches, in the input's order, stopped and windowed.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{assert_same_bits, cases, those_of, tiny};
use easyroutine::cache::{ActivationCache, Examples, Numbers, PatternAverage, RunningMean};
use easyroutine::extract::{Collect, End, Example, Extraction, Options, Progress, Sink, extract};
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine::sites::Point;
use easyroutine::{Batch, Error, ErrorKind, Model, Result, Stop};

/// Rows of many lengths, unsorted.
fn examples(model: &Model) -> Vec<Example> {
    let length = |number: usize| 3 + number * 7 % 11;
    let ids = |number: usize| {
        (0..length(number)).map(|i| ((number * 31 + i * 17) % model.arch().vocabulary) as u32).collect()
    };
    (0..14).map(|number| Example { number, ids: ids(number), ..Example::default() }).collect()
}

fn request(activations: &str, positions: &str) -> Request {
    Request::parse(activations, positions).unwrap()
}

fn with_tokens(batch_tokens: usize) -> Options<'static> {
    Options { batch_tokens, ..Options::default() }
}

#[track_caller]
fn assert_same(place: &str, ours: &ActivationCache, theirs: &ActivationCache) {
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{place}");
    assert_eq!(ours.selection, theirs.selection, "{place}");
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
fn results_are_in_the_order_of_the_input_and_the_same_to_the_bit_for_any_batches() {
    for case in cases("tiny") {
        let model = tiny(&case);
        let examples = examples(&model);
        let asked =
            request(&those_of(&model, "resid_out_*,pattern_*,logits,input_ids"), "all,last,random-text-2");
        let rows: Vec<Row<'_>> = examples.iter().map(Example::row).collect();
        let ids: Vec<&[u32]> = examples.iter().map(|e| e.ids.as_slice()).collect();
        let whole = asked.run(&model, &Batch::new(&ids).unwrap(), &rows, Context::default()).unwrap();
        for batch_tokens in [1, 20, 33, 100_000] {
            for window in [3, usize::MAX] {
                let options = Options { window, ..with_tokens(batch_tokens) };
                let ours = extract(&model, &asked, &examples, options).unwrap();
                assert_same(
                    &format!("{case}, batches of {batch_tokens}, windows of {window}"),
                    &ours,
                    &whole,
                );
            }
        }
    }
}

#[test]
fn a_mean_over_examples_is_the_same_to_the_bit_for_any_batches() {
    let model = tiny("llama");
    let mut asked = request("pattern_*", "last,0");
    asked.reduction.examples = Examples::Mean;
    let examples = examples(&model);
    let whole = extract(&model, &asked, &examples, with_tokens(100_000)).unwrap();
    assert_eq!(whole.get("avg_pattern_L2H3").unwrap().shape(), Some(vec![1, 2, 2]));
    for batch_tokens in [1, 20, 33] {
        let ours = extract(&model, &asked, &examples, with_tokens(batch_tokens)).unwrap();
        assert_same(&format!("batches of {batch_tokens}"), &ours, &whole);
    }
}

#[test]
fn how_much_is_kept_is_known_before() {
    for case in cases("tiny") {
        let model = tiny(&case);
        let everything: Vec<&str> = "input_ids,input_embeddings,resid_in_*,queries_*,keys_*,values_*,head_queries_*,\
            head_keys_*,pattern_*,scores_*,projected_value_*,head_out_*,attn_out_*,mlp_in_*,mlp_hidden_*,last_layernorm,logits"
            .split(',')
            .filter(|key| request(key, "all").points(model.arch()).is_ok())
            .collect();
        let mut asked = request(&everything.join(","), "last,0:3");
        for average in [PatternAverage::None, PatternAverage::Mean] {
            let has_patterns = everything.contains(&"pattern_*");
            for over in [Examples::Each, Examples::Mean] {
                if !has_patterns && (over, average) != (Examples::Each, PatternAverage::None) {
                    continue;
                }
                asked.reduction.pattern = average;
                asked.reduction.examples = over;
                let examples = examples(&model);
                let size =
                    Extraction::new(&model, &asked, &examples, with_tokens(50)).unwrap().size().unwrap();
                let cache = extract(&model, &asked, &examples, with_tokens(50)).unwrap();
                assert_eq!(
                    size.bytes,
                    cache.memory_bytes(None).unwrap() as u64,
                    "{case}, {average:?}, {over:?}"
                );
                assert_eq!(size.logits_bytes, cache.memory_bytes(Some("logits")).unwrap() as u64);
                assert_eq!(size.keys, cache.len());
            }
        }
    }
}

/// Records what it is given; stops the run, or fails, after some batches.
#[derive(Default)]
struct Recorder<'a> {
    rows: Vec<usize>,
    windows: Vec<Range<usize>>,
    stops: Option<(usize, &'a AtomicBool)>,
    fails_after: Option<usize>,
    batches: usize,
}

impl Sink for Recorder<'_> {
    fn rows(&mut self, numbers: &[usize], cache: ActivationCache) -> Result<()> {
        assert_eq!(cache.n_rows(), numbers.len());
        self.batches += 1;
        self.rows.extend_from_slice(numbers);
        if let Some((after, stop)) = self.stops.filter(|(after, _)| *after == self.batches) {
            assert!(after > 0);
            stop.store(true, Ordering::Relaxed);
        }
        if self.fails_after == Some(self.batches) {
            return Err(Error::new(ErrorKind::Io, "disk full"));
        }
        Ok(())
    }

    fn window(&mut self, examples: Range<usize>) -> Result<()> {
        let mut so_far: Vec<usize> = self.rows.clone();
        so_far.sort_unstable();
        assert_eq!(so_far, (0..examples.end).collect::<Vec<_>>(), "every row of a window has been given");
        self.windows.push(examples);
        Ok(())
    }

    fn means(&mut self, _: &RunningMean) -> Result<()> {
        panic!("none were asked for")
    }
}

#[test]
fn rows_come_window_by_window() {
    let model = tiny("llama");
    let (asked, examples) = (request("logits", "last"), examples(&model));
    let options = Options { window: 5, ..with_tokens(20) };
    let mut recorder = Recorder::default();
    let end = Extraction::new(&model, &asked, &examples, options).unwrap().run(&mut recorder).unwrap();
    assert_eq!(end, End::Finished);
    assert_eq!(recorder.windows, [0..5, 5..10, 10..14]);
}

#[test]
fn a_stopped_run_leaves_what_is_done() {
    let model = tiny("llama");
    let (asked, examples) = (request("resid_out_1", "last"), examples(&model));
    let stop = AtomicBool::new(false);
    let is_due = || stop.load(Ordering::Relaxed);
    let options = Options { stop: Stop::When(&is_due), ..with_tokens(20) };
    let mut recorder = Recorder { stops: Some((3, &stop)), ..Recorder::default() };
    let end = Extraction::new(&model, &asked, &examples, options).unwrap().run(&mut recorder).unwrap();
    assert_eq!((end, recorder.batches), (End::Stopped, 3));

    // Stopped inside a batch, between two layers: that batch is not delivered.
    stop.store(false, Ordering::Relaxed);
    let mut collect = Collect::default();
    let extraction = Extraction::new(&model, &asked, &examples, options).unwrap();
    let batches = RefCell::new(0);
    let first = |_: &Batch, _: &[Row<'_>]| -> Result<Box<dyn easyroutine::Tap + '_>> {
        *batches.borrow_mut() += 1;
        Ok(Box::new(StopsAt { layer: 0, stop: &stop, at_batch: 3, batches: &batches }))
    };
    let mut first = first;
    assert_eq!(extraction.run_after(&mut first, &mut collect).unwrap(), End::Stopped);
    let (numbers, cache) = collect.finish().unwrap();
    assert!(numbers.is_sorted());
    assert_eq!(*batches.borrow(), 3);
    assert_eq!(numbers.len(), cache.n_rows());
    assert!(cache.n_rows() > 0 && cache.n_rows() < examples.len());
    let whole = extract(&model, &asked, &examples, with_tokens(20)).unwrap();
    for (row, number) in numbers.iter().enumerate() {
        assert_same_bits(
            "row",
            cache.get("resid_out_1").unwrap().row(row),
            whole.get("resid_out_1").unwrap().row(*number),
        );
    }
    assert_eq!(extract(&model, &asked, &examples, options).unwrap_err().kind(), ErrorKind::Interrupted);
}

struct StopsAt<'a> {
    layer: usize,
    stop: &'a AtomicBool,
    at_batch: usize,
    batches: &'a RefCell<usize>,
}

impl easyroutine::Tap for StopsAt<'_> {
    fn wants(&self, point: Point) -> easyroutine::Want {
        let here = point.to_string() == format!("resid_out_{}", self.layer);
        if here { easyroutine::Want::Read } else { easyroutine::Want::Nothing }
    }

    fn at(&mut self, _: Point, _: &mut easyroutine::Value<'_>) -> Result<()> {
        if *self.batches.borrow() == self.at_batch {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[test]
fn an_error_of_the_sink_ends_the_run() {
    let model = tiny("llama");
    let (asked, examples) = (request("logits", "last"), examples(&model));
    let mut recorder = Recorder { fails_after: Some(2), ..Recorder::default() };
    let extraction = Extraction::new(&model, &asked, &examples, with_tokens(20)).unwrap();
    assert_eq!(extraction.run(&mut recorder).unwrap_err().to_string(), "disk full");
    assert_eq!(recorder.batches, 2);
}

#[test]
fn progress_ends_where_everything_is_done() {
    let model = tiny("llama");
    let (asked, examples) = (request("logits", "last"), examples(&model));
    let seen = RefCell::new(Vec::<Progress>::new());
    let tell = |progress| seen.borrow_mut().push(progress);
    let options = Options { progress: Some(&tell), ..with_tokens(20) };
    extract(&model, &asked, &examples, options).unwrap();
    let seen = seen.into_inner();
    assert!(seen.windows(2).all(|w| w[0].tokens < w[1].tokens && w[0].rows < w[1].rows));
    let last = seen.last().unwrap();
    assert_eq!((last.rows, last.tokens), (14, last.all_tokens));
    assert_eq!(last.all_tokens, examples.iter().map(|e| e.ids.len()).sum::<usize>());
}

#[test]
fn what_is_wrong_with_a_row_is_said_before_anything_runs() {
    let model = tiny("llama");
    let refused = |change: &dyn Fn(&mut Vec<Example>), positions: &str| {
        let mut examples = examples(&model);
        change(&mut examples);
        let asked = request("logits", positions);
        Extraction::new(&model, &asked, &examples, with_tokens(20)).err().unwrap().to_string()
    };
    assert!(refused(&|e| e[9].ids = vec![5, 320], "last").contains("row 9: token id 320 at 1"));
    assert!(refused(&|e| e[13].ids = vec![1; 100_000], "last").contains("row 13 has 100000 tokens"));
    assert!(refused(&|_| (), "5").contains("row 0: position `5` is outside the row"));
    assert!(refused(&Vec::clear, "last").contains("no prompt given"));
}

#[test]
fn draws_and_pivots_are_those_of_the_rows_own_number_and_example() {
    let model = tiny("llama");
    let asked = request("input_ids", "random-text-2,inputs-partition-1");
    let all = examples(&model);
    let pivots = |examples: &mut [Example]| {
        examples.iter_mut().for_each(|e| e.pivots = Some(vec![1 + e.number as i64 % 2]));
    };
    let mut all = all;
    pivots(&mut all);
    let context = Context { pivots: &[2], seed: 3, ..Context::default() };
    let options = Options { context, ..with_tokens(20) };
    let whole = extract(&model, &asked, &all, options).unwrap();
    // The second half alone: numbering continues, so draws stay the same.
    let half = extract(&model, &asked, &all[7..], options).unwrap();
    assert_eq!(half.selection.rows, whole.selection.rows[7..]);
    for (row, example) in all.iter().enumerate() {
        let first = 1 + row % 2;
        let group = &whole.selection.rows[row].indices[2..];
        assert_eq!(group, (first..example.ids.len()).collect::<Vec<_>>());
    }
    let drawn: BTreeSet<&[usize]> = whole.selection.rows.iter().map(|row| &row.indices[..2]).collect();
    assert!(drawn.len() > 3, "rows draw for themselves");
}
