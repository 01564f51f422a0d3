//! Input that makes no graph is refused by name.

use easyroutine::{Error, Stop};
use easyroutine_graphs::{Graph, Options};

use crate::common::{dictionary, tiny};

#[track_caller]
fn refused(model: &str, set: &str, ids: &[u32], options: &Options, words: &str) -> Error {
    let made = Graph::new(&tiny(model), &dictionary(set), ids, options, Stop::Never, &mut |_, _| {});
    let error = made.expect_err("it should be refused");
    let text = format!("{error} {}", error.hint_text().unwrap_or_default());
    assert!(text.contains(words), "`{words}` is not in: {text}");
    error
}

#[test]
fn what_makes_no_graph_is_refused() {
    let ids = [1, 5, 9];
    let options = Options::default();
    let plt = "circuit_tracer_plt";
    refused("gpt2", "saelens_standard", &ids, &options, "needs transcoders");
    refused("gpt2", plt, &[], &options, "0 tokens");
    refused("gpt2", plt, &[1], &options, "the prompt has 1 tokens");
    refused("gpt2", plt, &[1, 5, 999_999], &options, "beyond the vocabulary");
    let with = |change: &dyn Fn(&mut Options)| {
        let mut options = Options::default();
        change(&mut options);
        options
    };
    refused("gpt2", plt, &ids, &with(&|o| o.max_logits = 0), "one logit at least");
    refused("gpt2", plt, &ids, &with(&|o| o.targets = Some(Vec::new())), "one logit at least");
    refused("gpt2", plt, &ids, &with(&|o| o.targets = Some(vec![4, 4])), "named twice");
    refused("gpt2", plt, &ids, &with(&|o| o.targets = Some(vec![999_999])), "beyond the vocabulary");
    refused("gpt2", plt, &ids, &with(&|o| o.probability = f64::NAN), "a probability of NaN");
    refused("gpt2", plt, &ids, &with(&|o| o.max_features = 0), "0 features");
    // A dictionary of another width, and a model that is not linear between its MLPs.
    refused("mamba", plt, &ids, &options, "mlp_in");
    let made =
        Graph::new(&tiny("gpt2"), &dictionary(plt), &ids, &options, Stop::Never, &mut |_, _| {}).unwrap();
    for (nodes, edges) in [(-0.1, 0.5), (0.5, 1.1), (f64::NAN, 0.5)] {
        assert!(made.prune(nodes, edges).unwrap_err().to_string().contains("shares lie between 0 and 1"));
    }
}

#[test]
fn a_stopped_graph_is_an_error() {
    let stopped = || true;
    let made = Graph::new(
        &tiny("gpt2"),
        &dictionary("circuit_tracer_plt"),
        &[1, 5, 9],
        &Options::default(),
        Stop::When(&stopped),
        &mut |_, _| {},
    );
    assert!(made.unwrap_err().to_string().contains("stopped"));
}
