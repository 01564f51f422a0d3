//! Which files of a repository belong to a dictionary, by the names that the repository has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use easyroutine::source::HubPart;
use easyroutine::{Error, ErrorKind, Result};
use serde_json::Value;

use super::{DEPTH, FORMATS, Format, KNOWN, circuit_tracer, of_file_name, qwen_scope};
use crate::problems::shown;
use crate::yaml;

/// Most names that a message lists.
const LISTED: usize = 12;

/// The files of the dictionary at a path of a repository: the path of one of its files, of its folder, or of a folder above
/// it that has no other. `snapshot` is the folder of the files that came already; a configuration that is not there yet may
/// name more once it is.
///
/// # Errors
/// Nothing at the path, no dictionary, or several, all of them named.
pub(crate) fn needed(names: &BTreeSet<String>, path: &str, snapshot: &Path) -> Result<Vec<String>> {
    let (format, folder) = find(names, path)?;
    let below = |name: &str| join(&folder, name);
    let beside = |start: &str, end: &str| {
        let all = inside(names, &folder).filter(|name| !name.contains('/'));
        all.filter(|name| name.starts_with(start) && name.ends_with(end)).map(below).collect::<Vec<_>>()
    };
    let mut files: Vec<String> = format.signs.iter().map(|name| below(name)).collect();
    match format.name {
        super::QWEN_SCOPE if names.contains(path) => files.push(path.to_owned()),
        super::QWEN_SCOPE => match beside("", qwen_scope::ENDING).as_slice() {
            [one] => files.push(one.clone()),
            several => return Err(several_at(path, several)),
        },
        // What may be missing comes first: a folder that has all of the signs is whole.
        "saelens" => files.splice(0..0, names.get(&below("sparsity.safetensors")).cloned()).for_each(drop),
        "sparsify" => {
            // The run's own configuration says the model.
            let config = (!folder.is_empty()).then(|| join(parent(&folder), "config.json"));
            files.splice(0..0, config.filter(|config| names.contains(config))).for_each(drop);
        }
        "gemma_scope_2_clt" => files.splice(0..0, beside("params_layer_", ".safetensors")).for_each(drop),
        "circuit_tracer" => {
            let weights: Vec<String> =
                ["W_enc_", "W_dec_"].iter().flat_map(|start| beside(start, ".safetensors")).collect();
            let config = snapshot.join(below("config.yaml"));
            let listed = listed(&config);
            // Without a list the files are known by their names, once it is known that there is none.
            if weights.is_empty() && listed.is_empty() && config.is_file() {
                files.splice(0..0, beside(circuit_tracer::LAYER, ".safetensors"));
            }
            files.splice(0..0, weights);
            files.extend(listed.iter().filter_map(|file| {
                let file = file.strip_prefix("./").unwrap_or(file);
                (!file.contains("://")).then(|| below(file))
            }));
        }
        _ => {}
    }
    let mut seen = BTreeSet::new();
    files.retain(|file| seen.insert(file.clone()));
    Ok(files)
}

/// The places on the hub that the configuration of a folder names, by how it names them.
pub(crate) fn addresses(folder: &Path) -> BTreeMap<String, HubPart> {
    let files = listed(&folder.join("config.yaml")).into_iter();
    files.filter_map(|address| Some((address.clone(), place_of(&address)?))).collect()
}

/// Whether a path of this machine is that of a dictionary itself, and not of a folder above.
pub(crate) fn is_own_place(path: &Path) -> bool {
    path.is_file() || FORMATS.iter().any(|format| format.sign(path).is_some())
}

/// `hf://org/name/PATH`, with `@REVISION` behind the name or `?revision=REVISION` at the end (circuit-tracer,
/// `utils/hf_utils.py`).
fn place_of(address: &str) -> Option<HubPart> {
    let rest = address.strip_prefix("hf://")?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (owner, rest) = rest.split_once('/')?;
    let (name, path) = rest.split_once('/')?;
    let revision = match query {
        "" => String::new(),
        query => format!("@{}", query.strip_prefix("revision=")?),
    };
    let path = path.trim_matches('/');
    if path.is_empty() {
        return None;
    }
    HubPart::parse(&format!("{owner}/{name}{revision}:{path}")).ok()
}

