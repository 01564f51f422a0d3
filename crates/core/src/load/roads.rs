//! The ways from a model's files to its tokenizer, compared.

use std::path::Path;

use easyroutine_files::GgufFile;

use super::tokenizer;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{FilesKind, ModelFiles};
use crate::tokens::Tokenizer;

/// A comparison of the ways to a model's token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRoads {
    /// What was compared, in words, starting with the way that is used.
    pub compared: Vec<String>,
    /// For each other way that gives different ids: which, and for what text.
    pub differences: Vec<(String, String)>,
}

/// Compares a model's tokenizer with its exported form, and with other tokenizers in the same place: a `tokenizer.json`
/// next to a GGUF file, or GGUF files in a folder.
///
/// # Errors
/// If the model has no readable tokenizer, or no folder can be created for its export.
pub fn token_roads(files: &ModelFiles, pre: Option<&str>) -> Result<TokenRoads> {
    let taken = tokenizer(files, pre)?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let io = |e: std::io::Error| Error::new(ErrorKind::Io, e.to_string()).at(files.path().display());
    let mut others = Vec::new();
    let exported = tempfile::tempdir().map_err(io)?;
    taken.save(exported.path())?;
    others.push(("its export as a folder".to_owned(), Tokenizer::from_folder(exported.path())));
    let first = match &files.kind {
        FilesKind::Gguf(file) => {
            let beside =
                file.parent().map(|folder| folder.join("tokenizer.json")).filter(|path| path.exists());
            if let Some(folder) = beside.as_deref().and_then(Path::parent) {
                others.push(("the tokenizer.json beside it".to_owned(), Tokenizer::from_folder(folder)));
            }
            "the GGUF file".to_owned()
        }
        FilesKind::Folder(folder) => {
            let mut found: Vec<_> =
                std::fs::read_dir(folder).map_err(io)?.filter_map(|e| Some(e.ok()?.path())).collect();
            found.retain(|path| path.extension().is_some_and(|ending| ending == "gguf"));
            found.sort();
            for file in found {
                let tokenizer = GgufFile::open(&file).map_err(Error::from);
                let tokenizer = tokenizer.and_then(|file| Tokenizer::from_gguf_cut_as(file.gguf(), pre));
                others.push((name(&file), tokenizer));
            }
            "the folder".to_owned()
        }
    };
    let mut roads = TokenRoads { compared: vec![first], differences: Vec::new() };
    for (road, other) in others {
        let difference = match other {
            Ok(other) => taken.first_difference(&other).map(|text| format!("{text:?}")),
            Err(error) => Some(error.to_string()),
        };
        roads.differences.extend(difference.map(|difference| (road.clone(), difference)));
        roads.compared.push(road);
    }
    Ok(roads)
}
