//! Attribution graphs (Ameisen et al. 2025, "Circuit Tracing") as in circuit-tracer: one prompt through a model whose
//! MLPs are read by transcoders, with attention patterns and norm scales held constant. Every feature is then a linear
//! function of earlier features, reconstruction errors and tokens, and so is every logit; the coefficients are the
//! edges.
//!
//! [`Graph::new`] computes the rows, [`Graph::influence`] and [`Graph::prune`] find what matters, and [`to_json`]
//! writes files for circuit-tracer's viewer and Neuronpedia. A graph carries its [`Certificate`]: how well its rows add
//! up, and how well its edges predict interventions. docs/design/graphs.md
#![forbid(unsafe_code)]

mod certificate;
mod graph;
mod influence;
mod json;
mod options;
mod report;
mod rows;
mod sources;

pub use certificate::{Certificate, Check};
pub use graph::{Feature, Graph, Logit, Node};
pub use influence::{Pruned, Scores};
pub use json::{Texts, to_json};
pub use options::Options;
pub use report::{lines, report};
