//! The role of each tensor of an adapter.

use std::collections::BTreeMap;

use easyroutine_files::ShardedSafeTensors;

use super::settings::Settings;
use super::{Kind, MERGE, Update, WEIGHTS};
use crate::error::{Error, ErrorKind, Result, list};

/// peft's prefix of module names.
const PREFIX: &str = "base_model.model.";

/// The role of one tensor, and its module or tensor in the base model.
enum Role<'n> {
    A(Kind, &'n str),
    B(Kind, &'n str),
    BiasOfB(&'n str),
    Replaces(String),
    /// Part of something unsupported.
    Refused(&'static str),
}

/// The pieces of one update found so far.
#[derive(Default)]
struct Found {
    a: Option<(Kind, String)>,
    b: Option<(Kind, String)>,
    bias: Option<String>,
}

/// Updates by module, and replacements by tensor of the base model.
type Sorted = (BTreeMap<String, Update>, BTreeMap<String, String>);

/// Sorts the tensors of a file.
///
/// # Errors
/// If tensors have no role, updates are incomplete, or the config does not select a module; all are named.
pub(super) fn sort(weights: &ShardedSafeTensors, settings: &Settings) -> Result<Sorted> {
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let mut replaced = BTreeMap::new();
    let (mut strange, mut refused): (Vec<&str>, Vec<String>) = (Vec::new(), Vec::new());
    for name in weights.names() {
        let Some(role) = name.strip_prefix(PREFIX).and_then(role) else {
            strange.push(name);
            continue;
        };
        let of = |found: &mut BTreeMap<String, Found>, module: &str, set: &dyn Fn(&mut Found)| {
            set(found.entry(module.to_owned()).or_default());
        };
        match role {
            Role::A(kind, module) => of(&mut found, module, &|f| f.a = Some((kind, name.to_owned()))),
            Role::B(kind, module) => of(&mut found, module, &|f| f.b = Some((kind, name.to_owned()))),
            Role::BiasOfB(module) => of(&mut found, module, &|f| f.bias = Some(name.to_owned())),
            Role::Replaces(tensor) => {
                replaced.insert(tensor, name.to_owned());
            }
            Role::Refused(what) => refused.push(format!("{name} ({what})")),
        }
    }
    if !refused.is_empty() {
        let message = format!("{WEIGHTS}: not applied: {}", list(&refused));
        return Err(Error::new(ErrorKind::Unsupported, message).hint(MERGE));
    }
    if !strange.is_empty() {
        let message = format!("{WEIGHTS}: no tensors of a LoRA adapter: {}", list(&strange));
        return Err(Error::new(ErrorKind::Weights, message).hint(MERGE));
    }
    check_saved(settings, &replaced)?;
    Ok((updates(found, settings)?, replaced))
}

/// Reads a name without its prefix.
fn role(name: &str) -> Option<Role<'_>> {
    for (end, kind) in [("", Kind::Linear), ("embedding_", Kind::Embedding)] {
        let parts = [("A", true), ("B", false)];
        for (part, is_a) in parts {
            let ends = match kind {
                Kind::Linear => format!(".lora_{end}{part}.weight"),
                Kind::Embedding => format!(".lora_{end}{part}"),
            };
            if let Some(module) = name.strip_suffix(&ends) {
                return Some(if is_a { Role::A(kind, module) } else { Role::B(kind, module) });
            }
        }
    }
    if let Some(module) = name.strip_suffix(".lora_B.bias") {
        return Some(Role::BiasOfB(module));
    }
    let marks = [
        ("lora_magnitude_vector", "DoRA"),
        ("trainable_tokens_delta", "single rows of a table"),
        ("trainable_tokens_original", "single rows of a table"),
        ("lora_E", "AdaLoRA"),
        ("ranknum", "AdaLoRA"),
        ("ia3_l", "IA3"),
        ("hada_w", "LoHa"),
        ("lokr_w", "LoKr"),
        ("prompt_embeddings", "a trained prompt"),
    ];
    if let Some((_, what)) = marks.iter().find(|(mark, _)| name.contains(mark)) {
        return Some(Role::Refused(what));
    }
    if name.contains(".lora_") {
        return None;
    }
    let is_parameter = name.ends_with(".weight") || name.ends_with(".bias");
    is_parameter.then(|| Role::Replaces(name.replacen(".base_layer.", ".", 1)))
}

/// Checks that every module that the config replaces is there.
fn check_saved(settings: &Settings, replaced: &BTreeMap<String, String>) -> Result<()> {
    let is_there =
        |module: &String| replaced.keys().any(|tensor| format!(".{tensor}").contains(&format!(".{module}.")));
    let missing: Vec<&str> =
        settings.targets.saved().iter().filter(|module| !is_there(module)).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("{WEIGHTS}: no tensors of {}, which `modules_to_save` names", list(&missing));
    Err(Error::new(ErrorKind::Weights, message).hint("fetch or save the adapter again"))
}

/// Joins the halves of each update.
fn updates(found: BTreeMap<String, Found>, settings: &Settings) -> Result<BTreeMap<String, Update>> {
    let (mut halves, mut outside) = (Vec::new(), Vec::new());
    let mut updates = BTreeMap::new();
    for (module, found) in found {
        let (Some((kind, a)), Some((kind_of_b, b))) = (found.a, found.b) else {
            halves.push(module.clone());
            continue;
        };
        if kind != kind_of_b {
            halves.push(module.clone());
            continue;
        }
        if !settings.targets.include(&module) {
            outside.push(module.clone());
        }
        let (rank, scale) = settings.of_module(&module);
        updates.insert(module, Update { kind, a, b, bias: found.bias, rank, scale });
    }
    if !halves.is_empty() {
        let message = format!("{WEIGHTS}: only one half of the update of {}", list(&halves));
        return Err(Error::new(ErrorKind::Weights, message).hint("fetch or save the adapter again"));
    }
    if !outside.is_empty() {
        let message = format!(
            "{WEIGHTS} updates {}, which `target_modules` and what goes with it in {} leave out",
            list(&outside),
            super::CONFIG
        );
        return Err(Error::new(ErrorKind::Weights, message)
            .hint("peft would skip these tensors; fix the config or the file"));
    }
    Ok(updates)
}
