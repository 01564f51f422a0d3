//! `model export`: a Hugging Face folder that transformers reads to the same logits.

use easyroutine::source::FilesKind;

use crate::args::{Args, Export};
use crate::failure::Failure;
use crate::output;
use crate::session;

/// Files that belong to a model and are copied as they are.
const COPIED: &[&str] = &[
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

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
            for name in COPIED {
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
