//! `env`: the environment that this program sees.

use clap::{Args as _, Command};
use easyroutine::Simd;
use easyroutine::source::Environment;
use serde_json::{Map, Value, json};

use crate::args::{Args, Finding};
use crate::failure::Failure;
use crate::output::{self, PLAIN};

/// Variables that change behaviour, with descriptions. A token is never shown.
pub(super) const VARIABLES: &[(&str, &str)] = &[
    ("EASYROUTINE_MODEL", "default model"),
    ("EASYROUTINE_FORMAT", "default format, if neither --format nor the ending of -o names one"),
    ("EASYROUTINE_DTYPE", "as --dtype: f32 or bf16"),
    ("EASYROUTINE_THREADS", "as --threads"),
    ("EASYROUTINE_MEMORY", "as --memory"),
    ("EASYROUTINE_DEVICE", "as --device"),
    ("EASYROUTINE_OFFLINE", "as --offline, unless it is empty, 0, false, no or off"),
    ("EASYROUTINE_SEED", "as --seed"),
    (
        "EASYROUTINE_SIMD",
        "instructions of the arithmetic: portable, avx2 or avx512; by default the best there are",
    ),
    ("EASYROUTINE_CACHE", "folder of the demo models; by default `easyroutine` in XDG_CACHE_HOME"),
    ("ACTIVATION_BASE_DIR", "as --base of `runs`: the store, which a .env file may name too"),
    ("HF_HOME", "folder of the Hugging Face cache and token; by default `huggingface` in XDG_CACHE_HOME"),
    ("HF_HUB_CACHE", "folder of downloaded models; by default `hub` in HF_HOME"),
    ("HF_HUB_OFFLINE", "1: never download"),
    ("HF_ENDPOINT", "address of the hub"),
    ("XDG_CACHE_HOME", "folder of caches; by default ~/.cache"),
    ("COLUMNS", "width of tables, if it differs from the terminal's"),
    ("NO_COLOR", "anything: no colour"),
];

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let environment = Environment::from_process();
    let available: Vec<String> = Simd::available().iter().map(ToString::to_string).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut facts: Vec<(String, String)> = vec![
        ("version".into(), env!("CARGO_PKG_VERSION").into()),
        ("system".into(), format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        ("threads".into(), threads.to_string()),
        ("simd".into(), Simd::from_env().map_or_else(|e| e, |s| s.to_string())),
        ("simd available".into(), available.join(", ")),
        ("hub cache".into(), environment.hub_cache.display().to_string()),
        ("demo models".into(), environment.demo_models.display().to_string()),
        (
            "hub".into(),
            if cfg!(feature = "hub") { environment.endpoint.clone() } else { "not built in".into() },
        ),
        ("offline".into(), (environment.offline || offline_by_variable()).to_string()),
        ("hub token".into(), if environment.token.is_some() { "set" } else { "not set" }.into()),
    ];
    for (name, _) in VARIABLES {
        if let Ok(value) = std::env::var(name) {
            facts.push(((*name).to_owned(), value));
        }
    }
    let rows: Vec<Vec<String>> = facts.iter().map(|(k, v)| vec![k.clone(), v.clone()]).collect();
    let mut json = Map::from_iter([("schema".to_owned(), json!("easyroutine.env/1"))]);
    json.extend(facts.into_iter().map(|(k, v)| (k.replace(' ', "_"), Value::from(v))));
    output::tables(&targets, &["property", "value"], &rows, &Value::Object(json.clone()))
}

/// The value of `EASYROUTINE_OFFLINE`, as the flag reads it.
fn offline_by_variable() -> bool {
    let flags = Finding::augment_args(Command::new("env")).try_get_matches_from(["env"]);
    flags.is_ok_and(|flags| flags.get_flag("offline"))
}
