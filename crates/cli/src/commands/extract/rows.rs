//! The rows of `extract`, from wherever they come, as examples.

use easyroutine::Batch;
use easyroutine::edit::Intervention;
use easyroutine::extract::{self, Example, Options};
use easyroutine::positions::Context;
use easyroutine::prompts::{self, Prompt, Prompts, ReadOptions};
use easyroutine::tokens::Tokenizer;
use serde_json::Value;

use crate::args::{BosArg, Cutting, Extract};
use crate::chat::Chat;
use crate::failure::Failure;
use crate::filling::Field;
use crate::session::Session;
use crate::{changes, output, progress, session};

/// Reads the prompts or ids as they were given: what is wrong with them shows before a model is loaded.
pub(super) fn read(extract: &Extract) -> Result<Prompts, Failure> {
    // Not left to the parser: a flag that a file excludes frees others from needing one.
    let of_files = [
        ("--field", extract.field.is_some()),
        ("--limit", extract.limit.is_some()),
        ("--skip-empty", extract.skip_empty),
        ("--longest-row", extract.longest_row.is_some()),
    ];
    if let (None, Some((flag, _))) = (&extract.file, of_files.iter().find(|(_, is_given)| *is_given)) {
        return Err(
            Failure::usage(format!("{flag} is for prompts of a file")).hint("name it: --file prompts.jsonl")
        );
    }
    if let Some(text) = &extract.token_ids {
        let ids: Vec<Vec<u32>> = integers(text, "--token-ids")?;
        let batch = match &extract.attention_mask {
            Some(mask) => Batch::from_padded(&ids, &integers(mask, "--attention-mask")?)?,
            None => Batch::new(&ids)?,
        };
        return Ok(each((0..batch.n_rows()).map(|row| Prompt::Ids(batch.row(row).to_vec()))));
    }
    Ok(match (&extract.prompt, &extract.file) {
        (_, Some(file)) => {
            if extract.field.is_some() && !prompts::Format::of(file)?.has_fields() {
                return Err(Failure::usage(format!("{}: lines of text have no fields", file.display()))
                    .hint("--field is for .jsonl, .csv, .tsv and .parquet files"));
            }
            let found = prompts::read(file, &options(extract))?;
            if found.skipped > 0 {
                let rows = if found.skipped == 1 { "row" } else { "rows" };
                let text = format!("passed over {} empty {rows} of {}", found.skipped, file.display());
                output::note("note", &text);
            }
            found
        }
        (Some(dash), None) if dash == "-" => each([Prompt::Text(session::read_stdin()?)]),
        (Some(text), None) => each([Prompt::Text(text.clone())]),
        (None, None) => return Err(Failure::usage("no prompt given")),
    })
}

/// How the file is read.
fn options(extract: &Extract) -> ReadOptions {
    ReadOptions {
        field: extract.field.clone().unwrap_or_else(|| "text".to_owned()),
        limit: extract.limit.map(|n| n as usize),
        skip_empty: extract.skip_empty,
        longest_row: extract.longest_row.unwrap_or(prompts::LONGEST_ROW),
    }
}

/// What the file says of each prompt, as far as it is to be kept.
pub(super) fn fields(extract: &Extract, prompts: &Prompts) -> Result<Vec<Field>, Failure> {
    match (&extract.file, extract.saving.keep_fields.as_slice()) {
        (Some(file), names @ [_, ..]) => {
            Ok(prompts::read_fields(file, names, &prompts.rows, &options(extract))?)
        }
        _ => Ok(Vec::new()),
    }
}

/// Prompts of which each is the row of its own number.
fn each(prompts: impl IntoIterator<Item = Prompt>) -> Prompts {
    let prompts: Vec<Prompt> = prompts.into_iter().collect();
    Prompts { rows: (0..prompts.len()).collect(), prompts, skipped: 0 }
}

/// What was made of all prompts.
pub(super) struct Rows {
    pub(super) examples: Vec<Example>,
    /// The number of each row in its file, where some were passed over.
    pub(super) of_file: Option<Vec<usize>>,
    /// What made conversations of them, for the record of the run.
    pub(super) chat: Option<Value>,
}

