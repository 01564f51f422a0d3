//! Models that the project's own commands fetch, under short names.

use super::environment::Environment;
use super::folder;
use super::reference::HubReference;
use super::{FilesKind, ModelFiles};
use crate::error::{Error, ErrorKind, Result};

/// A model of the built-in list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Demo {
    /// Its name.
    pub name: &'static str,
    /// A description.
    pub about: &'static str,
    /// Its file in the folder of demo models.
    pub file: &'static str,
    /// How to fetch it.
    pub fetch: &'static str,
    /// The same model on the hub, with its original weights.
    pub hub_id: &'static str,
}

const DEMOS: &[Demo] = &[Demo {
    name: "smollm2",
    about: "SmolLM2-135M-Instruct, llama architecture, 30 layers, quantised to Q4_1 (98 MB)",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    fetch: "`make demo` in a clone of easyroutine",
    hub_id: "HuggingFaceTB/SmolLM2-135M-Instruct",
}];

/// The built-in list of demo models.
pub fn demos() -> &'static [Demo] {
    DEMOS
}

/// The demo model that a reference names.
///
/// # Errors
/// If a revision or a file is given: a demo model is a single file of one version.
pub(super) fn find(reference: &HubReference) -> Result<Option<&'static Demo>> {
    let Some(demo) = DEMOS.iter().find(|demo| demo.name == reference.id) else { return Ok(None) };
    if reference.file.is_some() || reference.revision != "main" {
        let message = format!("`{}` is a demo model: it has one file, and no revisions", demo.name);
        return Err(Error::new(ErrorKind::InvalidReference, message)
            .hint(format!("on the hub, with revisions, it is `{}`", demo.hub_id)));
    }
    Ok(Some(demo))
}

/// The demo model whose name is nearest to a wrong one.
pub(super) fn nearest(name: &str) -> Option<&'static Demo> {
    let near = easyroutine_sites::nearest(name, DEMOS.iter().map(|demo| demo.name))?;
    DEMOS.iter().find(|demo| demo.name == near)
}

pub(super) fn names() -> String {
    DEMOS.iter().map(|demo| format!("`{}`", demo.name)).collect::<Vec<_>>().join(", ")
}

impl Demo {
    pub(super) fn open(&self, environment: &Environment) -> Result<ModelFiles> {
        let path = environment.demo_models.join(self.file);
        if !path.is_file() {
            let Demo { name, fetch, hub_id, .. } = self;
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("the demo model `{name}` has not been fetched: {} is not there", path.display()),
            )
            .hint(format!("{fetch} fetches it; on the hub it is `{hub_id}`")));
        }
        folder::check_gguf(&path)?;
        Ok(ModelFiles { name: folder::stem(&path), kind: FilesKind::Gguf(path), commit: None, adapter: None })
    }
}
