//! Generation: the references, full recomputation to the bit, edits, batches, stopping and text.

use std::ops::ControlFlow;

use crate::common::{assert_same_bits, cases, fixtures, folder, has, holds, references, tiny};
use easyroutine::edit::{Edits, Intervention, Reference};
use easyroutine::generate::{Finish, GenerateOptions, Generated, Sampling, TextStream, generate};
use easyroutine::load::end_ids;
use easyroutine::positions::{Context, Row};
use easyroutine::sites::{Point, Site};
use easyroutine::tokens::{Bos, Tokenizer};
use easyroutine::{Batch, Model, Result, Tap, Value, Want};

fn greedy(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens, sampling: Sampling::Greedy, ends: Vec::new(), seed: 0 }
}

fn run(model: &Model, rows: &[Vec<u32>], options: &GenerateOptions, first: impl Tap) -> Vec<Generated> {
    generate(model, rows, options, first, |_| Ok(ControlFlow::Continue(()))).unwrap()
}

/// Interventions on prompts.
fn edits(model: &Model, prompts: &[Vec<u32>], specs: &[&str]) -> Edits {
    let interventions: Vec<Intervention> =
        specs.iter().map(|s| s.parse::<Intervention<Reference>>().unwrap().load().unwrap()).collect();
    let rows: Vec<Row<'_>> = prompts.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect();
    Edits::new(&interventions, model.arch(), &rows, Context::default()).unwrap()
}

/// The logits at the last token of a row, or of each step.
#[derive(Default)]
struct Last(Vec<Vec<f32>>);

