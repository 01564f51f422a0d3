//! A circuit from the JSON that `easyroutine edges` writes, which is EAP-IG's.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{CircuitEdge, CircuitReport, place};
use crate::error::{Error, ErrorKind};

#[derive(Deserialize)]
struct Document {
    cfg: Config,
    edges: BTreeMap<String, Edge>,
}

#[derive(Deserialize)]
struct Config {
    n_layers: usize,
    n_heads: usize,
}

#[derive(Deserialize)]
struct Edge {
    score: f64,
    in_graph: bool,
}

/// Layers, and heads of a layer, that a model may have at most.
const MOST: usize = 100_000;

impl CircuitReport {
    /// Reads EAP-IG's JSON: the edges that are in the circuit. It holds no words.
    ///
    /// # Errors
    /// Text of another form; an edge between nodes that the model does not have.
    pub fn from_json(text: &str) -> Result<CircuitReport, Error> {
        let wrong = |what: String| Error::new(ErrorKind::Report, what);
        let Document { cfg: Config { n_layers, n_heads }, edges: listed } =
            serde_json::from_str(text).map_err(|e| wrong(format!("no circuit: {e}")))?;
        if n_layers > MOST || n_heads > MOST {
            return Err(wrong(format!("no model has {n_layers} layers of {n_heads} heads")));
        }
        let is_node = |name: &str| place(name, n_layers, n_heads).is_some();
        let mut edges = Vec::new();
        for (name, Edge { score, .. }) in listed.iter().filter(|(_, edge)| edge.in_graph) {
            let edge = read(name, *score).filter(|edge| is_node(&edge.from) && is_node(&edge.to));
            edges.push(edge.ok_or_else(|| wrong(format!("{name:?} is no edge of this model")))?);
        }
        Ok(CircuitReport {
            title: "Circuit".to_owned(),
            lines: Vec::new(),
            prompts: Vec::new(),
            meaning: ["corrupting it raises the metric", "corrupting it lowers the metric"]
                .map(str::to_owned),
            n_layers,
            n_heads,
            edges,
        })
    }
}

/// `a3.h2->a5.h1<q>`
fn read(name: &str, score: f64) -> Option<CircuitEdge> {
    let (from, to) = name.split_once("->")?;
    let (to, input) = match to.strip_suffix('>').and_then(|rest| rest.split_once('<')) {
        Some((to, input)) => (to, Some(input.chars().next().filter(|_| input.len() == 1)?)),
        None => (to, None),
    };
    Some(CircuitEdge { from: from.to_owned(), to: to.to_owned(), input, score })
}
