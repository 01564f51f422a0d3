//! Circuits: a subset of the edges, and how much of a metric it carries alone.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::graph::{Graph, Reader, Writer};
use crate::attribution::largest;
use crate::error::{Error, ErrorKind, Result};

/// Fractions of all edges at which circuits are compared (MIB, arXiv 2504.13151).
pub const FRACTIONS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

/// A set of edges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circuit {
    /// # Shapes
    /// Writers by readers; false if there is no edge.
    kept: Vec<bool>,
}

impl Circuit {
    /// The edges with the largest absolute scores, pruned to those on a path from the input to the logits. The result
    /// may be empty.
    ///
    /// # Shapes
    /// `scores`: writers by readers.
    ///
    /// # Errors
    /// If `n` is zero or exceeds the number of edges.
    pub fn top(graph: &Graph, scores: &[f64], n: usize) -> Result<Self> {
        let all = graph.n_edges();
        if n == 0 || n > all {
            return Err(Error::input(format!(
                "a circuit of {n} edges: the model has {all}, and at least 1 is kept"
            )));
        }
        let edges: Vec<usize> =
            edges(graph).map(|(writer, reader)| writer * graph.n_readers() + reader).collect();
        let values: Vec<f64> = edges.iter().map(|edge| scores[*edge]).collect();
        let mut kept = vec![false; graph.n_writers() * graph.n_readers()];
        largest(&values, n).into_iter().for_each(|at| kept[edges[at]] = true);
        let mut circuit = Circuit { kept };
        circuit.prune(graph);
        Ok(circuit)
    }

    /// Whether an edge is kept, by the indices of its writer and its reader.
    pub fn has(&self, graph: &Graph, writer: usize, reader: usize) -> bool {
        self.kept[writer * graph.n_readers() + reader]
    }

    /// Number of kept edges.
    pub fn len(&self) -> usize {
        self.kept.iter().filter(|kept| **kept).count()
    }

    /// Whether no edge is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kept edges by name, `a0.h1->a2.h3<q>`, writers in order.
    pub fn names(&self, graph: &Graph) -> Vec<String> {
        let (writers, readers): (Vec<Writer>, Vec<Reader>) =
            (graph.writers().collect(), graph.readers().collect());
        edges(graph)
            .filter(|(writer, reader)| self.has(graph, *writer, *reader))
            .map(|(writer, reader)| format!("{}->{}", writers[writer], readers[reader]))
            .collect()
    }

    /// Removes every edge that is on no path from the input to the logits.
    fn prune(&mut self, graph: &Graph) {
        let readers: Vec<Reader> = graph.readers().collect();
        let width = graph.n_readers();
        // Writers reachable from the input. A writer comes after everything that it reads.
        let mut reached = vec![false; graph.n_writers()];
        reached[0] = true;
        for (reader, what) in readers.iter().enumerate() {
            let Some(own) = part_of(graph, *what) else { continue };
            let leads = (0..graph.reach(*what)).any(|u| reached[u] && self.kept[u * width + reader]);
            reached[own] |= leads;
        }
        // Writers from which the logits are reachable.
        let mut useful = vec![false; graph.n_writers()];
        for writer in (0..graph.n_writers()).rev() {
            useful[writer] = readers.iter().enumerate().any(|(reader, what)| {
                self.kept[writer * width + reader] && part_of(graph, *what).is_none_or(|own| useful[own])
            });
        }
        for (writer, reader) in edges(graph).collect::<Vec<_>>() {
            let leads_on = part_of(graph, readers[reader]).is_none_or(|own| useful[own]);
            self.kept[writer * width + reader] &= reached[writer] && leads_on;
        }
    }

    /// The circuit in the JSON of hannamw/EAP-IG (`src/eap/graph.py`): `cfg`, `nodes`, and each edge's `score` and
    /// `in_graph`.
    pub fn to_json(&self, graph: &Graph, scores: &[f64]) -> Value {
        let (writers, readers): (Vec<Writer>, Vec<Reader>) =
            (graph.writers().collect(), graph.readers().collect());
        let mut inside: BTreeSet<String> = BTreeSet::new();
        let mut all = Map::new();
        for (writer, reader) in edges(graph) {
            let is_kept = self.has(graph, writer, reader);
            if is_kept {
                inside.insert(writers[writer].to_string());
                inside.insert(
                    part_of(graph, readers[reader]).map_or("logits".to_owned(), |w| writers[w].to_string()),
                );
            }
            let score = scores[writer * graph.n_readers() + reader];
            let name = format!("{}->{}", writers[writer], readers[reader]);
            all.insert(name, json!({"score": score, "in_graph": is_kept}));
        }
        let names = writers.iter().map(ToString::to_string).chain(["logits".to_owned()]);
        // That program has the logits in every graph.
        let node = |name: String| {
            let is_inside = name == "logits" || inside.contains(&name);
            (name, json!({"in_graph": is_inside}))
        };
        json!({
            "cfg": {
                "n_layers": graph.n_layers,
                "n_heads": graph.n_heads,
                "parallel_attn_mlp": graph.parallel.iter().all(|parallel| *parallel),
                "d_model": graph.d_model,
            },
            "nodes": names.map(node).collect::<Map<String, Value>>(),
            "edges": all,
        })
    }

