//! Arguments of `graph`.

use clap::Args as ClapArgs;

use super::{DictReading, ModelFlag, PromptArgs};

/// `graph`
#[derive(Debug, ClapArgs)]
pub(crate) struct Graph {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    /// The transcoders that replace the MLPs: a folder of circuit-tracer, per layer or cross-layer, or any other set of
    /// transcoders, on this machine or on the hub (`org/name[@revision][:PATH]`). For a layer without one, the whole MLP
    /// counts as an error.
    #[arg(long, value_name = "REF")]
    pub(crate) dict_set: String,
    #[command(flatten)]
    pub(crate) reading: DictReading,
    /// A token whose logit is explained: its exact text (` Paris`) or `id:7042`. May repeat. Default: the most probable
    /// ones.
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true, conflicts_with_all = ["logits", "probability"])]
    pub(crate) answer: Vec<String>,
    /// Maximum number of explained logits.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) logits: usize,
    /// The total probability of the explained logits at which no more are added.
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub(crate) probability: f64,
    /// Maximum number of features with a row, those with the greatest influence.
    #[arg(long, value_name = "N", default_value_t = 7500)]
    pub(crate) max_features: usize,
    /// Number of first positions whose features and errors are left out: a model's computation at its first token is
    /// unlike any other.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) skip_first: usize,
    /// Keep the nodes that hold this share of all influence on the logits.
    #[arg(long, value_name = "SHARE", default_value_t = 0.8)]
    pub(crate) node_threshold: f64,
    /// Keep the edges between them that hold this share.
    #[arg(long, value_name = "SHARE", default_value_t = 0.98)]
    pub(crate) edge_threshold: f64,
    /// Number of sources to remove, one at a time, to compare the resulting changes with their edges.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) check: usize,
    /// The graph's short name in its JSON; by default the first words of the prompt.
    #[arg(long, value_name = "NAME")]
    pub(crate) slug: Option<String>,
    /// The name under which a viewer looks up feature descriptions; by default that of the transcoders' folder.
    #[arg(long, value_name = "NAME")]
    pub(crate) scan: Option<String>,
    /// Number of edges in a table, largest first.
    #[arg(short, default_value_t = 20, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) k: u32,
}
