//! Arguments of `dict`, and the flags that give dictionaries to other commands.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::{Changes, Cutting, Finding, Generation, ModelFlag, PromptArgs, Reading};

/// Commands about a dictionary.
#[derive(Debug, Subcommand)]
pub(crate) enum DictCommand {
    /// Format, architecture, place, widths, norms, and the publisher's statements; reads every number once.
    Info(DictInfo),
    /// What it does to a model on a text: L0, explained variance, cross-entropy recovered, next to the publisher's
    /// figures.
    Check(Box<DictCheck>),
    /// A page of the results of `easyroutine features`: an index with search and sorting, and each feature's strongest
    /// tokens in colour, histogram and logits. One file; or, for tens of thousands of features, a folder (`-o features/`)
    /// whose index.html opens from disk.
    Page(DictPage),
    /// Which features are active at each token of a prompt, strongest first.
    Active(Box<DictActive>),
    /// What the model writes when a feature is steered: one prompt continued at several strengths, side by side.
    Steer(Box<DictSteer>),
    /// Features over a data set for other programs: Parquet, batches for Neuronpedia, a cache for Delphi.
    Export(DictExport),
}

/// `dict active`
#[derive(Debug, ClapArgs)]
pub(crate) struct DictActive {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    #[command(flatten)]
    pub(crate) changes: Changes,
    /// Features: `features_NAME`, or `features_NAME_3` for a set; by default those of every dictionary. May repeat.
    #[arg(short, long, value_name = "KEYS")]
    pub(crate) activations: Vec<String>,
    /// Positions of the prompt: all, last, 5, -1, 4:9 (4 to 8), text:Paris. May repeat.
    #[arg(long, value_name = "POSITIONS", allow_hyphen_values = true)]
    pub(crate) positions: Vec<String>,
    /// Number of features listed per token.
    #[arg(short, default_value_t = 10, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) k: u32,
}

/// `dict steer`
#[derive(Debug, ClapArgs)]
pub(crate) struct DictSteer {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    #[command(flatten)]
    pub(crate) changes: Changes,
    /// The feature: `features_NAME:12`, or `features_NAME_3:12` of a set. `features_NAME:12@last` steers the last token
    /// alone; by default all are steered, new ones too.
    #[arg(long, value_name = "FEATURE")]
    pub(crate) feature: String,
    /// How many times its decoder row is added, comma-separated. 0 is the unchanged model. May repeat.
    #[arg(long, value_name = "STRENGTHS", required = true, allow_hyphen_values = true)]
    pub(crate) strength: Vec<String>,
    #[command(flatten)]
    pub(crate) generation: Generation,
}

/// `dict export`
#[derive(Debug, ClapArgs)]
pub(crate) struct DictExport {
    /// The file `features_NAME.jsonl` from `easyroutine features`; for Delphi, a file from `extract -a
    /// features_NAME,input_ids --positions all`.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The format.
    #[arg(long, value_enum, default_value_t = ExportTo::Parquet, value_name = "FORMAT")]
    pub(crate) to: ExportTo,
    /// The layer for Neuronpedia, if the dictionary does not state it.
    #[arg(long, value_name = "N")]
    pub(crate) layer: Option<u32>,
    /// The name of the set of dictionaries for Neuronpedia; by default the name in --dict.
    #[arg(long, value_name = "NAME")]
    pub(crate) set: Option<String>,
    /// Number of files for Delphi; 5 by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) splits: Option<u32>,
}

/// `--to` of `dict export`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportTo {
    /// A table with one row per feature, -o FILE.parquet.
    Parquet,
    /// batch-0.json and so on, as written by SAEDashboard, -o FOLDER.
    Neuronpedia,
    /// All activations as safetensors, -o FOLDER.
    Delphi,
}

/// `dict page`
#[derive(Debug, ClapArgs)]
pub(crate) struct DictPage {
    /// The file `features_NAME.jsonl` from `easyroutine features`.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Features by number: 12, 0:500 (0 to 499), comma-separated; by default all active ones.
    #[arg(long, value_name = "FEATURES")]
    pub(crate) features: Option<String>,
    /// Examples shown per feature, of the strongest and of the random ones.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) examples: u32,
}

/// `dict info`
#[derive(Debug, ClapArgs)]
pub(crate) struct DictInfo {
    #[command(flatten)]
    pub(crate) dictionary: DictPath,
    /// The model to use it with: a folder with config.json, a .gguf file, `org/name[@revision]`, or `smollm2`. Checks
    /// its place and its widths against this model.
    #[arg(short, long, value_name = "REF")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) finding: Finding,
}

/// `dict check`
#[derive(Debug, ClapArgs)]
pub(crate) struct DictCheck {
    #[command(flatten)]
    pub(crate) dictionary: DictPath,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    /// The text: .jsonl, .csv, .tsv and .parquet with --field, else one prompt per line; by default a short built-in
    /// text.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reading: Reading,
    #[command(flatten)]
    pub(crate) cutting: Cutting,
    /// Positions to encode and splice: `all-text` leaves out special tokens, as publishers do. May repeat.
    #[arg(long, value_name = "POSITIONS", default_value = "all-text", allow_hyphen_values = true)]
    pub(crate) positions: Vec<String>,
}

/// One dictionary.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct DictPath {
    /// A folder or a file of SAELens, Gemma Scope, sparsify, dictionary_learning, Qwen-Scope, Llama Scope or circuit-tracer,
    /// here or on the Hugging Face hub: `org/name[@revision][:PATH]`, as in
    /// `google/gemma-scope-2b-pt-res:layer_12/width_16k/average_l0_82`. Only its own files are downloaded.
    #[arg(value_name = "DICT")]
    pub(crate) path: String,
    #[command(flatten)]
    pub(crate) reading: DictReading,
}

/// Facts that a dictionary's files do not state.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct DictReading {
    /// Where it reads and writes, overriding its files: `resid_out_5`, or `mlp_in_5,mlp_out_5` for a transcoder.
    #[arg(long, value_name = "IN[,OUT]")]
    pub(crate) place: Option<String>,
    /// The factor √D / mean norm by which its activations were scaled, if its format does not store it.
    #[arg(long, value_name = "S", allow_hyphen_values = true)]
    pub(crate) norm_factor: Option<f64>,
}

/// Dictionaries that a command uses.
#[derive(Debug, Clone, Default, ClapArgs)]
#[command(next_help_heading = "Dictionaries")]
pub(crate) struct DictFlags {
    /// A sparse autoencoder or transcoder under a name: a folder, a file, or a place on the Hugging Face hub
    /// (`org/name[@revision][:PATH]`). Its features are `features_NAME`, or `features_NAME_3` for a set. --intervene
    /// 'features_NAME:12@all=0' ablates feature 12, '=8.5' clamps, '*2' scales, '+3' adds 3 times its decoder row;
    /// 'features_NAME@all=splice' replaces the activation by what the features decode to, '=keep-error' adds their error
    /// again. May repeat.
    #[arg(long, value_name = "NAME=REF")]
    pub(crate) dict: Vec<String>,
    /// Where a dictionary reads and writes, overriding its files. May repeat.
    #[arg(long, value_name = "[NAME=]IN[,OUT]", requires = "dict")]
    pub(crate) place: Vec<String>,
    /// The factor √D / mean norm by which its activations were scaled, if its format does not store it. May repeat.
    #[arg(long, value_name = "[NAME=]S", requires = "dict", allow_hyphen_values = true)]
    pub(crate) norm_factor: Vec<String>,
}