/// Cuts all prompts into tokens and holds them to the model's context.
pub(super) fn examples(
    prompts: Prompts,
    extract: &Extract,
    tokenizer: Option<&Tokenizer>,
    context: usize,
) -> Result<Rows, Failure> {
    let mut chat = extract.chat.read(&extract.cutting)?.map(Conversation::new);
    let mut begin_twice = Vec::new();
    let mut cut: Vec<(usize, usize)> = Vec::new();
    let Prompts { prompts, rows: of_file, skipped } = prompts;
    let mut examples = Vec::with_capacity(prompts.len());
    let many = prompts.len() > 1;
    for (prompt, number) in prompts.into_iter().zip(of_file.iter().copied()) {
        let mut example = example(number, prompt, extract, tokenizer, chat.as_mut())
            .map_err(|failure| if many { failure.at(format!("row {number}")) } else { failure })?;
        // Among those that run; where they stand in the file is told beside them.
        example.number = examples.len();
        // Ids that were given stand as they were meant.
        if example.text.is_some() && tokenizer.is_some_and(|tokenizer| tokenizer.begins_twice(&example.ids)) {
            begin_twice.push(number);
        }
        let length = example.ids.len();
        if length > context && extract.cutting.truncate {
            cut.push((number, length));
            example.ids.truncate(context);
            if let Some((_, spans)) = &mut example.text {
                spans.truncate(context);
            }
        } else if length > context {
            let what = if many { format!("row {number}") } else { "the prompt".to_owned() };
            return Err(Failure::usage(format!(
                "{what} has {length} tokens; the model was built for {context} at most"
            ))
            .hint("pass --truncate to keep its first tokens"));
        }
        examples.push(example);
    }
    let rows = |numbers: &[usize]| match numbers {
        [_] if !many => "the prompt".to_owned(),
        [one] => format!("row {one}"),
        [first, ..] => format!("each of {} rows, the first of them {first},", numbers.len()),
        [] => String::new(),
    };
    if let Some(tokenizer) = tokenizer {
        if !begin_twice.is_empty() {
            session::warn_of_bos(tokenizer, &rows(&begin_twice));
        }
        if let Some(Conversation { have_bos, .. }) = chat.as_ref().filter(|chat| !chat.have_bos.is_empty()) {
            let bos = tokenizer.bos_text().unwrap_or_default();
            let text = format!("{} holds `{bos}`, which the chat template writes too", rows(have_bos));
            output::note("warning", &text);
        }
    }
    match cut.as_slice() {
        [] => {}
        [(row, length)] => {
            output::note("warning", &format!("row {row}: kept the first {context} of {length} tokens"));
        }
        many => {
            let longest = many.iter().map(|(_, length)| length).max().unwrap_or(&0);
            let text =
                format!("kept the first {context} tokens of {} rows; the longest has {longest}", many.len());
            output::note("warning", &text);
        }
    }
    let of_file = (skipped > 0).then_some(of_file);
    Ok(Rows { examples, of_file, chat: chat.map(|chat| extract.chat.record(&chat.chat, chat.told_time)) })
}

/// How prompts become conversations, and what was seen on the way.
struct Conversation {
    chat: Chat,
    told_time: bool,
    have_bos: Vec<usize>,
}

impl Conversation {
    fn new(chat: Chat) -> Self {
        Conversation { chat, told_time: false, have_bos: Vec::new() }
    }

    fn say(&mut self, number: usize, text: &str, tokenizer: &Tokenizer) -> Result<String, Failure> {
        let said = self.chat.say(text, tokenizer)?;
        self.told_time |= said.told_time;
        if said.has_bos {
            self.have_bos.push(number);
        }
        Ok(said.text)
    }
}

/// The examples with the tokens that the model writes after them, under the interventions.
pub(super) fn continued(
    examples: Vec<Example>,
    count: usize,
    ends: &[u32],
    extract: &Extract,
    session: &Session,
    interventions: &[Intervention],
    context: Context<'_>,
) -> Result<Vec<Example>, Failure> {
    let bar = progress::Rows::new();
    let tell = |progress| bar.tell(progress);
    // An edit that names rows of one batch makes all rows one.
    let is_one = interventions.iter().any(Intervention::speaks_of_rows);
    let batch_tokens = if is_one { usize::MAX } else { extract.batch_tokens as usize };
    let options = Options { batch_tokens, progress: Some(&tell), ..Options::default() };
    let mut edits = changes::of_batches(interventions, session.model.arch(), context);
    let longer = extract::continued(&session.model, examples, count, ends, options, &mut edits)?;
    bar.finish();
    Ok(longer)
}

fn example(
    number: usize,
    prompt: Prompt,
    extract: &Extract,
    tokenizer: Option<&Tokenizer>,
    chat: Option<&mut Conversation>,
) -> Result<Example, Failure> {
    let text = match prompt {
        Prompt::Ids(ids) if ids.is_empty() => return Err(Failure::usage("there are no token ids")),
        Prompt::Ids(ids) => return Ok(Example { number, ids, ..Example::default() }),
        Prompt::Text(text) => text,
    };
    let tokenizer = tokenizer.ok_or_else(|| Failure::failed("the model has no tokenizer"))?;
    let (text, cutting) = match chat {
        // The template has written the special tokens.
        Some(chat) => {
            (chat.say(number, &text, tokenizer)?, Cutting { bos: BosArg::No, ..extract.cutting.clone() })
        }
        None => (text, extract.cutting.clone()),
    };
    let encoded = cutting.encode(&text, tokenizer)?;
    let text = Some((text, encoded.offsets));
    Ok(Example { number, ids: encoded.ids, text, ..Example::default() })
}

/// Rows of whole numbers from JSON.
fn integers<T: TryFrom<u64>>(text: &str, flag: &str) -> Result<Vec<Vec<T>>, Failure> {
    let wrong = |what: String| {
        Failure::usage(format!("{flag}: {what}")).hint("rows of whole numbers as JSON: '[[1,2],[3,4]]'")
    };
    let value: Value = serde_json::from_str(text).map_err(|e| wrong(format!("not JSON: {e}")))?;
    let rows = value.as_array().ok_or_else(|| wrong("not a list of rows".to_owned()))?;
    let row = |(number, row): (usize, &Value)| {
        let row = row.as_array().ok_or_else(|| wrong(format!("row {number} is not a list")))?;
        row.iter()
            .map(|x| x.as_u64().and_then(|x| T::try_from(x).ok()))
            .map(|x| {
                x.ok_or_else(|| wrong(format!("row {number} holds something else than token ids or masks")))
            })
            .collect()
    };
    rows.iter().enumerate().map(row).collect()
}
