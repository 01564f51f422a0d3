//! Arguments of `serve`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::Loading;

/// `serve`
#[derive(Debug, ClapArgs)]
pub(crate) struct Serve {
    /// The model to load first; the page can load another. A folder with config.json, a .gguf file,
    /// `org/name[@revision]` on the hub, or `smollm2` (the demo model).
    #[arg(short, long, env = "EASYROUTINE_MODEL", value_name = "REF")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) loading: Loading,
    /// The store whose runs the page shows; by default ACTIVATION_BASE_DIR.
    #[arg(short, long, value_name = "BASE", env = "ACTIVATION_BASE_DIR")]
    pub(crate) base: Option<PathBuf>,
    /// Show these features: a folder that `easyroutine features` wrote, or one features_NAME.jsonl. May repeat.
    #[arg(long, value_name = "PATH")]
    pub(crate) features: Vec<PathBuf>,
    /// The port, on loopback only; a free one by default.
    #[arg(short, long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// The token of the address: 22 or more letters, digits, `-` and `_`. Random by default; with this and --port,
    /// addresses stay the same across starts.
    #[arg(long, value_name = "TOKEN", env = "EASYROUTINE_SERVE_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Allow a page of this origin to frame the page: http://localhost:8888. May repeat.
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) framed_by: Vec<String>,
}
