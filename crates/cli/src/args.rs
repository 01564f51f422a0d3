//! Arguments as typed.

mod attribute;
mod chatting;
mod check;
mod compare;
mod dict;
mod directions;
mod dla;
mod edges;
mod examples;
mod extract;
mod features;
mod grad;
mod graph;
mod lenses;
mod pairs;
mod reading;
pub(crate) mod runs;
mod serve;
mod sweep;

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use easyroutine::Dtype;

pub(crate) use attribute::{Attribute, MethodArg, PointsArg};
pub(crate) use chatting::Chatting;
pub(crate) use check::Check;
pub(crate) use compare::{Compare, PatchArg, TableArg};
pub(crate) use dict::{
    DictActive, DictCheck, DictCommand, DictExport, DictFlags, DictInfo, DictPage, DictReading, DictSteer,
    ExportTo,
};
pub(crate) use directions::{Direction, ProbeApply, ProbeArg, ProbeCommand, ProbeFit, Sides, SteeringArg};
pub(crate) use dla::{CutArg, Dla};
pub(crate) use edges::{EdgeArg, Edges};
pub(crate) use examples::command;
pub(crate) use extract::{Extract, PatternArg};
pub(crate) use features::Features;
pub(crate) use grad::{Grad, Measure, RuleArg, SmoothArg};
pub(crate) use graph::Graph;
pub(crate) use lenses::{Fit, JacobianCommand, Merge, OptimiserArg, Tune};
pub(crate) use pairs::PromptOrPairs;
pub(crate) use reading::Reading;
pub(crate) use serve::Serve;
pub(crate) use sweep::{Ablate, AlongArg, ByArg, EffectArg, MeanOverArg, Patch, Sweep};

const SURROUNDINGS: &str = "`easyroutine env` shows the environment it sees; `easyroutine man` lists all \
variables and exit statuses.";

/// Look inside language models.
///
/// Loads any Hugging Face decoder, runs it, reads any activation, projects layers onto the vocabulary.
#[derive(Debug, Parser)]
#[command(name = "easyroutine", version, arg_required_else_help = true, after_help = SURROUNDINGS)]
pub(crate) struct Args {
    /// The format of results. `auto` follows the extension of `-o`, else the variable EASYROUTINE_FORMAT, else prints a
    /// table on a terminal and TSV in a pipe.
    #[arg(long, global = true, value_enum, default_value_t = Format::Auto, value_name = "FORMAT")]
    pub(crate) format: Format,
    /// Write to a file; its extension selects the format. May repeat for commands that draw pictures.
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(crate) output: Vec<PathBuf>,
    /// When to use colour.
    #[arg(long, global = true, value_enum, default_value_t = Colour::Auto, value_name = "WHEN")]
    pub(crate) color: Colour,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What each layer would predict next, at every token.
    Lens(Lens),
    /// Attention patterns: thumbnails of all heads, or one head large.
    Attn(Attn),
    /// Save activations of prompts to a safetensors file, or as a run in a store.
    Extract(Box<Extract>),
    /// The most likely next tokens.
    Run(Next),
    /// Patch activations of one prompt into the run of another: a grid of layers by positions, heads, sites or experts.
    Patch(Patch),
    /// Direct logit attribution: what each part, head or neuron writes towards a token.
    Dla(Dla),
    /// The gradient of a metric of the logits with respect to any activation.
    Grad(Grad),
    /// Which activations carry a metric of the logits: attribution patching and integrated gradients.
    Attribute(Box<Attribute>),
    /// Which edges between heads and MLPs carry a metric, and the circuit of the largest: EAP, EAP-IG.
    Edges(Box<Edges>),
    /// An attribution graph of a prompt over transcoder features, as in circuit-tracer.
    Graph(Box<Graph>),
    /// Fit Jacobian lenses on prompts, for `lens --jacobian`.
    Jacobian {
        /// What to do.
        #[command(subcommand)]
        command: JacobianCommand,
    },
    /// Train a tuned lens on prompts, for `lens --tuned` and the tuned-lens package.
    Tune(Box<Tune>),
    /// The effect of removing heads, positions, experts or whole parts: a grid by layer.
    Ablate(Ablate),
    /// Two checkpoints of one architecture, such as a model and its quantised form: where they part, and which tensors
    /// cause it.
    Compare(Box<Compare>),
    /// How a text is divided into tokens.
    Tokens(Tokens),
    /// What a model is, whether it is supported, and whether it obeys the laws of decoders.
    Model {
        /// What about it.
        #[command(subcommand)]
        command: ModelCommand,
    },
    /// Sparse autoencoders and transcoders: what they are, and whether they fit a model.
    Dict {
        /// What about it.
        #[command(subcommand)]
        command: DictCommand,
    },
    /// Statistics of every feature of a dictionary over a data set: how often and how strongly it is active, its
    /// strongest tokens, its logits.
    Features(Box<Features>),
    /// Steering vectors from pairs of prompts, one per layer: for --intervene, or as a control vector for llama.cpp.
    Direction(Box<Direction>),
    /// Probes that separate two classes of prompts, one per layer.
    Probe {
        /// What to do.
        #[command(subcommand)]
        command: ProbeCommand,
    },
    /// Saved runs: find, read, change, verify.
    Runs(runs::Runs),
    /// A page in the browser for exploring prompts: lens, attention, attribution, patching, saved runs.
    Serve(Box<Serve>),
    /// Version, processor, folders and relevant environment variables.
    Env,
    /// A shell script that completes flags, models and activation keys.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// The manual page, in roff.
    Man,
}

