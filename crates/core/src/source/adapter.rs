//! The adapter of a model: beside its weights, alone in a folder, or named apart.

use std::path::Path;

use super::environment::Environment;
use super::{FilesKind, ModelFiles, ResolveOptions, folder, printable, resolve_reference};
use crate::adapter;
use crate::error::{Error, ErrorKind, Result};

/// Which adapter a model gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AdapterChoice {
    /// The one beside its weights, if there is one, as transformers does.
    #[default]
    Beside,
    /// None: the weights as they are stored.
    Without,
    /// The one of this reference: a folder, or a name on the hub.
    Named(String),
}

/// Whether a folder has an adapter and no model.
pub(super) fn is_alone(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    has(adapter::CONFIG) && ![folder::CONFIG, folder::WEIGHTS, folder::INDEX].into_iter().any(has)
}

/// Gives a model the adapter that was chosen. A folder that is only an adapter is applied to the base that it names.
pub(super) fn choose(
    files: ModelFiles,
    options: &ResolveOptions,
    environment: &Environment,
) -> Result<ModelFiles> {
    let alone = matches!(&files.kind, FilesKind::Folder(folder) if is_alone(folder));
    match (&options.adapter, alone) {
        (AdapterChoice::Without, true) => Err(Error::input(format!(
            "{} is only an adapter: without it nothing is left",
            files.path().display()
        ))
        .hint("name the base model instead")),
        (AdapterChoice::Named(other), true) => {
            let (this, other) = (files.path().display(), printable(other));
            Err(Error::input(format!("{this} is an adapter itself, and `{other}` would be a second one"))
                .hint("name the base model, and one adapter"))
        }
        (AdapterChoice::Beside, true) => with_base(files, options, environment),
        (AdapterChoice::Without, false) => Ok(files),
        (AdapterChoice::Beside, false) => {
            let beside = match &files.kind {
                FilesKind::Folder(folder) if folder.join(adapter::CONFIG).is_file() => Some(folder.clone()),
                _ => None,
            };
            Ok(ModelFiles { adapter: beside, ..files })
        }
        (AdapterChoice::Named(reference), false) => {
            let found = resolve_reference(reference, None, options, environment)?;
            let folder = match found.kind {
                FilesKind::Folder(folder) if folder.join(adapter::CONFIG).is_file() => folder,
                kind => {
                    let (FilesKind::Folder(path) | FilesKind::Gguf(path)) = kind;
                    let message = format!("{} has no {}: it is no adapter", path.display(), adapter::CONFIG);
                    return Err(Error::new(ErrorKind::NotFound, message)
                        .hint("an adapter is a folder as peft's `save_pretrained` writes it"));
                }
            };
            Ok(ModelFiles { adapter: Some(folder), ..files })
        }
    }
}

/// The base model that an adapter names, with the adapter on it. The base's own adapter, if it has one, is not applied, as
/// in transformers.
fn with_base(found: ModelFiles, options: &ResolveOptions, environment: &Environment) -> Result<ModelFiles> {
    let folder = found.path().to_owned();
    let (base, revision) = adapter::base_of(&folder)?;
    let place = folder.display();
    let hint = format!(
        "name the base yourself: the model as BASE, and this as its adapter: --model BASE --adapter {place}"
    );
    let Some(base) = base else {
        let message =
            format!("{place} is only an adapter, and names no base model (`base_model_name_or_path`)");
        return Err(Error::new(ErrorKind::NotFound, message).hint(hint));
    };
    let says = format!("{place} is only an adapter; its base model is `{}`", printable(&base));
    // A relative path counts from where the program runs, as in Python, then from the adapter.
    let beside = folder.join(&base);
    let is_here = environment.expand_home(&base).symlink_metadata().is_ok();
    let (reference, revision) = match !is_here && beside.is_dir() {
        true => (beside.to_string_lossy().into_owned(), None),
        false if is_here => (base, None),
        false => (base, revision),
    };
    let files = resolve_reference(&reference, revision.as_deref(), options, environment)
        .map_err(|e| e.at(&says).hint(hint.clone()))?;
    if matches!(&files.kind, FilesKind::Folder(folder) if is_alone(folder)) {
        let message = format!("{says}, which is only an adapter too");
        return Err(
            Error::new(ErrorKind::Unsupported, message).hint("merge the inner one into its base first")
        );
    }
    Ok(ModelFiles { kind: files.kind, name: found.name, commit: found.commit, adapter: Some(folder) })
}
