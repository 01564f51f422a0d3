//! Edges: which part's output, read by which other part, carries a metric; and circuits of the largest edges.

mod circuit;
mod graph;
mod run;
mod scores;
mod slices;
mod state;

pub use circuit::{Circuit, FRACTIONS, Faithfulness, sizes};
pub use graph::{Graph, Input, Reader, Writer};
pub use run::{CircuitRunner, ends};
pub use scores::{EdgeMethod, EdgeScorer, EdgeSums, PairScores};
