//! What a dictionary does to a model on a text, against the references.

use easyroutine::positions::{Context, Row, Specifier};
use easyroutine::{ErrorKind, Stop};
use easyroutine_dictionaries::{Dictionaries, measure, measure_in_parts};
use serde_json::Value;

use crate::common::{Case, cases, fixtures};

fn prompts() -> Vec<Vec<u32>> {
    let text = std::fs::read_to_string(fixtures().join("dictionaries/prompts.jsonl")).unwrap();
    let ids = |line: &str| -> Vec<u32> {
        let value: Value = serde_json::from_str(line).unwrap();
        value["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    text.lines().map(ids).collect()
}

#[test]
fn l0_explained_variance_and_recovered_cross_entropy_are_those_of_the_references() {
    let prompts = prompts();
    let (mut with_figures, mut sets) = (0, 0);
    for case in cases() {
        let model = case.model();
        let mut dictionaries = Dictionaries::default();
        dictionaries.add("d", case.dictionary(), model.arch()).unwrap();
        let of = |ids: &[Vec<u32>]| {
            let rows: Vec<Row<'_>> = ids.iter().enumerate().map(|(i, ids)| Row::of(i, ids)).collect();
            measure(&model, &dictionaries, 0, &rows, &[Specifier::All], Context::default(), Stop::Never)
                .unwrap_or_else(|e| panic!("{}: {e}", case.name))
        };
        let found = of(&prompts);
        let Some(stats) = case.expect["stats"].as_object() else {
            sets += 1;
            assert_eq!(found.layers.len(), model.arch().layers.len(), "{}", case.name);
            continue;
        };
        with_figures += 1;
        let layer = &found.layers[0];
        let near = |what: &str, ours: f64, share: f64| {
            let theirs = stats[what].as_f64().unwrap();
            let limit = share * theirs.abs().max(1.0);
            assert!((ours - theirs).abs() <= limit, "{}: {what} {ours} and {theirs}", case.name);
        };
        // A feature at its threshold may be active on a token here and not there.
        near("l0", layer.l0, 2e-3);
        near("explained_variance", layer.explained_variance.unwrap(), 1e-3);
        near("mse", layer.mse, 1e-3);
        near("cosine", layer.cosine, 1e-3);
        near("alive", layer.active_features as f64, 0.0);
        // The references' cross-entropies are of the two rows of their runs.
        let found = of(&case.rows());
        near("ce_clean", found.ce_clean, 1e-5);
        near("ce_zero", found.ce_zero, 1e-5);
        near("ce_spliced", found.ce_spliced, 1e-5);
        near("kl_clean|spliced", found.kl, 1e-5);
        near("ce_recovered", found.ce_recovered().unwrap(), 1e-4);
    }
    assert!(with_figures >= 27 && sets >= 4, "{with_figures} and {sets}");
}

#[test]
fn a_text_is_measured_the_same_whatever_rows_run_together_and_can_be_stopped() {
    let case = Case::named("saelens_standard");
    let model = case.model();
    let mut dictionaries = Dictionaries::default();
    dictionaries.add("d", case.dictionary(), model.arch()).unwrap();
    let prompts = prompts();
    let rows: Vec<Row<'_>> = prompts.iter().enumerate().map(|(i, ids)| Row::of(i, ids)).collect();
    let of = |rows: &[Row<'_>], stop: Stop<'_>| {
        let positions = Specifier::parse_lists(&["1:".to_owned()]).unwrap();
        measure(&model, &dictionaries, 0, rows, &positions, Context::default(), stop)
    };
    let all = of(&rows[..6], Stop::Never).unwrap();
    assert_eq!(all.measured_tokens, all.tokens - 6);
    let parts: Vec<_> =
        rows[..6].iter().map(|row| of(std::slice::from_ref(row), Stop::Never).unwrap()).collect();
    let weighed: f64 = parts.iter().map(|part| part.ce_spliced * (part.tokens - 1) as f64).sum();
    assert!((weighed / (all.tokens - 6) as f64 - all.ce_spliced).abs() < 1e-9);
    let l0: f64 = parts.iter().map(|part| part.layers[0].l0 * part.measured_tokens as f64).sum();
    assert!((l0 / all.measured_tokens as f64 - all.layers[0].l0).abs() < 1e-9);
    assert_eq!(of(&rows, Stop::When(&|| true)).unwrap_err().kind(), ErrorKind::Interrupted);
    let short = [1u32];
    assert!(of(&[Row::of(0, &short)], Stop::Never).is_err());
}

#[test]
fn figures_do_not_depend_on_how_many_logits_are_kept_at_a_time() {
    let prompts = prompts();
    for case in ["saelens_standard", "circuit_tracer_clt"].map(Case::named) {
        let model = case.model();
        let mut dictionaries = Dictionaries::default();
        dictionaries.add("d", case.dictionary(), model.arch()).unwrap();
        let rows: Vec<Row<'_>> = prompts.iter().enumerate().map(|(i, ids)| Row::of(i, ids)).collect();
        let of = |most: usize| {
            let context = Context::default();
            let found = measure_in_parts(
                &model,
                &dictionaries,
                0,
                &rows,
                &[Specifier::All],
                context,
                Stop::Never,
                most,
            );
            found.unwrap_or_else(|e| panic!("{} {most}: {e}", case.name))
        };
        let whole = of(usize::MAX);
        for most in [7, 100] {
            let found = of(most);
            assert_eq!((found.tokens, &found.layers), (whole.tokens, &whole.layers), "{} {most}", case.name);
            let figures =
                |m: &easyroutine_dictionaries::Measured| [m.ce_clean, m.ce_spliced, m.ce_zero, m.kl];
            for (a, b) in figures(&found).into_iter().zip(figures(&whole)) {
                assert!((a - b).abs() <= 1e-12 * b.abs().max(1.0), "{} {most}: {a} and {b}", case.name);
            }
        }
    }
}
