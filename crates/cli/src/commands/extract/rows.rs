//! The rows of `extract`, from any source, as examples.

use std::collections::BTreeMap;

use easyroutine::Batch;
use easyroutine::edit::Intervention;
use easyroutine::extract::{self, Example, Options};
use easyroutine::positions::Context;
use easyroutine::prompts::{self, Prompt, Prompts};
use easyroutine::tokens::Tokenizer;
use serde_json::Value;

use crate::args::{BosArg, Cutting, Extract};
use crate::chat::{Chat, Rendered, tell_unread};
use crate::failure::Failure;
use crate::session::{CutRow, Session};
use crate::{output, progress, session};
use easyroutine_app::filling::{Field, edits_of_batches};

/// Reads the given prompts or ids, so that errors in them show before a model is loaded.
pub(super) fn read(extract: &Extract) -> Result<Prompts, Failure> {
    if extract.file.is_none() {
        extract.reading.refuse_without("--file prompts.jsonl")?;
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
        (_, Some(file)) => extract.reading.read(file)?,
        (Some(dash), None) if dash == "-" => each([Prompt::Text(session::read_stdin()?)]),
        (Some(text), None) => each([Prompt::Text(text.clone())]),
        (None, None) => return Err(Failure::usage("no prompt given")),
    })
}

/// The fields of each prompt in the file that are to be kept.
pub(super) fn fields(extract: &Extract, prompts: &Prompts) -> Result<Vec<Field>, Failure> {
    match (&extract.file, extract.saving.keep_fields.as_slice()) {
        (Some(file), names @ [_, ..]) => {
            Ok(prompts::read_fields(file, names, &prompts.rows, &extract.reading.options())?)
        }
        _ => Ok(Vec::new()),
    }
}

/// Prompts numbered in order.
fn each(prompts: impl IntoIterator<Item = Prompt>) -> Prompts {
    let prompts: Vec<Prompt> = prompts.into_iter().collect();
    Prompts { rows: (0..prompts.len()).collect(), prompts, skipped: 0 }
}

/// All prompts, prepared.
pub(super) struct Rows {
    pub(super) examples: Vec<Example>,
    /// The number of each row in its file, if some were skipped.
    pub(super) of_file: Option<Vec<usize>>,
    /// How conversations were made of them, for the record of the run.
    pub(super) chat: Option<Value>,
}

/// Tokenizes all prompts and checks them against the model's context.
pub(super) fn examples(
    prompts: Prompts,
    extract: &Extract,
    tokenizer: Option<&Tokenizer>,
    context: usize,
) -> Result<Rows, Failure> {
    let mut chat = extract.chat.read(&extract.cutting)?.map(Conversation::new);
    let Prompts { prompts, rows: of_file, skipped } = prompts;
    let mut examples = Vec::with_capacity(prompts.len());
    let mut oddities = Oddities { many: prompts.len() > 1, ..Oddities::default() };
    for (prompt, number) in prompts.into_iter().zip(of_file.iter().copied()) {
        let mut example = example(number, prompt, extract, tokenizer, context, chat.as_mut(), &mut oddities)
            .map_err(|failure| if oddities.many { failure.at(format!("row {number}")) } else { failure })?;
        // Numbered among the rows that run; their places in the file are kept separately.
        example.number = examples.len();
        examples.push(example);
    }
    if let Some(tokenizer) = tokenizer {
        oddities.tell(tokenizer, context, chat.as_ref().map_or(&[], |chat| &chat.have_bos));
    }
    let of_file = (skipped > 0).then_some(of_file);
    tell_unread(chat.as_ref().and_then(|chat| chat.unread.as_deref()).unwrap_or_default());
    let chat = chat.map(|chat| extract.chat.record(&chat.chat, chat.told_time));
    chat.iter().for_each(|record| extract.chat.tell_time(record));
    Ok(Rows { examples, of_file, chat })
}

/// How prompts become conversations, and what was observed on the way.
struct Conversation {
    chat: Chat,
    told_time: bool,
    have_bos: Vec<usize>,
    /// Variables that no prompt so far had read; `None` before the first prompt.
    unread: Option<Vec<String>>,
}

impl Conversation {
    fn new(chat: Chat) -> Self {
        Conversation { chat, told_time: false, have_bos: Vec::new(), unread: None }
    }

    fn say(&mut self, number: usize, rendered: Rendered) -> String {
        self.told_time |= rendered.told_time;
        if rendered.has_bos {
            self.have_bos.push(number);
        }
        match &mut self.unread {
            Some(unread) => unread.retain(|name| rendered.unread.contains(name)),
            None => self.unread = Some(rendered.unread),
        }
        rendered.text
    }
}

