//! A model's adapter: next to its weights, alone in a folder, or named separately.

use std::path::Path;

use super::environment::Environment;
use super::{FilesKind, ModelFiles, ResolveOptions, folder, printable, resolve_reference};
use crate::adapter;
use crate::error::{Error, ErrorKind, Result};

/// Which adapter a model gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AdapterChoice {
    /// The one next to its weights, if there is one, as in transformers.
    #[default]
    Beside,
    /// None: the weights as stored.
    Without,
    /// The one with this reference: a folder, or a name on the hub.
    Named(String),
}

/// Whether a folder has an adapter and no model.
pub(super) fn is_alone(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    has(adapter::CONFIG) && ![folder::CONFIG, folder::WEIGHTS, folder::INDEX].into_iter().any(has)
}

/// Whether a folder has a model and an adapter.
fn has_both(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    has(adapter::CONFIG) && has(folder::CONFIG) && (has(folder::WEIGHTS) || has(folder::INDEX))
}

/// The warning for a hub repository with both a model and an adapter, where the adapter is applied to the base that it
/// names: transformers' rule, which differs for folders.
pub(crate) fn warning(files: &ModelFiles) -> Option<String> {
    let folder = files.adapter.as_deref().filter(|folder| *folder != files.path() && has_both(folder))?;
    let (name, _) = folder::identity(folder);
    (name == files.name).then(|| {
        format!(
            "`{}` has a model and an adapter: as in transformers, the adapter of a repository on the hub is applied to the \
             base that it names, here {}, and the model beside it is not read; --no-adapter reads that model, and the \
             folder {} named as such is that model with the adapter on it",
            printable(&name),
            files.path().display(),
            folder.display()
        )
    })
}

/// Applies the chosen adapter to a model. A folder with only an adapter is applied to the base that it names. So is the
/// adapter of a hub repository (`of_hub`), as in transformers, while an adapter next to a folder's weights is applied
/// to those.
pub(super) fn choose(
    files: ModelFiles,
    of_hub: bool,
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
            if let Some(folder) = beside.as_deref().filter(|_| of_hub)
                && adapter::base_of(folder)?.0.is_some_and(|base| base != files.name)
            {
                return with_base(files, options, environment);
            }
            Ok(ModelFiles { adapter: beside, ..files })
        }
        (AdapterChoice::Named(reference), false) => {
            let found = resolve_reference(reference, None, options, environment)?;
            let folder = match found.kind {
                FilesKind::Folder(folder) if folder.join(adapter::CONFIG).is_file() => folder,
                kind => {
                    let (FilesKind::Folder(path) | FilesKind::Gguf(path)) = kind;
                    let message =
                        format!("{} has no {}: it is not an adapter", path.display(), adapter::CONFIG);
                    return Err(Error::new(ErrorKind::NotFound, message)
                        .hint("an adapter is a folder as peft's `save_pretrained` writes it"));
                }
            };
            Ok(ModelFiles { adapter: Some(folder), ..files })
        }
    }
}

/// The base model that an adapter names, with the adapter applied. The base's own adapter, if any, is not applied, as
/// in transformers.
fn with_base(found: ModelFiles, options: &ResolveOptions, environment: &Environment) -> Result<ModelFiles> {
    let folder = found.path().to_owned();
    let (base, revision) = adapter::base_of(&folder)?;
    let place = folder.display();
    let (what, hint) = match is_alone(&folder) {
        true => (
            format!("{place} is only an adapter"),
            format!(
                "name the base yourself: the model as BASE, and this as its adapter: --model BASE --adapter {place}"
            ),
        ),
        false => (
            format!("{place} has an adapter beside its model"),
            format!(
                "--no-adapter reads its own model; with the adapter on it, that model is the folder {place}"
            ),
        ),
    };
    let Some(base) = base else {
        let message = format!("{what}, and names no base model (`base_model_name_or_path`)");
        return Err(Error::new(ErrorKind::NotFound, message).hint(hint));
    };
    let says = format!("{what}; its base model is `{}`", printable(&base));
    // A relative path is resolved from the working directory, as in Python, then from the adapter.
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