/// Commands about a model.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Architecture, parameters, memory required.
    Info(ModelArgs),
    /// The forward pass step by step: what each step computes and costs, and which activations can be read after it.
    Show(ModelArgs),
    /// Supported architectures and demo models.
    Ls,
    /// Check the laws of every decoder on this model; exit status 1 if one is broken.
    Check(Check),
    /// Write the model as a Hugging Face folder from which transformers computes the same logits.
    Export(Export),
}

/// Which model, and how it is loaded.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct ModelArgs {
    /// A folder with config.json, a .gguf file, `org/name[@revision]` on the hub, or `smollm2` (the demo model).
    /// Default: the variable EASYROUTINE_MODEL.
    #[arg(short, long, value_name = "REF")]
    pub(crate) model: Option<String>,
    /// The model, instead of --model.
    #[arg(value_name = "REF", conflicts_with = "model")]
    pub(crate) reference: Option<String>,
    #[command(flatten)]
    pub(crate) loading: Loading,
}

/// The model, for commands whose last word is something else.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct ModelFlag {
    /// A folder with config.json, a .gguf file, `org/name[@revision]` on the hub, or `smollm2` (the demo model).
    #[arg(short, long, env = "EASYROUTINE_MODEL", value_name = "REF")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) loading: Loading,
}

/// How a model is found and read.
#[derive(Debug, Clone, PartialEq, Eq, ClapArgs)]
pub(crate) struct Finding {
    /// Branch, tag or commit on the hub.
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    /// Never download.
    #[arg(long, env = "EASYROUTINE_OFFLINE", value_parser = FalseyValueParser::new())]
    pub(crate) offline: bool,
    /// Accept an unknown key of config.json, with a warning. May repeat.
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_config_key: Vec<String>,
    /// Pre-tokenization of a GGUF file that does not state it: llama-bpe, qwen2, ...
    #[arg(long, value_name = "NAME")]
    pub(crate) pre: Option<String>,
    /// Ignore a surplus tensor of the weights, with a warning; `*` matches anything. May repeat.
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_tensor: Vec<String>,
    /// Apply a LoRA adapter: a folder written by peft, or `org/name` on the hub. An adapter next to the weights is
    /// applied automatically.
    #[arg(long, value_name = "REF", conflicts_with = "no_adapter")]
    pub(crate) adapter: Option<String>,
    /// Ignore an adapter next to the weights.
    #[arg(long)]
    pub(crate) no_adapter: bool,
}

/// How a model is loaded.
#[derive(Debug, Clone, PartialEq, Eq, ClapArgs)]
pub(crate) struct Loading {
    #[command(flatten)]
    pub(crate) finding: Finding,
    /// Type of inputs to matrix products; sums are always f32.
    #[arg(long, value_enum, default_value_t = DtypeArg::F32, env = "EASYROUTINE_DTYPE", value_name = "TYPE")]
    pub(crate) dtype: DtypeArg,
    /// Number of threads; all cores by default. Results are identical to the bit.
    #[arg(long, env = "EASYROUTINE_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Memory for weights and activations, such as 3G; what is free by default. A model that needs more is read layer by
    /// layer in each run. Results are identical to the bit.
    #[arg(long, env = "EASYROUTINE_MEMORY", value_name = "SIZE", value_parser = crate::memory::size)]
    pub(crate) memory: Option<u64>,
    /// Where to compute; only the CPU is supported.
    #[arg(long, value_enum, default_value_t = Device::Cpu, env = "EASYROUTINE_DEVICE", value_name = "DEVICE")]
    pub(crate) device: Device,
}

