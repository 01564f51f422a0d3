//! A circuit.

use easyroutine::attribution::edges::{Circuit, Faithfulness, Graph, Reader, Writer};
use easyroutine_view::circuit::{CircuitEdge, CircuitReport};

/// The texts of a picture of a circuit.
#[derive(Debug, Clone)]
pub struct CircuitWords {
    /// The model, the method, the metric: one line each.
    pub lines: Vec<String>,
    /// Prompts with their roles.
    pub prompts: Vec<(String, String)>,
    /// The meaning of positive and negative scores.
    pub meaning: [String; 2],
}

/// The report of a circuit.
pub fn circuit(graph: &Graph, circuit: &Circuit, scores: &[f64], words: CircuitWords) -> CircuitReport {
    let (writers, readers): (Vec<Writer>, Vec<Reader>) =
        (graph.writers().collect(), graph.readers().collect());
    let mut edges = Vec::new();
    for (w, writer) in writers.iter().enumerate() {
        for (r, reader) in readers.iter().enumerate().filter(|(r, _)| circuit.has(graph, w, *r)) {
            let (to, input) = match reader {
                Reader::Head { layer, head, input } => {
                    let (layer, head) = (*layer, *head);
                    (Writer::Head { layer, head }.to_string(), Some(input.letter()))
                }
                other => (other.to_string(), None),
            };
            let score = scores[w * readers.len() + r];
            edges.push(CircuitEdge { from: writer.to_string(), to, input, score });
        }
    }
    let CircuitWords { lines, prompts, meaning } = words;
    let (n_layers, n_heads) = (graph.n_layers, graph.n_heads);
    CircuitReport { title: "Circuit".to_owned(), lines, prompts, meaning, n_layers, n_heads, edges }
}

/// A curve of faithfulness in words.
pub fn curve_words(curve: &Faithfulness) -> String {
    let points: Vec<String> = curve
        .fractions
        .iter()
        .zip(&curve.values)
        .map(|(fraction, value)| format!("{} %: {value:.3}", fraction * 100.0))
        .collect();
    format!("faithfulness {} · CPR {:.4} · CMD {:.4}", points.join(", "), curve.cpr(), curve.cmd())
}
