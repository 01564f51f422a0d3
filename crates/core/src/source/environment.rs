//! The environment variables that decide where models are looked for, read once.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// A variable's value by its name.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The process's variables about models. The Hugging Face ones mean what they mean to `huggingface_hub`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The Hugging Face cache: `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `$HF_HOME/hub`, else
    /// `$XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`.
    pub hub_cache: PathBuf,
    /// The folder of demo models: `$EASYROUTINE_CACHE/models`, else `$XDG_CACHE_HOME/easyroutine/models`, else
    /// `~/.cache/easyroutine/models`.
    pub demo_models: PathBuf,
    /// The folder of model file digests: `digests` next to `models`.
    pub digests: PathBuf,
    /// The hub's address, without a trailing slash: `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: String,
    /// `HF_TOKEN`, else `HUGGING_FACE_HUB_TOKEN`, else the file `HF_TOKEN_PATH`, else `$HF_HOME/token`; none if
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN` is true.
    pub token: Option<Token>,
    /// `HF_HUB_OFFLINE`, else `TRANSFORMERS_OFFLINE`: 1, on, yes or true, in any case.
    pub offline: bool,
    /// What `~` stands for.
    pub home: Option<PathBuf>,
}

/// A secret: never printed, not even by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token, trimmed; `None` if nothing is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Token(text.to_owned()))
    }

    /// The secret itself.
    #[cfg(feature = "hub")]
    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Environment {
    /// Reads this process's variables, and the token file.
    pub fn from_process() -> Self {
        Self::from_variables(&|name| match name {
            // If the variable is not set, the system's list of users still knows the folder.
            "HOME" => std::env::home_dir().map(PathBuf::into_os_string),
            name => std::env::var_os(name),
        })
    }

    /// The same from any set of variables. An empty variable counts as absent.
    pub fn from_variables(lookup: Lookup<'_>) -> Self {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let home = lookup("HOME").map(PathBuf::from);
        let path = |name: &str| lookup(name).map(|value| expand(value, home.as_deref(), &lookup));
        let cache =
            path("XDG_CACHE_HOME").unwrap_or_else(|| home.as_deref().unwrap_or(Path::new("")).join(".cache"));
        let hf_home = path("HF_HOME").unwrap_or_else(|| cache.join("huggingface"));
        let is_true =
            |value: OsString| ["1", "on", "yes", "true"].iter().any(|word| value.eq_ignore_ascii_case(word));
        let token = if lookup("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(is_true) {
            None
        } else {
            ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]
                .iter()
                .find_map(|name| Token::new(&lookup(name)?.to_string_lossy()))
                .or_else(|| token_file(&path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"))))
        };
        let endpoint = lookup("HF_ENDPOINT")
            .map_or("https://huggingface.co".into(), |v| v.to_string_lossy().into_owned());
        let own = path("EASYROUTINE_CACHE").unwrap_or_else(|| cache.join("easyroutine"));
        Environment {
            hub_cache: path("HF_HUB_CACHE")
                .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| hf_home.join("hub")),
            demo_models: own.join("models"),
            digests: own.join("digests"),
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token,
            offline: lookup("HF_HUB_OFFLINE").or_else(|| lookup("TRANSFORMERS_OFFLINE")).is_some_and(is_true),
            home,
        }
    }

    /// Expands `~` in a path as typed.
    pub(super) fn expand_home(&self, path: &str) -> PathBuf {
        with_home(path, self.home.as_deref())
    }
}

fn token_file(path: &Path) -> Option<Token> {
    use std::io::Read;
    // No token is longer, so no other file at this path is read whole.
    const LONGEST: u64 = 4096;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Token::new(&text)
}

/// Expands `~` and `$NAME` or `${NAME}`, as the Python package does; unknown variables stay unchanged.
fn expand(value: OsString, home: Option<&Path>, lookup: Lookup<'_>) -> PathBuf {
    let Some(text) = value.to_str() else { return PathBuf::from(value) };
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let (name, tail) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(braced) => braced,
            None => {
                let end = after.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(after.len());
                after.split_at(end)
            }
        };
        match lookup(name) {
            Some(found) if !name.is_empty() => expanded.push_str(&found.to_string_lossy()),
            _ => expanded.push_str(&rest[before.len()..rest.len() - tail.len()]),
        }
        rest = tail;
    }
    expanded.push_str(rest);
    with_home(&expanded, home)
}

fn with_home(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.to_owned(),
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(path),
    }
}
