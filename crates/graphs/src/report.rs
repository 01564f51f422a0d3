//! The report for a picture of a graph.

use easyroutine_view::graph::{GraphEdge, GraphNode, GraphReport, NodeKind};

use crate::graph::{Graph, Node};
use crate::influence::Pruned;
use crate::json::{Texts, shown};

/// The report of a pruned graph, with lines that describe it.
pub fn report(graph: &Graph, pruned: &Pruned, texts: &Texts, lines: Vec<String>) -> GraphReport {
    let nodes = shown(graph, pruned);
    let influence = graph.influence();
    let drawn = |node: &usize| {
        let (kind, layer, position, name, value) = match graph.node(*node)? {
            Node::Feature(feature) => {
                let (number, value) = (feature.number.to_string(), Some(f64::from(feature.value)));
                (NodeKind::Feature, feature.layer, feature.position, number, value)
            }
            Node::Error { layer, position } => (NodeKind::Error, layer, position, String::new(), None),
            Node::Token { position } => {
                let text = texts.tokens.get(position).cloned().unwrap_or_default();
                (NodeKind::Token, 0, position, text, None)
            }
            Node::Logit(logit) => {
                let text = texts.logits.get(node - graph.n_sources()).cloned().unwrap_or_default();
                (NodeKind::Logit, 0, graph.ids.len() - 1, text, Some(logit.probability))
            }
        };
        let (influence, cumulative) = (Some(influence[*node]), pruned.cumulative[*node]);
        Some(GraphNode { kind, layer, position, name, value, influence, cumulative })
    };
    let drawn: Vec<GraphNode> = nodes.iter().filter_map(drawn).collect();
    let edges = pruned.edges.iter().filter_map(|(target, source)| {
        Some(GraphEdge {
            from: nodes.binary_search(source).ok()?,
            to: nodes.binary_search(target).ok()?,
            weight: f64::from(*graph.row(*target)?.get(*source)?),
        })
    });
    GraphReport {
        title: "Attribution graph".to_owned(),
        lines,
        tokens: texts.tokens.clone(),
        n_layers: graph.n_layers,
        edges: edges.collect(),
        nodes: drawn,
    }
}

/// The description of a graph: its size, its scores, and its quality.
pub fn lines(graph: &Graph, pruned: &Pruned) -> Vec<String> {
    let (scores, certificate) = (graph.scores(), &graph.certificate);
    let with_a_row = match graph.features.len() == graph.n_active {
        true => String::new(),
        false => format!(", {} of them with a row", graph.features.len()),
    };
    let rows = match graph.features.len() == graph.n_active {
        true => format!("rows add up to {:.1e}", certificate.row_error),
        false => "rows of features without one are left out of the others' sums".to_owned(),
    };
    let checks = match certificate.largest_error() {
        Some(error) => {
            format!("{} interventions, the worst {error:.1e} off its edge", certificate.checks.len())
        }
        None => "no interventions".to_owned(),
    };
    vec![
        format!(
            "{} active features{with_a_row} · {} nodes and {} edges kept",
            graph.n_active,
            shown(graph, pruned).len(),
            pruned.edges.len()
        ),
        format!(
            "replacement score {:.4} · completeness score {:.4}",
            scores.replacement, scores.completeness
        ),
        format!("{rows} · {checks}"),
    ]
}
