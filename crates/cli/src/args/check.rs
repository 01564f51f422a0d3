//! Arguments of `model check`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::ModelArgs;

/// `model check`
#[derive(Debug, ClapArgs)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Tokens in the longer of the two rows that are run.
    #[arg(long, default_value_t = 24, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=512))]
    pub(crate) tokens: u16,
    /// A safetensors file of activations written by another program, with their `input_ids`: each place is compared
    /// with ours.
    #[arg(long, value_name = "FILE", conflicts_with = "tokens")]
    pub(crate) compare: Option<PathBuf>,
    /// Also run the model in f64, computing each operation from its formula, and report which is wrong: FILE, this
    /// program, or both.
    #[arg(long, requires = "compare")]
    pub(crate) exact: bool,
    /// The largest difference counted as equal, relative to the largest value of the place: 1e-4, or 5e-2 with bf16.
    #[arg(long, value_name = "X", requires = "compare", value_parser = tolerance)]
    pub(crate) tolerance: Option<f64>,
}

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x >= 0.0 => Ok(x),
        _ => Err("a difference is a number from 0 on, as 1e-4".to_owned()),
    }
}
