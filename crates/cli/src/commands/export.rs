//! `model export`: a Hugging Face folder that transformers reads to the same logits.

use easyroutine::source::{FilesKind, SMALL_FILES};

use crate::args::{Args, Export};
use crate::failure::Failure;
use crate::output;
use crate::session;

pub(crate) fn run(args: &Args, export: &Export) -> Result<(), Failure> {
    if !args.output.is_empty() {
        return Err(Failure::usage("export writes a folder, not a file").hint("model export REF DIR"));
    }
    let files = session::find(&export.reference, &export.loading)?;
    let opened = session::open(&files, &export.loading)?;
    opened.export(&export.folder, export.loading.dtype())?;
    match &files.kind {
        FilesKind::Gguf(_) => session::tokenizer(&files)?.save(&export.folder)?,
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
