//! `env`: what this program sees of its surroundings.

use easyroutine::Simd;
use easyroutine::source::Environment;
use serde_json::{Map, Value, json};

use crate::args::Args;
use crate::failure::{Failure, one_line};
use crate::output::{self, PLAIN};

/// Variables that change what is done. A token is never shown.
const VARIABLES: &[&str] = &[
    "EASYROUTINE_MODEL",
    "EASYROUTINE_FORMAT",
    "EASYROUTINE_DTYPE",
    "EASYROUTINE_THREADS",
    "EASYROUTINE_DEVICE",
    "EASYROUTINE_OFFLINE",
    "EASYROUTINE_REVISION",
    "EASYROUTINE_SEED",
    "EASYROUTINE_SIMD",
    "EASYROUTINE_CACHE",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "NO_COLOR",
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
        ("offline".into(), environment.offline.to_string()),
        ("hub token".into(), if environment.token.is_some() { "set" } else { "not set" }.into()),
    ];
    for name in VARIABLES {
        if let Ok(value) = std::env::var(name) {
            facts.push(((*name).to_owned(), value));
        }
    }
    let rows: Vec<Vec<String>> = facts.iter().map(|(k, v)| vec![k.clone(), one_line(v)]).collect();
    let mut json = Map::from_iter([("schema".to_owned(), json!("easyroutine.env/1"))]);
    json.extend(facts.into_iter().map(|(k, v)| (k.replace(' ', "_"), Value::from(v))));
    for target in &targets {
        let table = output::render(target.format, &["what", "value"], &rows, &Value::Object(json.clone()))?;
        output::write(target, table.as_bytes())?;
    }
    Ok(())
}
