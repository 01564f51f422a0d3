//! Continued rows: the activations kept for new tokens are those that the generation steps computed.

use std::ops::ControlFlow;

use easyroutine::edit::{Edits, Intervention, Reference};
use easyroutine::extract::{Example, Options, continued, extract};
use easyroutine::generate::{GenerateOptions, Sampling, generate};
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine::sites::Point;
use easyroutine::{Batch, Error, Model, Result, Tap, Value, Want};

use super::rows;
use crate::common::{assert_same_bits, cases, has, tiny};

const POINT: &str = "resid_out_1";

/// What every step computed at a point, by row.
struct Steps(Vec<Vec<f32>>);

impl Tap for Steps {
    fn wants(&self, point: Point) -> Want {
        if point.to_string() == POINT { Want::Read } else { Want::Nothing }
    }
    fn at(&mut self, _: Point, value: &mut Value<'_>) -> Result<()> {
        for (row, seen) in self.0.iter_mut().enumerate() {
            let width = value.width(row);
            seen.resize(value.batch().length(row) * width, f32::NAN);
            // A row whose rotary frequencies change with its length runs again: its last step counts.
            for (position, kept) in seen.chunks_exact_mut(width).enumerate() {
                if let Some(vector) = value.vector(row, position) {
                    kept.copy_from_slice(vector);
                }
            }
        }
        Ok(())
    }
}

fn interventions(model: &Model) -> Vec<Intervention> {
    let spelt = ["resid_in_1@all*0.5", "head_out_L0H1@last=0", "pattern_L1H0@columns:2=0"];
    let is_there = |spec: &&&str| has(model, spec.split('@').next().unwrap());
    spelt
        .iter()
        .filter(is_there)
        .map(|s| s.parse::<Intervention<Reference>>().unwrap().load().unwrap())
        .collect()
}

fn examples() -> Vec<Example> {
    let example = |(number, ids)| Example { number, ids, ..Example::default() };
    rows().into_iter().enumerate().map(example).collect()
}

/// The examples with up to six new tokens, in batches of any size.
fn longer(model: &Model, edits: &[Intervention], ends: &[u32], batch_tokens: usize) -> Vec<Example> {
    let mut first = |_: &Batch, rows: &[Row<'_>]| -> std::result::Result<Box<dyn Tap>, Error> {
        Ok(Box::new(Edits::new(edits, model.arch(), rows, Context::default())?))
    };
    let options = Options { batch_tokens, ..Options::default() };
    continued(model, examples(), 6, ends, options, &mut first).unwrap()
}

#[test]
fn what_is_kept_of_new_tokens_is_what_the_steps_computed() {
    for case in cases("tiny") {
        let model = tiny(&case);
        for edits in [vec![], interventions(&model)] {
            let longer = longer(&model, &edits, &[], 9);
            let mut steps = Steps(vec![Vec::new(); 3]);
            let prompts = rows();
            let described: Vec<Row<'_>> =
                prompts.iter().enumerate().map(|(n, ids)| Row::of(n, ids)).collect();
            let tap = Edits::new(&edits, model.arch(), &described, Context::default()).unwrap();
            let options =
                GenerateOptions { max_new_tokens: 7, sampling: Sampling::Greedy, ends: Vec::new(), seed: 0 };
            // One token more: the sixth runs only to choose the seventh.
            let told = |_| Ok(ControlFlow::Continue(()));
            let generated = generate(&model, &prompts, &options, (tap, &mut steps), told).unwrap();
            let all: Vec<Row<'_>> = longer.iter().map(Example::row).collect();
            let ids: Vec<&[u32]> = all.iter().map(|row| row.ids).collect();
            let tap = Edits::new(&edits, model.arch(), &all, Context::default()).unwrap();
            let request = Request::parse(POINT, "all").unwrap();
            let batch = Batch::new(&ids).unwrap();
            let cache = request.run_under(&model, &batch, &all, Context::default(), tap).unwrap();
            let kept = cache.get(POINT).unwrap();
            for row in 0..3 {
                assert_eq!(longer[row].n_new, 6, "{case}");
                assert_eq!(longer[row].ids, [&prompts[row][..], &generated[row].ids[..6]].concat(), "{case}");
                assert_same_bits(format_args!("{case}, row {row}"), kept.row(row), &steps.0[row]);
            }
        }
    }
}

#[test]
fn positions_name_tokens_of_the_prompt_and_all_names_every_one() {
    let model = tiny("llama");
    let longer = longer(&model, &[], &[], 4096);
    let request = Request::parse("input_ids", "last,all,-2,1:3").unwrap();
    let cache = extract(&model, &request, &longer, Options::default()).unwrap();
    for (row, prompt) in rows().iter().enumerate() {
        let n = prompt.len();
        let expected: Vec<usize> = std::iter::once(n - 1).chain(0..n + 6).chain([n - 2, 1, 2]).collect();
        assert_eq!(cache.selection.rows[row].indices, expected);
    }
}

#[test]
fn a_row_ends_at_an_end_and_at_the_models_context() {
    let model = tiny("llama");
    let free = longer(&model, &[], &[], 4096);
    let end = free[1].ids[rows()[1].len() + 2];
    let ended = longer(&model, &[], &[end], 4096);
    for (free, ended) in free.iter().zip(&ended) {
        let new = &free.ids[free.ids.len() - free.n_new..];
        let expected = new.iter().position(|id| *id == end).map_or(6, |at| at + 1);
        assert_eq!((ended.n_new, &ended.ids[..]), (expected, &free.ids[..free.ids.len() - 6 + expected]));
    }
    let context = model.arch().context;
    let full = Example { ids: vec![5; context - 2], ..Example::default() };
    let mut nothing =
        |_: &Batch, _: &[Row<'_>]| -> std::result::Result<Box<dyn Tap>, Error> { Ok(Box::new(())) };
    let full = continued(&model, vec![full], 6, &[], Options::default(), &mut nothing).unwrap();
    assert_eq!((full[0].ids.len(), full[0].n_new), (context, 2));
}
