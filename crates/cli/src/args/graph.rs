//! Arguments of `graph`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{DictReading, ModelFlag, PromptArgs};

/// `graph`
#[derive(Debug, ClapArgs)]
pub(crate) struct Graph {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    /// The transcoders that stand for the MLPs: a folder of circuit-tracer, per layer or cross-layer, or any other set of
    /// transcoders. A layer without one has its whole MLP as an error.
    #[arg(long, value_name = "PATH")]
    pub(crate) dict_set: PathBuf,
    #[command(flatten)]
    pub(crate) reading: DictReading,
    /// A token whose logit is explained: its exact text (` Paris`) or `id:7042`. May repeat. Else the most probable ones.
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true, conflicts_with_all = ["logits", "probability"])]
    pub(crate) answer: Vec<String>,
    /// Most logits that are explained.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) logits: usize,
    /// The probability that they reach together, then no more are taken.
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub(crate) probability: f64,
    /// Most features that get a row, those of the largest influence.
    #[arg(long, value_name = "N", default_value_t = 7500)]
    pub(crate) max_features: usize,
    /// Features and errors of the first positions are left out: what a model computes at its first token is unlike the rest.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) skip_first: usize,
    /// Keep the nodes that have this share of all influence on the logits.
    #[arg(long, value_name = "SHARE", default_value_t = 0.8)]
    pub(crate) node_threshold: f64,
    /// Keep the edges between them that have this share.
    #[arg(long, value_name = "SHARE", default_value_t = 0.98)]
    pub(crate) edge_threshold: f64,
    /// Take away so many sources, one at a time, and compare what changes with their edges.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) check: usize,
    /// The graph's short name in its JSON; the first words of the prompt unless given.
    #[arg(long, value_name = "NAME")]
    pub(crate) slug: Option<String>,
    /// What a viewer looks descriptions of the features up by; the name of the transcoders' folder unless given.
    #[arg(long, value_name = "NAME")]
    pub(crate) scan: Option<String>,
    /// How many edges a table lists, the largest first.
    #[arg(short, default_value_t = 20, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) k: u32,
}
