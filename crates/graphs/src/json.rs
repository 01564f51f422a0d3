//! Graphs in circuit-tracer's format (`frontend/graph_models.py`), for its viewer and Neuronpedia's.

use serde_json::{Value, json};

use crate::graph::{Feature, Graph, Node};
use crate::influence::Pruned;

/// The texts of a graph.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    /// A short name, used in URLs.
    pub slug: String,
    /// The transcoders of the features, by the name under which the viewer looks up descriptions.
    pub scan: String,
    /// The whole prompt.
    pub prompt: String,
    /// Each of its tokens.
    pub tokens: Vec<String>,
    /// The token of each logit.
    pub logits: Vec<String>,
}

/// A pruned graph with what a viewer needs. `settings` and the certificate go under `metadata.easyroutine`, which
/// viewers ignore.
pub fn to_json(graph: &Graph, pruned: &Pruned, node_threshold: f64, texts: &Texts, settings: Value) -> Value {
    let nodes: Vec<Value> =
        shown(graph, pruned).into_iter().filter_map(|node| described(graph, pruned, node, texts)).collect();
    let links = pruned.edges.iter().filter_map(|(target, source)| {
        let weight = graph.row(*target)?.get(*source)?;
        Some(json!({"source": id(graph, pruned, *source)?, "target": id(graph, pruned, *target)?, "weight": weight}))
    });
    let links: Vec<Value> = links.collect();
    json!({
        "metadata": {
            "slug": texts.slug,
            "scan": texts.scan,
            "transcoder_list": [],
            "prompt_tokens": texts.tokens,
            "prompt": texts.prompt,
            "node_threshold": node_threshold,
            "schema_version": 1,
            "easyroutine": about(graph, pruned, settings),
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": nodes,
        "links": links,
    })
}

/// The nodes of a pruned graph that are shown: tokens, logits, and nodes with an edge.
pub(crate) fn shown(graph: &Graph, pruned: &Pruned) -> Vec<usize> {
    let mut touched = vec![false; graph.n_nodes()];
    for (target, source) in &pruned.edges {
        touched[*target] = true;
        touched[*source] = true;
    }
    let is_fixed = |node: usize| matches!(graph.node(node), Some(Node::Token { .. } | Node::Logit(_)));
    (0..graph.n_nodes()).filter(|node| pruned.nodes[*node] && (touched[*node] || is_fixed(*node))).collect()
}

/// The scores and the certificate, with the caller's settings.
fn about(graph: &Graph, pruned: &Pruned, settings: Value) -> Value {
    let (scores, certificate) = (graph.scores(), &graph.certificate);
    let checks = certificate.checks.iter().map(|check| {
        json!({
            "source": id(graph, pruned, check.node),
            "target": id(graph, pruned, check.target),
            "edge": check.edge,
            "found": check.found,
            "error": check.error,
        })
    });
    let is_whole = graph.features.len() == graph.n_active;
    let mut about = json!({
        "replacement_score": scores.replacement,
        "completeness_score": scores.completeness,
        "active_features": graph.n_active,
        "features_with_a_row": graph.features.len(),
        "certificate": {
            "rows": graph.features.len() + graph.logits.len(),
            "largest_row_error": is_whole.then_some(certificate.row_error),
            "largest_intervention_error": certificate.largest_error(),
            "interventions": checks.collect::<Vec<_>>(),
        },
    });
    if let (Some(about), Value::Object(settings)) = (about.as_object_mut(), settings) {
        about.extend(settings);
    }
    about
}

/// The name of a node in circuit-tracer's scheme. There, an error may have the same name as a feature of layer 0; if
/// the graph has that feature too, the error gets another name, since a link must mean one node.
fn id(graph: &Graph, pruned: &Pruned, node: usize) -> Option<String> {
    let last = graph.ids.len() - 1;
    Some(match graph.node(node)? {
        Node::Feature(feature) => format!("{}_{}_{}", feature.layer, feature.number, feature.position),
        Node::Error { layer, position } => {
            let place = |feature: &Feature| (feature.layer, feature.position, feature.number);
            let taken = graph.features.binary_search_by_key(&(0, position, layer), place);
            let is_taken = taken.is_ok_and(|feature| pruned.nodes[feature]);
            format!("{}_{layer}_{position}", if is_taken { "error" } else { "0" })
        }
        Node::Token { position } => format!("E_{}_{position}", graph.ids[position]),
        Node::Logit(logit) => format!("{}_{}_{last}", graph.n_layers + 1, logit.id),
    })
}

fn described(graph: &Graph, pruned: &Pruned, node: usize, texts: &Texts) -> Option<Value> {
    let last = graph.ids.len() - 1;
    let influence = pruned.cumulative[node];
    let common = |feature: i64, layer: String, position: usize, kind: &str, js: String| {
        json!({
            "node_id": id(graph, pruned, node),
            "feature": feature,
            "layer": layer,
            "ctx_idx": position,
            "feature_type": kind,
            "token_prob": 0.0,
            "is_target_logit": false,
            "run_idx": 0,
            "reverse_ctx_idx": 0,
            "jsNodeId": js,
            "clerp": "",
            "influence": influence,
            "activation": null,
        })
    };
    Some(match graph.node(node)? {
        Node::Feature(feature) => {
            let number = cantor(feature.layer, feature.number) as i64;
            let js = format!("{}_{}-0", feature.layer, feature.number);
            let kind = "cross layer transcoder";
            let mut value = common(number, feature.layer.to_string(), feature.position, kind, js);
            value["activation"] = json!(feature.value);
            value
        }
        Node::Error { layer, position } => {
            let js = format!("{layer}_{position}-0");
            common(-1, layer.to_string(), position, "mlp reconstruction error", js)
        }
        Node::Token { position } => {
            let js = format!("E_{}-{position}", graph.ids[position]);
            common(position as i64, "E".to_owned(), position, "embedding", js)
        }
        Node::Logit(logit) => {
            let js = format!("L_{}-{last}", logit.id);
            let layer = (graph.n_layers + 1).to_string();
            let mut value = common(i64::from(logit.id), layer, last, "logit", js);
            let number = node - graph.n_sources();
            let text = texts.logits.get(number).map_or("", String::as_str);
            value["token_prob"] = json!(logit.probability);
            value["is_target_logit"] = json!(number == 0);
            value["clerp"] = json!(format!("Output \"{text}\" (p={:.3})", logit.probability));
            value["influence"] = Value::Null;
            value
        }
    })
}

/// Two numbers encoded as one (Cantor's pairing).
fn cantor(x: usize, y: usize) -> usize {
    (x + y) * (x + y + 1) / 2 + y
}