    /// A circuit and its scores from that JSON. Unlisted edges are left out, with a score of 0.
    ///
    /// # Errors
    /// If the document has another form or belongs to another model, the graph lacks a node or an edge, or a score is
    /// not a number.
    pub fn from_json(graph: &Graph, json: &Value) -> Result<(Self, Vec<f64>)> {
        let wrong = |what: String| Error::new(ErrorKind::Format, what);
        for (key, ours) in [("n_layers", graph.n_layers), ("n_heads", graph.n_heads)] {
            let theirs = json.get("cfg").and_then(|cfg| cfg.get(key)).and_then(Value::as_u64);
            if theirs != Some(ours as u64) {
                let theirs = theirs.map_or("missing".to_owned(), |n| n.to_string());
                return Err(wrong(format!(
                    "`cfg.{key}` is {theirs}, and the model's is {ours}: a circuit fits one model"
                )));
            }
        }
        let listed = json.get("edges").and_then(Value::as_object);
        let listed = listed.ok_or_else(|| wrong("there are no `edges`".to_owned()))?;
        let mut kept = vec![false; graph.n_writers() * graph.n_readers()];
        let mut scores = vec![0.0; kept.len()];
        for (name, edge) in listed {
            let shown: String = name.chars().take(60).flat_map(char::escape_debug).collect();
            let no_edge = || wrong(format!("`{shown}` is not an edge of this model"));
            let (writer, reader) = name.split_once("->").ok_or_else(no_edge)?;
            let (writer, reader): (Writer, Reader) = (writer.parse()?, reader.parse()?);
            let (u, v) =
                (graph.writer(writer).ok_or_else(no_edge)?, graph.reader(reader).ok_or_else(no_edge)?);
            if u >= graph.reach(reader) {
                return Err(no_edge());
            }
            let at = u * graph.n_readers() + v;
            kept[at] = edge.get("in_graph").and_then(Value::as_bool).unwrap_or(false);
            scores[at] = match edge.get("score") {
                None | Some(Value::Null) => 0.0,
                Some(score) => {
                    score.as_f64().ok_or_else(|| wrong(format!("the score of `{shown}` is not a number")))?
                }
            };
        }
        Ok((Circuit { kept }, scores))
    }
}

/// The writer of the part that a reader belongs to; `None` for the logits.
pub(super) fn part_of(graph: &Graph, reader: Reader) -> Option<usize> {
    match reader {
        Reader::Head { layer, head, .. } => graph.writer(Writer::Head { layer, head }),
        Reader::Mlp { layer } => graph.writer(Writer::Mlp { layer }),
        Reader::Logits => None,
    }
}

/// Indices of writer and reader of every edge, in order of writers.
fn edges(graph: &Graph) -> impl Iterator<Item = (usize, usize)> + '_ {
    let readers: Vec<usize> = graph.readers().map(|reader| graph.reach(reader)).collect();
    (0..graph.n_writers()).flat_map(move |writer| {
        let reads: Vec<usize> = (0..readers.len()).filter(|reader| writer < readers[*reader]).collect();
        reads.into_iter().map(move |reader| (writer, reader))
    })
}

/// How much of a metric circuits of growing size carry.
#[derive(Debug, Clone, PartialEq)]
pub struct Faithfulness {
    /// Fractions of all edges.
    pub fractions: Vec<f64>,
    /// Edges of each circuit, after pruning.
    pub edges: Vec<usize>,
    /// The mean metric of each circuit.
    pub metrics: Vec<f64>,
    /// (metric - corrupted) / (clean - corrupted).
    pub values: Vec<f64>,
}

impl Faithfulness {
    /// From the mean metrics of circuits, clean runs and corrupted runs.
    ///
    /// # Errors
    /// If clean and corrupted runs do not differ in the metric: faithfulness is then undefined.
    pub fn of(edges: Vec<usize>, metrics: Vec<f64>, clean: f64, corrupted: f64) -> Result<Self> {
        if clean == corrupted {
            return Err(Error::input(
                "the clean and the corrupted runs have the same metric, so there is no difference for a circuit to carry",
            ));
        }
        let values = metrics.iter().map(|m| (m - corrupted) / (clean - corrupted)).collect();
        Ok(Faithfulness { fractions: FRACTIONS.to_vec(), edges, metrics, values })
    }

    /// CPR: the area under the curve, by trapezoids over the fractions.
    pub fn cpr(&self) -> f64 {
        self.area(|f| f)
    }

    /// CMD: the area between the curve and 1.
    pub fn cmd(&self) -> f64 {
        self.area(|f| (1.0 - f).abs())
    }

    fn area(&self, of: impl Fn(f64) -> f64) -> f64 {
        let points: Vec<(f64, f64)> =
            self.fractions.iter().zip(&self.values).map(|(x, f)| (*x, of(*f))).collect();
        points.windows(2).map(|pair| (pair[1].0 - pair[0].0) * (pair[0].1 + pair[1].1) / 2.0).sum()
    }

    /// The curve as JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "fractions": self.fractions,
            "edges": self.edges,
            "metrics": self.metrics,
            "faithfulness": self.values,
            "cpr": self.cpr(),
            "cmd": self.cmd(),
        })
    }
}

/// The number of edges for each fraction.
pub fn sizes(graph: &Graph) -> Vec<usize> {
    FRACTIONS.iter().map(|fraction| ((graph.n_edges() as f64 * fraction) as usize).max(1)).collect()
}
