//! A graph from the JSON that `easyroutine graph` writes, which is circuit-tracer's.

use std::collections::HashMap;

use serde::Deserialize;

use super::{GraphEdge, GraphNode, GraphReport, NodeKind};
use crate::error::{Error, ErrorKind};

#[derive(Deserialize)]
struct Document {
    metadata: Metadata,
    nodes: Vec<Node>,
    links: Vec<Link>,
}

#[derive(Deserialize)]
struct Metadata {
    prompt_tokens: Vec<String>,
}

#[derive(Deserialize)]
struct Node {
    node_id: String,
    layer: String,
    ctx_idx: usize,
    feature_type: String,
    #[serde(default)]
    token_prob: f64,
    #[serde(default)]
    clerp: String,
    /// The share of all influence, gathered from the largest on; a logit has none.
    influence: Option<f64>,
    activation: Option<f64>,
}

#[derive(Deserialize)]
struct Link {
    source: String,
    target: String,
    weight: f64,
}

impl GraphReport {
    /// Reads circuit-tracer's JSON. It holds shares of influence that are gathered, and no node's own influence.
    ///
    /// # Errors
    /// Text of another form; a node of an unknown kind; a position behind the prompt; two nodes of one name; a link to a node
    /// that is not there.
    pub fn from_json(text: &str) -> Result<GraphReport, Error> {
        let wrong = |what: String| Error::new(ErrorKind::Report, what);
        let Document { metadata, nodes: given, links } =
            serde_json::from_str(text).map_err(|e| wrong(format!("no graph: {e}")))?;
        let tokens = metadata.prompt_tokens;
        let mut numbers = HashMap::with_capacity(given.len());
        let mut nodes = Vec::with_capacity(given.len());
        for node in given {
            let id = node.node_id.clone();
            nodes
                .push(read(node, &tokens).ok_or_else(|| wrong(format!("{id:?} is no node of this prompt")))?);
            if numbers.insert(id.clone(), nodes.len() - 1).is_some() {
                return Err(wrong(format!("two nodes are called {id:?}")));
            }
        }
        let number = |id: &String| {
            numbers.get(id).copied().ok_or_else(|| wrong(format!("a link names {id:?}, which is no node")))
        };
        let edge = |Link { source, target, weight }: &Link| -> Result<GraphEdge, Error> {
            Ok(GraphEdge { from: number(source)?, to: number(target)?, weight: *weight })
        };
        let edges = links.iter().map(edge).collect::<Result<_, _>>()?;
        let layer = |node: &GraphNode| match node.kind {
            NodeKind::Feature | NodeKind::Error => Some(node.layer + 1),
            NodeKind::Token => None,
            // A logit stands above all layers.
            NodeKind::Logit => Some(node.layer.saturating_sub(1)),
        };
        let n_layers = nodes.iter().filter_map(layer).max().unwrap_or(0);
        nodes.iter_mut().filter(|node| node.kind == NodeKind::Logit).for_each(|node| node.layer = 0);
        Ok(GraphReport {
            title: "Attribution graph".to_owned(),
            lines: Vec::new(),
            tokens,
            n_layers,
            nodes,
            edges,
        })
    }
}

/// Layers that a model may have at most; what a file claims beyond that is no layer.
const MOST_LAYERS: usize = 100_000;

fn read(node: Node, tokens: &[String]) -> Option<GraphNode> {
    let Node { node_id, layer, ctx_idx: position, feature_type, token_prob, clerp, influence, activation } =
        node;
    let token = tokens.get(position)?;
    let number = || layer.parse::<usize>().ok().filter(|layer| *layer < MOST_LAYERS);
    let (kind, layer, name, value) = match feature_type.as_str() {
        "cross layer transcoder" => {
            let name = node_id.split('_').nth(1).filter(|name| name.parse::<u32>().is_ok())?;
            (NodeKind::Feature, number()?, name.to_owned(), activation)
        }
        "mlp reconstruction error" => (NodeKind::Error, number()?, String::new(), None),
        "embedding" => (NodeKind::Token, 0, token.clone(), None),
        "logit" => {
            // `Output " Paris" (p=0.412)`
            let text = clerp.strip_prefix("Output \"").and_then(|rest| rest.rsplit_once("\" (p="));
            let text = text.map_or(clerp.as_str(), |(text, _)| text);
            (NodeKind::Logit, number()?, text.to_owned(), Some(token_prob))
        }
        _ => return None,
    };
    Some(GraphNode {
        kind,
        layer,
        position,
        name,
        value,
        influence: None,
        cumulative: influence.unwrap_or(0.0),
    })
}
