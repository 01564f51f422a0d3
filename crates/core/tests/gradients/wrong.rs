//! Requests without a gradient are rejected by name before anything runs.

use easyroutine::edit::{Edits, Tensor};
use easyroutine::gradients::{Output, Rule, Seed, gradients};
use easyroutine::load::LoadOptions;
use easyroutine::patching::Metric;
use easyroutine::positions::{Context, Row, Specifier};
use easyroutine::request::Request;
use easyroutine::sites::{Point, Site};
use easyroutine::{Dtype, Model, Stop};

use crate::common::{tiny, tiny_with};

fn refused(model: &Model, ids: &[u32], activations: &str, output: Output<'_>) -> String {
    let rows = [Row::of(0, ids)];
    let request = Request::parse(activations, "all").unwrap();
    let edits = &mut Edits::default();
    let result =
        gradients(model, &rows, &request, output, Rule::Gradient, edits, Context::default(), Stop::Never);
    let error = result.unwrap_err();
    format!("{error} ({})", error.hint_text().unwrap_or_default())
}

fn metric(metrics: &[Metric]) -> Output<'_> {
    Output::Metric { metrics, target: None }
}

#[test]
fn metrics_without_a_gradient_are_refused_by_name() {
    let model = tiny("llama");
    let of = |metric: Metric, ids: &[u32]| {
        refused(&model, ids, "resid_out_0", Output::Metric { metrics: &[metric], target: None })
    };
    assert!(of(Metric::Rank { token: 3 }, &[1, 2]).contains("`rank` has no gradient"));
    assert!(of(Metric::NormalisedLogitDiff { answer: 1, against: 2 }, &[1, 2]).contains("second run"));
    assert!(of(Metric::Kl, &[1, 2]).contains("log-probabilities"));
    assert!(of(Metric::CrossEntropy, &[1]).contains("no next one"));
    assert!(of(Metric::Logit { token: 320 }, &[1, 2]).contains("beyond the vocabulary of 320"));
    let target = vec![vec![0.0; 5]];
    let short = Output::Metric { metrics: &[Metric::Kl], target: Some(&target) };
    assert!(refused(&model, &[1, 2], "resid_out_0", short).contains("5 values for a vocabulary of 320"));
    let target = vec![vec![0.0; 320]];
    let no_distribution = Output::Metric { metrics: &[Metric::Kl], target: Some(&target) };
    assert!(refused(&model, &[1, 2], "resid_out_0", no_distribution).contains("sum to 320"));
    let two = [Metric::Logit { token: 1 }; 2];
    assert!(refused(&model, &[1, 2], "resid_out_0", metric(&two)).contains("2 metrics for 1 rows"));
}

#[test]
fn places_without_a_gradient_are_refused_by_name() {
    let model = tiny("llama");
    let diff = [Metric::LogitDiff { answer: 1, against: 2 }];
    for (activations, word) in [
        ("input_ids", "input_embeddings"),
        ("last_layernorm", "statistics"),
        ("projected_value_L0H1", "`values`"),
    ] {
        let text = refused(&model, &[1, 2, 3], activations, metric(&diff));
        assert!(text.contains("has no gradient") && text.contains(word), "{text}");
    }
}

#[test]
fn a_model_in_bf16_and_one_without_logits_are_refused() {
    let diff = [Metric::LogitDiff { answer: 1, against: 2 }];
    let model = tiny_with("llama", &LoadOptions { dtype: Dtype::Bf16, ..LoadOptions::default() });
    assert!(refused(&model, &[1, 2], "resid_out_0", metric(&diff)).contains("computed in f32"));
}

#[test]
fn what_relp_says_nothing_of_is_refused() {
    for (case, what) in
        [("mixtral", "experts"), ("mamba2", "recurrences"), ("gemma4_text", "further inputs of layers")]
    {
        relp_is_refused(case, what);
    }
}

fn relp_is_refused(case: &str, what: &str) {
    let (model, rows) = (tiny(case), [Row::of(0, &[1, 2, 3])]);
    let request = Request::parse("resid_out_0", "all").unwrap();
    let output = metric(&[Metric::Logit { token: 5 }]);
    let (rule, edits) = (Rule::Relp { halves: true }, &mut Edits::default());
    let found = gradients(&model, &rows, &request, output, rule, edits, Context::default(), Stop::Never);
    let refused = found.unwrap_err().to_string();
    assert!(refused.contains(&format!("RelP says nothing of {what}")), "{case}: {refused}");
}

#[test]
fn vectors_that_fit_no_place_are_refused() {
    let model = tiny("llama");
    let seed = |point: Point, shape: &[usize]| Seed {
        point,
        positions: vec![Specifier::All],
        values: Tensor::new("v", shape, vec![1.0; shape.iter().product()]).unwrap(),
    };
    let stream = Point::layer_of(Site::ResidOut, 0);
    let of =
        |seeds: &[Seed], activations: &str| refused(&model, &[1, 2], activations, Output::Vectors(seeds));
    assert!(of(&[seed(stream, &[7])], "input_embeddings").contains("[1, 2, 48]"));
    assert!(of(&[seed(Point::model(Site::Logits), &[320])], "input_embeddings").contains("takes no vectors"));
    assert!(of(&[seed(stream, &[48])], "resid_out_2").contains("comes after"));
    assert!(of(&[], "input_embeddings").contains("no vector"));
}
