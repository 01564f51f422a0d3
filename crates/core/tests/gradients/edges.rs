//! Edges and circuits compared with references computed in f64, and their laws.

use easyroutine::attribution::edges::{
    Circuit, CircuitRunner, EdgeMethod, EdgeScorer, EdgeSums, FRACTIONS, Faithfulness, Graph, Reader, Writer,
    sizes,
};
use easyroutine::gradients::Rule;
use easyroutine::load::LoadOptions;
use easyroutine::patching::Metric;
use easyroutine::{Dtype, Model, Stop};

use super::pairs::{Case, case};
use crate::common::{cases, extract, fixtures, relative_error, tiny, tiny_with};

const AGREEMENT: f64 = 1e-4;

fn scored(case: &Case, method: EdgeMethod, row: usize) -> Vec<f64> {
    let scorer = EdgeScorer::new(&case.model, method, Rule::Gradient).unwrap();
    let found = scorer.score(&case.clean[row], &case.corrupt[row], case.metrics[row], Stop::Never).unwrap();
    assert!((found.clean as f32 - case.references["metric.clean"].values[row]).abs() < 1e-3);
    assert!((found.corrupted as f32 - case.references["metric.corrupt"].values[row]).abs() < 1e-3);
    found.scores
}

#[test]
fn scores_of_edges_are_those_of_the_references() {
    for name in ["gpt2", "llama"] {
        let case = case(name);
        let graph = Graph::of(case.model.arch()).unwrap();
        let mask = &case.references["eap.mask"].values;
        for (reader, what) in graph.readers().enumerate() {
            for writer in 0..graph.n_writers() {
                let is_edge = mask[writer * graph.n_readers() + reader] == 1.0;
                assert_eq!(writer < graph.reach(what), is_edge, "{name}: {writer} -> {what}");
            }
        }
        for (key, method) in [
            ("eap", EdgeMethod::Eap),
            ("eap_ig", EdgeMethod::EapIg { steps: 8 }),
            ("eap_clean_corrupt", EdgeMethod::CleanCorrupted),
        ] {
            let reference = &case.references[&format!("{key}.scores")].values;
            let ours: Vec<f32> =
                (0..2).flat_map(|row| scored(&case, method, row)).map(|x| x as f32).collect();
            // Where no edge exists, the reference still has a value.
            let masked: Vec<f32> = reference.iter().zip(mask.iter().cycle()).map(|(x, m)| x * m).collect();
            let error = relative_error(&ours, &masked);
            assert!(error < AGREEMENT, "{name}: {key} differs by {error:.1e}");
        }
    }
}