/// The files that a configuration of transcoders lists; none where it cannot be read, which its reader says.
fn listed(config: &Path) -> Vec<String> {
    const LARGEST: u64 = 4 << 20;
    let is_small = std::fs::metadata(config).is_ok_and(|found| found.is_file() && found.len() <= LARGEST);
    let text = is_small.then(|| std::fs::read_to_string(config).ok()).flatten();
    let parsed = text.and_then(|text| yaml::read(&text).ok()).unwrap_or_default();
    let texts = |items: &mut dyn Iterator<Item = &Value>| {
        items.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    match parsed.get("transcoders") {
        Some(Value::Array(items)) => texts(&mut items.iter()),
        Some(Value::Object(map)) => texts(&mut map.values()),
        _ => Vec::new(),
    }
}

/// The format of the dictionary at a path, and its folder.
fn find(names: &BTreeSet<String>, path: &str) -> Result<(&'static Format, String)> {
    if names.contains(path) {
        let (parent, file) = path.rsplit_once('/').unwrap_or(("", path));
        if let Some(format) = of_file_name(file) {
            let folder = match (format.name, parent.rsplit_once('/')) {
                ("llama_scope", Some((above, _))) => above,
                ("llama_scope", None) => "",
                _ => parent,
            };
            return Ok((format, folder.to_owned()));
        }
        return match file {
            "cfg.json" | "config.json" | "hyperparams.json" => find_folder(names, parent),
            _ => Err(Error::new(ErrorKind::Format, format!("{} is no file of a dictionary", shown(path)))
                .hint(KNOWN)),
        };
    }
    find_folder(names, path)
}

fn find_folder(names: &BTreeSet<String>, path: &str) -> Result<(&'static Format, String)> {
    if inside(names, path).next().is_none() {
        return Err(absent(names, path));
    }
    // Shallow ones first: below a folder that holds one none is looked for.
    let mut folders: Vec<&str> = names.iter().flat_map(|name| above(name)).collect();
    folders.sort_by_key(|folder| (depth(folder), *folder));
    folders.dedup();
    let mut found: Vec<(&'static Format, &str)> = Vec::new();
    for folder in folders {
        let Some(rest) = below(folder, path) else { continue };
        let is_inside_one = found.iter().any(|(_, outer)| *outer != folder && below(folder, outer).is_some());
        if is_inside_one || depth(rest) > DEPTH {
            continue;
        }
        found.extend(
            FORMATS.iter().filter(|format| format.is_in(names, folder)).map(|format| (format, folder)),
        );
    }
    match found.as_slice() {
        [(format, folder)] => Ok((format, (*folder).to_owned())),
        [] => {
            let what = if path.is_empty() { "the repository".to_owned() } else { shown(path) };
            Err(Error::new(ErrorKind::Format, format!("{what} holds no dictionary")).hint(KNOWN))
        }
        several => {
            let places: Vec<String> =
                several.iter().flat_map(|(format, folder)| format.places(names, folder)).collect();
            Err(several_at(path, &places))
        }
    }
}

impl Format {
    fn is_in(&self, names: &BTreeSet<String>, folder: &str) -> bool {
        match self.signs {
            [] => !self.places(names, folder).is_empty(),
            signs => signs.iter().all(|name| names.contains(&join(folder, name))),
        }
    }

    /// The paths of the dictionaries in a folder of this format: the folder, or each of its files where a file is one.
    fn places(&self, names: &BTreeSet<String>, folder: &str) -> Vec<String> {
        if !self.signs.is_empty() {
            return vec![folder.to_owned()];
        }
        let is_one = |name: &&str| !name.contains('/') && name.ends_with(qwen_scope::ENDING);
        inside(names, folder).filter(is_one).map(|name| join(folder, name)).collect()
    }
}

fn several_at(path: &str, several: &[String]) -> Error {
    let what = if path.is_empty() { "the repository".to_owned() } else { shown(path) };
    let listed: Vec<&str> = several.iter().take(LISTED).map(String::as_str).collect();
    let more = match several.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Error::input(format!("{what} holds {} dictionaries", several.len()))
        .hint(format!("name one behind the colon: {}{more}", shown(&listed.join(", "))))
}

/// Nothing is at the path: what is nearby, below the deepest folder of it that is there.
fn absent(names: &BTreeSet<String>, path: &str) -> Error {
    let error = Error::new(ErrorKind::NotFound, format!("the repository has no {}", shown(path)));
    let folders = std::iter::successors(Some(path), |path| (!path.is_empty()).then(|| parent(path)));
    let Some(last) = folders.skip(1).find(|folder| inside(names, folder).next().is_some()) else {
        return error;
    };
    let next = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
    let near: BTreeSet<String> = inside(names, last).map(next).collect();
    let text: Vec<String> = near.iter().take(LISTED).map(|name| join(last, name)).collect();
    let more = if near.len() > LISTED { ", …" } else { "" };
    error.hint(format!("it has {}{more}", shown(&text.join(", "))))
}

/// The names below a folder, without it.
fn inside<'n>(names: &'n BTreeSet<String>, folder: &'n str) -> impl Iterator<Item = &'n str> {
    names.iter().filter_map(move |name| below(name, folder).filter(|rest| !rest.is_empty()))
}

/// What follows a folder in a path of it, or in its own.
fn below<'p>(path: &'p str, folder: &str) -> Option<&'p str> {
    match path.strip_prefix(folder)? {
        rest if folder.is_empty() || rest.is_empty() => Some(rest),
        rest => rest.strip_prefix('/'),
    }
}