impl Tap for Last {
    fn wants(&self, point: Point) -> Want {
        if point == Point::model(Site::Logits) { Want::Read } else { Want::Nothing }
    }
    fn tokens(&self, _: Point, batch: &Batch) -> Option<Vec<usize>> {
        Some(vec![batch.n_tokens() - 1])
    }
    fn at(&mut self, _: Point, value: &mut Value<'_>) -> Result<()> {
        self.0.push(value.vector(0, value.batch().length(0) - 1).unwrap().to_vec());
        Ok(())
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    for case in cases("tiny") {
        let (model, references) = (tiny(&case), references(&case));
        let prompts = references["greedy.input_ids"].integers();
        let expected = references["greedy.output_ids"].integers();
        let generated = run(&model, &prompts, &greedy(expected[0].len() - prompts[0].len()), ());
        for ((prompt, expected), generated) in prompts.iter().zip(&expected).zip(&generated) {
            assert_eq!([&prompt[..], &generated.ids].concat(), *expected, "{case}");
            assert_eq!(generated.finish, Finish::Length);
        }
    }
}

const EDITS: [&[&str]; 4] = [
    &[],
    &["resid_in_1@all*0.5", "head_values_L1H0@2=0", "head_keys_L1H1@all*0.9"],
    &["pattern_L1H1@columns:3=0", "pattern_L1H0@pre:columns:first=-inf", "mlp_out_0@1,2=0.1"],
    &["head_out_L1H1@all=0", "pattern_L1H*@pre:rows:all*1.5", "resid_out_0@last=0"],
];

#[test]
fn every_step_gives_the_logits_of_full_recomputation_to_the_bit_under_edits_too() {
    for case in cases("tiny") {
        let model = tiny(&case);
        let prompt: Vec<u32> = (40..48).collect();
        for specs in EDITS {
            let is_there = |spec: &&&str| has(&model, &spec.split('@').next().unwrap().replace('*', "0"));
            let specs: Vec<&str> = specs.iter().filter(is_there).copied().collect();
            let specs = specs.as_slice();
            let mut steps = Last::default();
            let taps = (edits(&model, std::slice::from_ref(&prompt), specs), &mut steps);
            let generated = run(&model, std::slice::from_ref(&prompt), &greedy(8), taps);
            let row = [&prompt[..], &generated[0].ids].concat();
            assert_eq!(steps.0.len(), 8, "{case}");
            for (step, logits) in steps.0.iter().enumerate() {
                let so_far = vec![row[..prompt.len() + step].to_vec()];
                let mut whole = Last::default();
                let taps = &mut (edits(&model, std::slice::from_ref(&prompt), specs), &mut whole);
                model.forward(&Batch::new(&so_far).unwrap(), taps).unwrap();
                assert_same_bits(format_args!("{case}, {specs:?}, step {step}"), logits, &whole.0[0]);
            }
        }
    }
}

#[test]
fn a_row_is_continued_the_same_alone_and_in_a_batch() {
    let sampling = Sampling::Random { temperature: 1.3, top_k: Some(50), top_p: Some(0.95) };
    for case in cases("tiny") {
        let model = tiny(&case);
        let rows = vec![(3..9).collect::<Vec<u32>>(), vec![7], (20..31).collect()];
        for sampling in [Sampling::Greedy, sampling] {
            let options = GenerateOptions { sampling, seed: 5, ..greedy(6) };
            let together = run(&model, &rows, &options, ());
            // A row that ends does not delay the others and changes none of them.
            let ends = vec![together[1].ids[2]];
            let ended = run(&model, &rows, &GenerateOptions { ends: ends.clone(), ..options.clone() }, ());
            for row in 0..3 {
                let cut = together[row].ids.iter().position(|id| ends.contains(id)).map_or(6, |at| at + 1);
                assert_eq!(ended[row].ids, together[row].ids[..cut], "{case}");
                assert_eq!(
                    ended[row].finish == Finish::End,
                    ends.contains(&ended[row].ids[cut - 1]),
                    "{case}"
                );
            }
            let alone = run(&model, &rows[..1], &options, ());
            assert_eq!(alone[0], together[0], "{case}");
        }
    }
}

#[test]
fn the_log_probability_is_the_models_own() {
    let model = tiny("llama");
    let prompt = vec![(3..9).collect::<Vec<u32>>()];
    let mut steps = Last::default();
    let generated = run(&model, &prompt, &greedy(3), &mut steps);
    for ((logits, id), logprob) in steps.0.iter().zip(&generated[0].ids).zip(&generated[0].logprobs) {
        let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        assert!((f64::from(logits[*id as usize]) - sum.ln() - logprob).abs() < 1e-12);
    }
}

#[test]
fn a_row_ends_where_the_caller_or_the_context_ends_it() {
    let model = tiny("gpt2");
    let prompt = vec![vec![5u32, 6]];
    let mut heard = Vec::new();
    let stopped = generate(&model, &prompt, &greedy(9), (), |token| {
        heard.push(token.id);
        Ok(if heard.len() == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    let stopped = stopped.unwrap().remove(0);
    assert_eq!((stopped.finish, stopped.ids), (Finish::Stopped, heard));
    let context = model.arch().context;
    let long = vec![vec![1u32; context - 2]];
    let full = run(&model, &long, &greedy(9), ()).remove(0);
    assert_eq!((full.finish, full.ids.len()), (Finish::Context, 3));
    assert!(
        generate(&model, &[vec![1u32; context + 1]], &greedy(1), (), |_| Ok(ControlFlow::Continue(())))
            .is_err()
    );
    assert!(
        generate(&model, &[Vec::<u32>::new()], &greedy(1), (), |_| Ok(ControlFlow::Continue(()))).is_err()
    );
}

#[test]
fn a_rotary_table_that_depends_on_length_is_made_anew_at_the_threshold() {
    // Both thresholds lie inside the generated part; each step must match the whole row.
    for (case, length) in [("llama_dynamic", 6), ("phi3_longrope", 6)] {
        let model = tiny(case);
        let prompt: Vec<u32> = (0..length).map(|i| 7 + 3 * i).collect();
        let mut steps = Last::default();
        let generated = run(&model, std::slice::from_ref(&prompt), &greedy(9), &mut steps);
        let row = [&prompt[..], &generated[0].ids].concat();
        for (step, logits) in steps.0.iter().enumerate() {
            let mut whole = Last::default();
            model.forward(&Batch::new(&[&row[..prompt.len() + step]]).unwrap(), &mut whole).unwrap();
            assert_same_bits(format_args!("{case}, step {step}"), logits, &whole.0[0]);
        }
    }
}

#[test]
fn the_ends_are_those_of_the_generation_config() {
    assert_eq!(end_ids(&folder(fixtures().join("tiny/llama"))).unwrap(), [2]);
    let copy = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(copy.path().join(name), text).unwrap();
    write("config.json", r#"{"eos_token_id": 7}"#);
    assert_eq!(end_ids(&folder(copy.path())).unwrap(), [7]);
    write("generation_config.json", r#"{"eos_token_id": [1, 106]}"#);
    assert_eq!(end_ids(&folder(copy.path())).unwrap(), [1, 106]);
    write("generation_config.json", r#"{"eos_token_id": "two"}"#);
    assert!(end_ids(&folder(copy.path())).unwrap_err().to_string().contains("eos_token_id"));
    write("generation_config.json", r#"{"eos_token_id": null}"#);
    assert_eq!(end_ids(&folder(copy.path())).unwrap(), [7]);
}

#[test]
fn pieces_of_text_join_to_the_whole_and_end_before_a_stop_string() {
    let tokenizer = Tokenizer::from_folder(fixtures().join("tiny/llama")).unwrap();
    let text = "Zwölf Boxkämpfer jagen Viktor — quer über den Sylter Deich. Stop here. 日本語";
    let ids = tokenizer.encode(text, Bos::No).unwrap().ids;
    let stream = |prompt: usize, stops: &[String]| {
        let mut stream = TextStream::new(&tokenizer, &ids[..prompt], stops).unwrap();
        let mut pieces = String::new();
        for id in &ids[prompt..] {
            let piece = stream.push(*id).unwrap();
            pieces += &piece.text;
            assert!(!pieces.contains('\u{fffd}'), "{pieces}");
            if piece.stopped {
                return pieces;
            }
        }
        pieces + &stream.finish().unwrap()
    };
    let whole = tokenizer.decode(&ids, true).unwrap();
    assert_eq!(stream(0, &[]), whole);
    holds("stops", 60, (0..whole.chars().count(), 1usize..9, 0..ids.len() / 2), |(start, length, prompt)| {
        let stop: String = whole.chars().skip(start).take(length).collect();
        let all = stream(prompt, &[]);
        let expected = all.find(&stop).map_or(all.as_str(), |at| &all[..at]);
        assert_eq!(stream(prompt, &["never there".to_owned(), stop.clone()]), expected, "{stop:?}");
    });
}