/// The examples with the model's continuations, under the interventions.
pub(super) fn continued(
    examples: Vec<Example>,
    count: usize,
    ends: &[u32],
    extract: &Extract,
    session: &Session,
    interventions: &[Intervention],
    context: Context<'_>,
) -> Result<Vec<Example>, Failure> {
    let bar = progress::Rows::new(&session.model);
    let tell = |progress| bar.tell(progress);
    // An edit that refers to rows of one batch puts all rows into one.
    let is_one = interventions.iter().any(Intervention::speaks_of_rows);
    let batch_tokens = if is_one { usize::MAX } else { extract.batch_tokens as usize };
    let options = Options { batch_tokens, progress: Some(&tell), ..Options::default() };
    let mut edits = edits_of_batches(interventions, session.model.arch(), context);
    let longer = extract::continued(&session.model, examples, count, ends, options, &mut edits)?;
    bar.finish();
    Ok(longer)
}

/// Rows treated in a way that a user may not expect, by their numbers in the file: reported once for all of them.
#[derive(Default)]
struct Oddities {
    /// Whether there is more than one row.
    many: bool,
    /// Truncated rows, with the length of each.
    cut: Vec<(usize, String)>,
    begin_twice: Vec<usize>,
    /// Warnings about tokenization, and the texts that they concern.
    doubts: BTreeMap<String, Vec<usize>>,
}

impl Oddities {
    fn tell(&self, tokenizer: &Tokenizer, context: usize, have_bos: &[usize]) {
        let rows = |numbers: &[usize]| match numbers {
            [_] if !self.many => "the prompt".to_owned(),
            [one] => format!("row {one}"),
            [first, ..] => format!("each of {} rows, the first of them {first},", numbers.len()),
            [] => String::new(),
        };
        if !self.begin_twice.is_empty() {
            session::warn_of_bos(tokenizer, &rows(&self.begin_twice));
        }
        if !have_bos.is_empty() {
            let bos = tokenizer.bos_text().unwrap_or_default();
            let text = format!("{} holds `{bos}`, which the chat template writes too", rows(have_bos));
            output::note("warning", &text);
        }
        for (doubt, numbers) in &self.doubts {
            let text = match numbers.as_slice() {
                _ if !self.many => doubt.clone(),
                [one] => format!("row {one}: {doubt}"),
                [first, ..] => format!("{} rows, the first of them {first}: {doubt}", numbers.len()),
                [] => continue,
            };
            output::note("warning", &text);
        }
        match self.cut.as_slice() {
            [] => {}
            [(row, length)] => {
                output::note("warning", &format!("row {row}: kept the first {context} of {length} tokens"));
            }
            [(first, _), ..] => {
                let text = format!(
                    "kept the first {context} tokens of {} rows, the first of them {first}",
                    self.cut.len()
                );
                output::note("warning", &text);
            }
        }
    }
}

fn example(
    number: usize,
    prompt: Prompt,
    extract: &Extract,
    tokenizer: Option<&Tokenizer>,
    context: usize,
    chat: Option<&mut Conversation>,
    oddities: &mut Oddities,
) -> Result<Example, Failure> {
    let tokenizer = || tokenizer.ok_or_else(|| Failure::failed("the model has no tokenizer"));
    // The chat template has written the special tokens.
    let without_bos = || Cutting { bos: BosArg::No, ..extract.cutting.clone() };
    let (text, cutting) = match (prompt, chat) {
        (Prompt::Ids(ids), _) if ids.is_empty() => return Err(Failure::usage("there are no token ids")),
        (Prompt::Ids(mut ids), _) => {
            if ids.len() > context {
                if !extract.cutting.truncate {
                    return Err(session::too_long(&ids.len().to_string(), context));
                }
                oddities.cut.push((number, ids.len().to_string()));
                ids.truncate(context);
            }
            // Given ids are used unchanged.
            return Ok(Example { number, ids, ..Example::default() });
        }
        (Prompt::Text(text), None) => (text, extract.cutting.clone()),
        (Prompt::Text(text), Some(chat)) => {
            let rendered = chat.chat.say(&text, tokenizer()?)?;
            (chat.say(number, rendered), without_bos())
        }
        (Prompt::Messages(messages), Some(chat)) => {
            let rendered = chat.chat.say_all(messages, tokenizer()?)?;
            (chat.say(number, rendered), without_bos())
        }
        (Prompt::Messages(_), None) => return Err(session::is_conversation()),
    };
    let tokenizer = tokenizer()?;
    let CutRow { text, encoded, length_before } = cutting.row(text, tokenizer, context)?;
    oddities.cut.extend(length_before.map(|length| (number, length)));
    if tokenizer.begins_twice(&encoded.ids) {
        oddities.begin_twice.push(number);
    }
    if let Some(doubt) = tokenizer.warning_for(&text) {
        oddities.doubts.entry(doubt).or_default().push(number);
    }
    let text = Some((text, encoded.offsets));
    Ok(Example { number, ids: encoded.ids, text, ..Example::default() })
}

/// Parses rows of integers from JSON.
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
                x.ok_or_else(|| wrong(format!("row {number} holds something other than token ids or masks")))
            })
            .collect()
    };
    rows.iter().enumerate().map(row).collect()
}