#[test]
fn circuits_have_the_edges_and_the_metric_of_the_references() {
    for name in ["gpt2", "llama"] {
        let case = case(name);
        let graph = Graph::of(case.model.arch()).unwrap();
        let scorer = EdgeScorer::new(&case.model, EdgeMethod::EapIg { steps: 8 }, Rule::Gradient).unwrap();
        let mut sums = EdgeSums::new(&graph);
        for row in 0..2 {
            let (clean, corrupt, metric) = (&case.clean[row], &case.corrupt[row], case.metrics[row]);
            let scores = scorer.score(clean, corrupt, metric, Stop::Never).unwrap();
            sums.add([clean, corrupt], metric, &scores);
        }
        let scores = sums.mean();
        let file = fixtures().join("tiny").join(name).join("circuits.json");
        let expected: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let runner = CircuitRunner::new(&case.model).unwrap();
        for (n, expected) in expected["top"].as_object().unwrap() {
            let circuit = Circuit::top(&graph, &scores, n.parse().unwrap()).unwrap();
            let mut names = circuit.names(&graph);
            names.sort();
            let listed: Vec<&str> =
                expected["edges"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
            assert_eq!(names, listed, "{name}: {n} edges");
            for row in 0..2 {
                let (clean, corrupt) = (&case.clean[row], &case.corrupt[row]);
                let circuits = std::slice::from_ref(&circuit);
                let found = runner.run(clean, corrupt, case.metrics[row], circuits, Stop::Never).unwrap()[0];
                let reference = expected["metric"][row].as_f64().unwrap();
                assert!(
                    (found - reference).abs() < 1e-4 * reference.abs().max(1.0),
                    "{name}: {n} edges, row {row}: {found} {reference}"
                );
            }
        }
    }
}

/// All edges give the clean run and none the corrupted one, in every family.
#[test]
fn all_edges_are_the_clean_run_and_none_the_corrupted_one_in_every_fixture() {
    let (clean, corrupt) = (vec![5, 90, 17, 200, 31, 8, 64], vec![5, 12, 17, 33, 31, 70, 64]);
    let metric = Metric::LogitDiff { answer: 7, against: 100 };
    let (mut seen, mut refused) = (0, Vec::new());
    for name in cases("tiny") {
        let model = tiny(&name);
        let Ok(graph) = Graph::of(model.arch()) else {
            refused.push(name);
            continue;
        };
        let scorer = EdgeScorer::new(&model, EdgeMethod::Eap, Rule::Gradient).unwrap();
        let Ok(found) = scorer.score(&clean, &corrupt, metric, Stop::Never) else {
            refused.push(name);
            continue;
        };
        seen += 1;
        let all = Circuit::top(&graph, &found.scores, graph.n_edges()).unwrap();
        assert_eq!(all.len(), graph.n_edges(), "{name}");
        let none = Circuit::top(&graph, &found.scores, 1).unwrap();
        let runner = CircuitRunner::new(&model).unwrap();
        let values = runner.run(&clean, &corrupt, metric, &[all, none.clone()], Stop::Never).unwrap();
        assert!((values[0] - found.clean).abs() < 1e-4 * found.clean.abs().max(1.0), "{name}: {values:?}");
        if none.is_empty() {
            let near = 2e-3 * found.corrupted.abs().max(1.0);
            assert!((values[1] - found.corrupted).abs() < near, "{name}: {values:?} {}", found.corrupted);
        }
        // Summed over all writers, scores into the logits equal the change of the last stream times its gradient.
        let reader = graph.reader(Reader::Logits).unwrap();
        let sum: f64 = (0..graph.n_writers()).map(|w| found.scores[w * graph.n_readers() + reader]).sum();
        let key = format!("resid_out_{}", graph.n_layers - 1);
        let [a, b] = [&clean, &corrupt].map(|ids| {
            extract(&model, std::slice::from_ref(ids), &key, "all")
                .get(key.as_str())
                .unwrap()
                .values()
                .to_vec()
        });
        let request = easyroutine::request::Request::parse(&key, "all").unwrap();
        let rows = [easyroutine::positions::Row::of(0, &clean)];
        let output = easyroutine::gradients::Output::Metric { metrics: &[metric], target: None };
        let gradient = easyroutine::gradients::gradients(
            &model,
            &rows,
            &request,
            output,
            Rule::Gradient,
            &mut easyroutine::edit::Edits::default(),
            easyroutine::positions::Context::default(),
            Stop::Never,
        )
        .unwrap();
        let gradient = gradient.cache.get(format!("{key}_gradients")).unwrap().values().to_vec();
        let terms = b.iter().zip(&a).zip(&gradient).map(|((b, a), g)| f64::from(b - a) * f64::from(*g));
        let (expected, size) = terms.fold((0.0, 0.0_f64), |(sum, size), x| (sum + x, size + x.abs()));
        assert!((sum - expected).abs() < 1e-4 * size.max(1e-6), "{name}: {sum} {expected}");
    }
    assert!(seen > 40, "{seen} compared; refused {refused:?}");
    for name in ["gemma2", "opt_postnorm"] {
        assert!(refused.iter().any(|refused| refused == name), "{name} was not refused: {refused:?}");
    }
}

#[test]
fn scores_are_the_same_bits_with_any_number_of_threads() {
    let mut case = case("llama");
    let of = |case: &Case| scored(case, EdgeMethod::EapIg { steps: 5 }, 0);
    let first = of(&case);
    for threads in [1, 3] {
        case.model.set_threads(threads);
        let again = of(&case);
        assert!(first.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()), "{threads} threads");
    }
}

