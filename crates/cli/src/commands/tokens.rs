//! `tokens`: how a text is cut.

use serde_json::json;

use crate::args::{Args, Tokens};
use crate::failure::Failure;
use crate::output::{self, Cell, PLAIN};
use crate::session::{self, Most, token_text};

/// No list of tokens is longer: each takes some hundred bytes, and the largest contexts have as many.
const LISTED: usize = 1 << 20;

pub(crate) fn run(args: &Args, tokens: &Tokens) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let files = session::find(&tokens.model.model, &tokens.model.loading.finding)?;
    let tokenizer = session::tokenizer(&files, &tokens.model.loading.finding)?;
    let prompt = tokens.prompt.read(&tokenizer, Most::Listed(LISTED))?;
    let mut rows = Vec::new();
    let mut listed = Vec::new();
    for (position, (id, (start, end))) in prompt.encoded.ids.iter().zip(&prompt.encoded.offsets).enumerate() {
        let (text, special) = (token_text(&tokenizer, *id), tokenizer.is_special(*id));
        rows.push(vec![
            position.to_string().into(),
            id.to_string().into(),
            Cell::token(&text),
            if special { "special" } else { "" }.to_owned().into(),
            format!("{start}..{end}").into(),
        ]);
        listed.push(json!({
            "position": position, "id": id, "text": text, "special": special, "start": start, "end": end,
        }));
    }
    let json = json!({
        "schema": "easyroutine.tokens/1",
        "model": files.name,
        "bos": prompt.encoded.starts_with_bos,
        "chat": prompt.chat,
        "tokens": listed,
    });
    for target in &targets {
        let table =
            output::render(target.format, &["position", "id", "token", "kind", "bytes"], &rows, &json)?;
        output::write(target, table.as_bytes())?;
    }
    Ok(())
}
