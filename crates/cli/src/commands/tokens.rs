//! `tokens`: tokenization of a text.

use easyroutine::tokens::Tokenizer;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::args::{Args, Format, Tokens};
use crate::failure::Failure;
use crate::output::{self, Cell, PLAIN};
use crate::session::{self, Most, Prompt, token_text};

/// Maximum tokens listed: the largest contexts have as many.
const LISTED: usize = 1 << 20;
/// Rows formatted together: a row takes a kilobyte until it is text.
const BLOCK: usize = 8192;

pub(crate) fn run(args: &Args, tokens: &Tokens) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let files = session::find(&tokens.model.model, &tokens.model.loading.finding)?;
    let tokenizer = session::tokenizer(&files, &tokens.model.loading.finding)?;
    let prompt = tokens.prompt.read(&tokenizer, Most::Listed(LISTED))?;
    let list = List { prompt: &prompt, tokenizer: &tokenizer };
    let report = Report {
        schema: "easyroutine.tokens/1",
        model: &files.name,
        bos: prompt.encoded.starts_with_bos,
        chat: prompt.chat.as_ref(),
        tokens: &list,
    };
    for target in &targets {
        let text = match target.format {
            Format::Json => serde_json::to_string_pretty(&report).unwrap_or_default() + "\n",
            Format::Jsonl => serde_json::to_string(&report).unwrap_or_default() + "\n",
            format => list.table(format)?,
        };
        output::write(target, text.as_bytes())?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    model: &'a str,
    bos: bool,
    chat: Option<&'a Value>,
    tokens: &'a List<'a>,
}

/// The tokens of a prompt, each formatted when it is written.
struct List<'a> {
    prompt: &'a Prompt,
    tokenizer: &'a Tokenizer,
}

impl List<'_> {
    /// Position, id, and the bytes of the text.
    fn tokens(&self) -> impl Iterator<Item = (usize, u32, (usize, usize))> {
        let encoded = &self.prompt.encoded;
        encoded.ids.iter().zip(&encoded.offsets).enumerate().map(|(at, (id, span))| (at, *id, *span))
    }

    fn table(&self, format: Format) -> Result<String, Failure> {
        let row = |(position, id, (start, end)): (usize, u32, (usize, usize))| {
            let kind = if self.tokenizer.is_special(id) { "special" } else { "" };
            vec![
                position.to_string().into(),
                id.to_string().into(),
                Cell::token(&token_text(self.tokenizer, id)),
                kind.to_owned().into(),
                format!("{start}..{end}").into(),
            ]
        };
        let mut text = String::new();
        let mut tokens = self.tokens().map(row).peekable();
        while tokens.peek().is_some() {
            let rows: Vec<_> = tokens.by_ref().take(BLOCK).collect();
            let header = ["position", "id", "token", "kind", "bytes"];
            let block = output::render(format, &header, &rows, &Value::Null)?;
            // Only the first block has the header.
            let repeated = match (text.is_empty(), format) {
                (true, _) => 0,
                (false, Format::Md) => 2,
                (false, _) => 1,
            };
            block.split_inclusive('\n').skip(repeated).for_each(|line| text.push_str(line));
        }
        Ok(text)
    }
}

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.tokens().map(|(position, id, (start, end))| {
            let (text, special) = (token_text(self.tokenizer, id), self.tokenizer.is_special(id));
            json!({
                "position": position, "id": id, "text": text, "special": special, "start": start, "end": end,
            })
        }))
    }
}