/// The folders that a file lies in, from the nearest to the repository itself.
fn above(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(parent(name)), |path| (!path.is_empty()).then(|| parent(path)))
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn depth(folder: &str) -> usize {
    folder.split('/').filter(|part| !part.is_empty()).count()
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_the_files_of_the_dictionary_are_needed() {
        let all = names(&[
            "README.md",
            "a/cfg.json",
            "a/sae_weights.safetensors",
            "a/optimizer.pt",
            "a/sparsity.safetensors",
            "b/hyperparams.json",
            "b/checkpoints/final.safetensors",
            "b/checkpoints/early.safetensors",
            "clt/config.json",
            "clt/params_layer_0.safetensors",
            "clt/params_layer_1.safetensors",
            "qwen/layer0.sae.pt",
            "qwen/layer1.sae.pt",
        ]);
        let found = |path: &str| needed(&all, path, Path::new("/nowhere"));
        let saelens = ["a/sparsity.safetensors", "a/cfg.json", "a/sae_weights.safetensors"];
        assert_eq!(found("a").unwrap(), saelens);
        assert_eq!(found("a/sae_weights.safetensors").unwrap(), found("a").unwrap());
        assert_eq!(found("a/cfg.json").unwrap(), found("a").unwrap());
        let llama = ["b/hyperparams.json", "b/checkpoints/final.safetensors"];
        for path in ["b", "b/hyperparams.json", "b/checkpoints/final.safetensors"] {
            assert_eq!(found(path).unwrap(), llama, "{path}");
        }
        let clt = ["clt/params_layer_0.safetensors", "clt/params_layer_1.safetensors", "clt/config.json"];
        assert_eq!(found("clt").unwrap(), clt);
        assert_eq!(found("qwen/layer1.sae.pt").unwrap(), ["qwen/layer1.sae.pt"]);
        for (path, words) in
            [("", "holds 5 dictionaries"), ("qwen", "holds 2"), ("d", "no `d`"), ("README.md", "no file")]
        {
            let error = found(path).unwrap_err().to_string();
            assert!(error.contains(words), "{path}: {error}");
        }
    }

    #[test]
    fn an_address_of_circuit_tracer_is_a_place_on_the_hub() {
        for (address, place) in [
            ("hf://org/name/layer_0.safetensors", Some("org/name:layer_0.safetensors")),
            ("hf://org/name//a/b.npz?revision=v1", Some("org/name@v1:a/b.npz")),
            ("hf://org/name", None),
            ("hf://org/name/../x", None),
            ("https://org/name/x", None),
        ] {
            assert_eq!(place_of(address).map(|part| part.to_string()).as_deref(), place, "{address}");
        }
    }
}
