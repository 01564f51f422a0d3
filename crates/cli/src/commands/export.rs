//! `model export`: a Hugging Face folder that transformers reads to the same logits.

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
    opened.export(&export.folder, export.dtype.dtype(), Some(&stop))?;
    match &files.kind {
        FilesKind::Gguf(_) => session::tokenizer(&files, &export.finding)?.save(&export.folder)?,
        FilesKind::Folder(folder) => {
            for name in SMALL_FILES {
                let (from, to) = (folder.join(name), export.folder.join(name));
                if from.is_file() {
                    std::fs::copy(&from, &to)
                        .map_err(|e| Failure::failed(format!("{}: {e}", to.display())))?;
                }
            }
        }
    }
    output::note("wrote", &export.folder.display().to_string());
    Ok(())
}