/// The prompt and its tokenization.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct PromptArgs {
    /// The prompt; `-` reads standard input.
    #[arg(value_name = "PROMPT", required_unless_present = "file", conflicts_with = "file")]
    pub(crate) prompt: Option<String>,
    /// Read the prompt from a file (one newline at its end is removed).
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) cutting: Cutting,
    #[command(flatten)]
    pub(crate) chat: Chatting,
}

/// How a prompt becomes tokens.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Cutting {
    /// Beginning-of-sequence token: as the model's tokenizer does, always, or never.
    #[arg(long, value_enum, default_value_t = BosArg::Auto, value_name = "WHEN")]
    pub(crate) bos: BosArg,
    /// Truncate a prompt that is longer than the model's context, instead of refusing it.
    #[arg(long)]
    pub(crate) truncate: bool,
}

/// Changes while the model runs.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Changes {
    /// Change an activation: 'resid_out_5@last=0' sets it, '*0.5' scales, '+2*f.safetensors::v' adds, '=row:1' and
    /// '=mean:f.safetensors::t' replace. Patterns: 'pattern_L3H1@columns:3=0', 'rows:5', 'grid:9x2'; before the softmax
    /// 'pre:columns:3=-inf'; after it, with rows rescaled to sum to 1, 'rescaled:columns:3=0'. May repeat, and applies
    /// in order. docs/INTERVENTIONS.md has the whole grammar.
    #[arg(long, value_name = "KEY@POSITIONS OP")]
    pub(crate) intervene: Vec<String>,
    /// Seed of random positions (`random-text-3`) and of sampled tokens.
    #[arg(long, default_value_t = 0, env = "EASYROUTINE_SEED", value_name = "N")]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) dictionaries: DictFlags,
}

/// `lens`
#[derive(Debug, ClapArgs)]
pub(crate) struct Lens {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    #[command(flatten)]
    pub(crate) changes: Changes,
    /// Positions of the prompt: all, last, 5, -1, 4:9 (4 to 8), text:Paris. May repeat.
    #[arg(long, value_name = "POSITIONS", allow_hyphen_values = true)]
    pub(crate) positions: Vec<String>,
    /// Layers: `emb`, 5, -1 (the last), 4:9 (4 to 8), 0:30:5 (every fifth), comma-separated.
    #[arg(long, value_name = "LAYERS", allow_hyphen_values = true)]
    pub(crate) layers: Option<String>,
    /// What colour represents (without colour: the number); `final`, or `tracked` if --track names a token.
    #[arg(long, value_enum, value_name = "METRIC")]
    pub(crate) metric: Option<MetricArg>,
    /// Final norm with each vector's own statistics, with the final layer's, or none.
    #[arg(long, value_enum, default_value_t = NormArg::Own, value_name = "NORM")]
    pub(crate) norm: NormArg,
    /// The component to read: resid_out, resid_in, resid_mid, attn_out, attn_raw, mlp_out, head_out.
    #[arg(long, default_value = "resid_out", value_name = "SITE")]
    pub(crate) component: String,
    /// Read each layer through its translator in a tuned lens: a folder from the tuned-lens package.
    #[arg(long, value_name = "DIR")]
    pub(crate) tuned: Option<PathBuf>,
    /// First carry each layer to the last with a Jacobian lens: a published .pt file, or one from `jacobian fit`.
    #[arg(long, value_name = "FILE", conflicts_with = "tuned")]
    pub(crate) jacobian: Option<PathBuf>,
    /// Number of tokens listed per cell.
    #[arg(short, default_value_t = 10, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) k: u32,
    /// A token whose probability is tracked: its exact text (` Paris`), or `id:7042`.
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub(crate) track: Option<String>,
    /// Light on dark, for SVG and PNG (a page follows its reader's setting).
    #[arg(long)]
    pub(crate) dark: bool,
}

