//! `model export`: a Hugging Face folder from which transformers computes the same logits.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use easyroutine::Stop;
use easyroutine::source::{FilesKind, SMALL_FILES};

use crate::args::{Args, Export, Format};
use crate::failure::Failure;
use crate::session;
use crate::{output, progress};

pub(crate) fn run(args: &Args, export: &Export) -> Result<(), Failure> {
    if !args.output.is_empty() {
        return Err(Failure::usage("export writes a folder, not a file").hint("model export REF DIR"));
    }
    if args.format != Format::Auto {
        return Err(Failure::usage("export writes a folder of weights and config: it has no other format")
            .hint("leave out --format"));
    }
    if export.folder.exists() && !export.folder.is_dir() {
        return Err(Failure::usage(format!("{} is a file, not a folder", export.folder.display()))
            .hint("name a folder that is new or empty"));
    }
    let files = session::find(&export.reference, &export.finding)?;
    let opened = session::open(&files, &export.finding)?;
    let stop = progress::stopped()?;
    opened.export(&export.folder, export.dtype.dtype(), Stop::When(&|| stop.load(Ordering::Relaxed)))?;
    match &files.kind {
        FilesKind::Gguf(_) => session::tokenizer(&files, &export.finding)?.save(&export.folder)?,
        FilesKind::Folder(folder) => {
            for name in SMALL_FILES {
                copy(&folder.join(name), &export.folder.join(name))?;
            }
            for template in more_templates(folder)? {
                let to = export.folder.join(TEMPLATES);
                std::fs::create_dir_all(&to)
                    .map_err(|e| Failure::failed(format!("{}: {e}", to.display())))?;
                copy(&template, &to.join(template.file_name().unwrap_or_default()))?;
            }
        }
    }
    if let Some(adapter) = opened.adapter() {
        output::note("merged", &format!("{} into the weights", adapter.folder().display()));
    }
    output::note("wrote", &export.folder.display().to_string());
    Ok(())
}

/// The folder of a model's additional chat templates.
const TEMPLATES: &str = "additional_chat_templates";

fn more_templates(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let folder = folder.join(TEMPLATES);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let failed = |e: std::io::Error| Failure::failed(format!("{}: {e}", folder.display()));
    let paths = std::fs::read_dir(&folder).map_err(failed)?.map(|entry| entry.map(|entry| entry.path()));
    let paths = paths.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "jinja")).collect())
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    if from.is_file() {
        std::fs::copy(from, to).map_err(|e| Failure::failed(format!("{}: {e}", to.display())))?;
    }
    Ok(())
}