#[test]
fn a_circuit_survives_the_way_through_json() {
    let case = case("gpt2");
    let graph = Graph::of(case.model.arch()).unwrap();
    let scores = scored(&case, EdgeMethod::Eap, 0);
    let circuit = Circuit::top(&graph, &scores, 40).unwrap();
    let json = circuit.to_json(&graph, &scores);
    assert_eq!(
        json["cfg"],
        serde_json::json!({"n_layers": 3, "n_heads": 4, "parallel_attn_mlp": false, "d_model": 48})
    );
    assert_eq!(json["edges"].as_object().unwrap().len(), graph.n_edges());
    assert_eq!(json["nodes"]["input"]["in_graph"], true);
    let (read, of_file) = Circuit::from_json(&graph, &json).unwrap();
    assert_eq!(read, circuit);
    assert!(scores.iter().zip(&of_file).all(|(a, b)| a == b));
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json = json.clone();
        change(&mut json);
        Circuit::from_json(&graph, &json).unwrap_err().to_string()
    };
    assert!(refused(&|json| json["cfg"]["n_layers"] = 4.into()).contains("n_layers"));
    assert!(refused(&|json| json["edges"]["m2->a0.h0<q>"] = serde_json::json!({})).contains("not an edge"));
    assert!(refused(&|json| json["edges"]["m9->logits"] = serde_json::json!({})).contains("not an edge"));
    assert!(refused(&|json| json["edges"]["x->logits"] = serde_json::json!({})).contains("not a node"));
    assert!(refused(&|json| json["edges"]["m0->logits"]["score"] = "a".into()).contains("not a number"));
    assert!(Circuit::from_json(&graph, &serde_json::json!([])).is_err());
    for (text, writer) in [("input", Writer::Input), ("a1.h2", Writer::Head { layer: 1, head: 2 })] {
        assert_eq!((text.parse::<Writer>().unwrap(), writer.to_string().as_str()), (writer, text));
    }
}

#[test]
fn the_curve_has_the_areas_of_trapezoids() {
    let curve = |value: f64| Faithfulness::of(vec![1; 10], vec![value; 10], 3.0, 1.0).unwrap();
    // A circuit that always recovers half: f = 0.5 from 0.001 to 1.
    let half = curve(2.0);
    assert!((half.cpr() - 0.4995).abs() < 1e-12 && (half.cmd() - 0.4995).abs() < 1e-12);
    assert!(curve(3.0).cmd().abs() < 1e-12);
    assert!(Faithfulness::of(vec![], vec![], 1.0, 1.0).unwrap_err().to_string().contains("same metric"));
    let graph = Graph { n_layers: 12, n_heads: 12, d_model: 768, parallel: vec![false; 12] };
    // MIB's counts for GPT-2 small.
    assert_eq!((graph.n_writers(), graph.n_edges()), (157, 32491));
    assert_eq!(sizes(&graph), [32, 64, 162, 324, 649, 1624, 3249, 6498, 16245, 32491]);
    assert_eq!(FRACTIONS.len(), 10);
}

#[test]
fn what_has_no_edges_is_refused_by_name() {
    let refused =
        |model: &Model, method| EdgeScorer::new(model, method, Rule::Gradient).unwrap_err().to_string();
    assert!(refused(&tiny("gemma2"), EdgeMethod::Eap).contains("norms the sum of its heads"));
    assert!(refused(&tiny("opt_postnorm"), EdgeMethod::Eap).contains("residual stream itself"));
    assert!(refused(&tiny("llama"), EdgeMethod::EapIg { steps: 0 }).contains("0 steps"));
    let bf16 = tiny_with("llama", &LoadOptions { dtype: Dtype::Bf16, ..LoadOptions::default() });
    assert!(refused(&bf16, EdgeMethod::Eap).contains("computed in f32"));
    let model = tiny("llama");
    let scorer = EdgeScorer::new(&model, EdgeMethod::Eap, Rule::Gradient).unwrap();
    let of = |clean: &[u32], corrupted: &[u32], metric| {
        scorer.score(clean, corrupted, metric, Stop::Never).unwrap_err().to_string()
    };
    let diff = Metric::LogitDiff { answer: 1, against: 2 };
    assert!(of(&[1, 2, 3], &[1, 2], diff).contains("3 tokens and the corrupted one 2"));
    assert!(of(&[1, 2], &[1, 3], Metric::Rank { token: 1 }).contains("`rank` has no gradient"));
    let graph = scorer.graph();
    let none = vec![0.0; graph.n_writers() * graph.n_readers()];
    assert!(Circuit::top(graph, &none, 0).unwrap_err().to_string().contains("at least 1"));
    assert!(Circuit::top(graph, &none, graph.n_edges() + 1).is_err());
}