/// `attn`
#[derive(Debug, ClapArgs)]
pub(crate) struct Attn {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    #[command(flatten)]
    pub(crate) changes: Changes,
    /// Layers: 5, -1 (the last), 4:9 (4 to 8); all by default.
    #[arg(long, visible_alias = "layers", value_name = "LAYER", allow_hyphen_values = true)]
    pub(crate) layer: Option<String>,
    /// Heads of each layer: 3, -1 (the last), 0:4 (0 to 3); all by default.
    #[arg(long, visible_alias = "heads", value_name = "HEAD", allow_hyphen_values = true)]
    pub(crate) head: Option<String>,
    /// Leave the first token out of pictures: in most heads it gets nearly all the weight.
    #[arg(long)]
    pub(crate) hide_first: bool,
    /// Light on dark, for SVG and PNG (a page follows its reader's setting).
    #[arg(long)]
    pub(crate) dark: bool,
}

/// `run`
#[derive(Debug, ClapArgs)]
pub(crate) struct Next {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
    #[command(flatten)]
    pub(crate) changes: Changes,
    /// Number of tokens listed.
    #[arg(short, default_value_t = 10, conflicts_with = "generate", value_name = "K", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) k: u32,
    #[command(flatten)]
    pub(crate) generation: Generation,
}

/// How a prompt is continued.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Generation")]
pub(crate) struct Generation {
    /// Continue the prompt by up to N tokens, written as they come. Positions in interventions still refer to the
    /// prompt; `all` includes new tokens.
    #[arg(long, value_name = "N")]
    pub(crate) generate: Option<usize>,
    /// Sample tokens: above 1 flattens the distribution, below 1 sharpens it; 0 takes the most likely token.
    #[arg(long, value_name = "T", requires = "generate", allow_hyphen_values = true)]
    pub(crate) temperature: Option<f32>,
    /// Sample among the K most likely tokens.
    #[arg(long, value_name = "K", requires = "generate")]
    pub(crate) top_k: Option<usize>,
    /// Sample among the fewest tokens whose probabilities reach P.
    #[arg(long, value_name = "P", requires = "generate")]
    pub(crate) top_p: Option<f32>,
    /// Stop before this text. May repeat.
    #[arg(long, value_name = "TEXT", requires = "generate")]
    pub(crate) stop: Vec<String>,
    /// Continue past the model's end-of-sequence tokens.
    #[arg(long, requires = "generate")]
    pub(crate) ignore_end: bool,
}

/// `tokens`
#[derive(Debug, ClapArgs)]
pub(crate) struct Tokens {
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) model: ModelFlag,
}

/// `model export`
#[derive(Debug, ClapArgs)]
pub(crate) struct Export {
    /// A folder, a .gguf file, a name on the hub, or a demo model.
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// The folder to write.
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    #[command(flatten)]
    pub(crate) finding: Finding,
    /// Type of the written weights.
    #[arg(long, value_enum, default_value_t = DtypeArg::F32, value_name = "TYPE")]
    pub(crate) dtype: DtypeArg,
}

/// Formats of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Auto,
    Table,
    Json,
    Jsonl,
    Csv,
    Tsv,
    Md,
    Html,
    Svg,
    Png,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    Auto,
    Always,
    Never,
}

impl Colour {
    /// The same for messages on standard error; `auto` depends on the terminal and `NO_COLOR`.
    pub(crate) fn of_messages(self) -> anstream::ColorChoice {
        match self {
            Colour::Auto => anstream::ColorChoice::Auto,
            Colour::Always => anstream::ColorChoice::Always,
            Colour::Never => anstream::ColorChoice::Never,
        }
    }
}

/// `--dtype`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DtypeArg {
    F32,
    Bf16,
}

impl DtypeArg {
    pub(crate) fn dtype(self) -> Dtype {
        match self {
            DtypeArg::F32 => Dtype::F32,
            DtypeArg::Bf16 => Dtype::Bf16,
        }
    }
}

/// `--device`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    Cpu,
}

/// `--bos`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BosArg {
    Auto,
    Yes,
    No,
}

/// `--norm`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NormArg {
    Own,
    Cached,
    None,
}

/// `--metric`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MetricArg {
    /// Probability of the final layer's most likely token.
    Final,
    /// Probability of the cell's own most likely token.
    P,
    /// Rank of the token that actually comes next.
    Rank,
    /// Entropy, in nats.
    Entropy,
    /// KL(final ‖ layer), in nats.
    Kl,
    /// Probability of the token named by --track.
    Tracked,
}
