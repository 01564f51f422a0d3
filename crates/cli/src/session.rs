//! Opens a model and its tokenizer according to the flags; turns a prompt into tokens.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use easyroutine::expected::Expected;
use easyroutine::identity::Identity;
use easyroutine::load::{self, LoadOptions, Opened};
use easyroutine::positions::Row;
use easyroutine::prompts::Format;
use easyroutine::source::{
    self, AdapterChoice, Environment, FilesKind, ModelFiles, ProgressCallback, ResolveOptions,
};
use easyroutine::tokens::{Bos, Encoded, Tokenizer};
use easyroutine::{Dtype, Model};
use easyroutine_dictionaries::{Dictionary, Options as DictionaryOptions};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

use crate::args::{BosArg, Cutting, Device, Finding, Loading, ModelArgs, PromptArgs};
use crate::chat::{Chat, Rendered, tell_unread};
use crate::failure::{Failure, one_line};
use crate::{hosted, output};
use easyroutine_app::memory::bounded;
use easyroutine_app::reports::{Subject, model_json};

/// A loaded model, with everything shown about it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) files: ModelFiles,
    pub(crate) model: Model,
    pub(crate) model_type: &'static str,
    pub(crate) identity: Identity,
}

impl Session {
    /// The model as named by every JSON report.
    pub(crate) fn model_json(&self) -> Value {
        model_json(&self.files, self.model_type, &self.model)
    }

    /// The subject of a report on a prompt.
    pub(crate) fn subject<'a>(&'a self, tokenizer: &'a Tokenizer, prompt: &'a Prompt) -> Subject<'a> {
        Subject {
            files: &self.files,
            model_type: self.model_type,
            model: &self.model,
            tokenizer,
            ids: &prompt.encoded.ids,
            starts_with_bos: prompt.encoded.starts_with_bos,
        }
    }
}

impl ModelArgs {
    /// The reference, from either place.
    ///
    /// # Errors
    /// If no model is named.
    pub(crate) fn reference(&self) -> Result<String, Failure> {
        let variable = || std::env::var("EASYROUTINE_MODEL").ok().filter(|name| !name.is_empty());
        let given = self.reference.clone().or_else(|| self.model.clone()).or_else(variable);
        given.ok_or_else(|| {
            Failure::usage("no model given")
                .hint("name one: a folder, a .gguf file, a name on the hub, or smollm2")
        })
    }
}

impl Loading {
    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype.dtype()
    }

    pub(crate) fn options(&self) -> LoadOptions {
        let Device::Cpu = self.device;
        LoadOptions {
            dtype: self.dtype(),
            threads: self.threads.map(usize::from),
            memory: self.memory,
            ..self.finding.options()
        }
    }
}

impl Finding {
    fn options(&self) -> LoadOptions {
        LoadOptions {
            allowed_keys: self.allow_config_key.clone(),
            allowed_tensors: self.allow_tensor.clone(),
            ..LoadOptions::default()
        }
    }

    fn adapter(&self) -> AdapterChoice {
        match (&self.adapter, self.no_adapter) {
            (Some(reference), _) => AdapterChoice::Named(reference.clone()),
            (None, true) => AdapterChoice::Without,
            (None, false) => AdapterChoice::Beside,
        }
    }
}

/// Finds a model's files, downloading them if allowed.
pub(crate) fn find(reference: &str, finding: &Finding) -> Result<ModelFiles, Failure> {
    let options = ResolveOptions {
        revision: finding.revision.clone(),
        adapter: finding.adapter(),
        ..downloading(finding.offline)
    };
    Ok(source::resolve(reference, &options)?)
}

/// Opens a dictionary: a path, or a place on the hub, downloading its files where that is allowed.
pub(crate) fn dictionary(
    reference: &str,
    options: &DictionaryOptions,
    finding: &Finding,
) -> Result<Dictionary, Failure> {
    let environment = Environment::from_process();
    Ok(Dictionary::open_reference(reference, options, &downloading(finding.offline), &environment)?)
}

fn downloading(offline: bool) -> ResolveOptions {
    let progress = std::io::stderr().is_terminal().then(download_bar);
    ResolveOptions { offline, progress, ..ResolveOptions::default() }
}

/// Reads a model's config and maps its files; prints warnings.
pub(crate) fn open(files: &ModelFiles, finding: &Finding) -> Result<Opened, Failure> {
    if let (Some(pre), FilesKind::Folder(_)) = (&finding.pre, &files.kind) {
        return Err(Failure::usage(format!("--pre {pre} is for GGUF files, and {} is a folder", files.name))
            .hint("leave --pre out: the folder's own files say how text is cut"));
    }
    let opened = load::open(files, &finding.options())?;
    warn(&opened.warnings);
    opened.notes.iter().for_each(|note| output::note("note", note));
    Ok(opened)
}

/// What the config.json of a folder requires; prints warnings.
pub(crate) fn expected(folder: &Path, finding: &Finding) -> Result<Expected, Failure> {
    let expected = easyroutine::expected::expected(folder, &finding.options())?;
    warn(&expected.reading.warnings);
    Ok(expected)
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        output::note("warning", &one_line(warning));
    }
}

/// Finds, opens and loads a model; a command of a page gets the loaded one.
pub(crate) fn load(reference: &str, loading: &Loading) -> Result<Rc<Session>, Failure> {
    match hosted::model() {
        Some(Some((session, _))) => Ok(session),
        Some(None) => Err(Failure::usage("no model is loaded")),
        None => read(reference, loading).map(Rc::new),
    }
}

/// Finds, opens and loads a model.
pub(crate) fn read(reference: &str, loading: &Loading) -> Result<Session, Failure> {
    let files = find(reference, &loading.finding)?;
    let opened = open(&files, &loading.finding)?;
    let options = bounded(&opened, loading.options())?;
    let model_type = opened.reading.family.model_type;
    let identity = opened.identity.clone();
    let spinner = std::io::stderr().is_terminal().then(|| {
        let spinner = ProgressBar::new_spinner().with_message(format!("loading {}", one_line(&files.name)));
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    });
    let warned = opened.warnings.len() + opened.notes.len();
    let model = opened.build(&options);
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    let model = model?;
    warn(&model.warnings()[warned..]);
    Ok(Session { files, model, model_type, identity })
}

/// The tokenizer of a model; prints warnings about contradictions in its files. A command of a page gets that of the
/// loaded model.
pub(crate) fn tokenizer(files: &ModelFiles, finding: &Finding) -> Result<Rc<Tokenizer>, Failure> {
    if let Some(Some((_, tokenizer))) = hosted::model() {
        return Ok(tokenizer);
    }
    let tokenizer = load::tokenizer(files, finding.pre.as_deref())?;
    tokenizer.warnings().iter().for_each(|warning| output::note("warning", warning));
    Ok(Rc::new(tokenizer))
}

/// A prompt with its tokens.
#[derive(Debug, Clone)]
pub(crate) struct Prompt {
    pub(crate) text: String,
    pub(crate) encoded: Encoded,
    /// How a conversation was made of it, for the record of a run.
    pub(crate) chat: Option<Value>,
}

impl Prompt {
    /// The prompt as the row of a batch.
    pub(crate) fn row(&self) -> Row<'_> {
        Row { number: 0, ids: &self.encoded.ids, text: Some((&self.text, &self.encoded.offsets)), n_new: 0 }
    }
}

impl PromptArgs {
    /// Reads the prompt and tokenizes it.
    pub(crate) fn read(&self, tokenizer: &Tokenizer, most: impl Into<Most>) -> Result<Prompt, Failure> {
        self.cut(self.text()?, tokenizer, most)
    }

    /// Tokenizes a text like the prompt: in the chat template, if requested.
    pub(crate) fn cut(
        &self,
        text: String,
        tokenizer: &Tokenizer,
        most: impl Into<Most>,
    ) -> Result<Prompt, Failure> {
        let most = most.into();
        let Some(chat) = self.chat.read(&self.cutting)? else {
            return self.cutting.cut(text, tokenizer, most);
        };
        let rendered = chat.say(&text, tokenizer)?;
        self.cut_rendered(&chat, rendered, tokenizer, most)
    }

    /// Tokenizes a conversation from a file.
    pub(crate) fn cut_conversation(
        &self,
        messages: Vec<Map<String, Value>>,
        tokenizer: &Tokenizer,
        most: impl Into<Most>,
    ) -> Result<Prompt, Failure> {
        let chat = self.chat.read(&self.cutting)?.ok_or_else(is_conversation)?;
        let rendered = chat.say_all(messages, tokenizer)?;
        self.cut_rendered(&chat, rendered, tokenizer, most.into())
    }

    /// Tokenizes the output of a chat template.
    fn cut_rendered(
        &self,
        chat: &Chat,
        rendered: Rendered,
        tokenizer: &Tokenizer,
        most: Most,
    ) -> Result<Prompt, Failure> {
        if rendered.has_bos {
            let bos = tokenizer.bos_text().unwrap_or_default();
            output::note("warning", &format!("the prompt holds `{bos}`, which the chat template writes too"));
        }
        tell_unread(&rendered.unread);
        // The template has written the special tokens.
        let cutting = Cutting { bos: BosArg::No, ..self.cutting.clone() };
        let prompt = cutting.cut(rendered.text, tokenizer, most)?;
        let record = self.chat.record(chat, rendered.told_time);
        self.chat.tell_time(&record);
        Ok(Prompt { chat: Some(record), ..prompt })
    }

    /// The text of the prompt.
    pub(crate) fn text(&self) -> Result<String, Failure> {
        match (&self.prompt, &self.file) {
            (_, Some(file)) => {
                refuse_sets(file)?;
                read_file(file)
            }
            (Some(dash), None) if dash == "-" => read_stdin(),
            (Some(text), None) => Ok(text.clone()),
            (None, None) => Err(Failure::usage("no prompt given")),
        }
    }
}

/// The error for a conversation where prompts are run as plain text.
pub(crate) fn is_conversation() -> Failure {
    Failure::usage("a prompt of the file is a conversation")
        .hint("--chat puts conversations into the model's chat template")
}

/// Refuses files with many prompts where a single one is read: the JSON itself would be taken as text.
fn refuse_sets(file: &Path) -> Result<(), Failure> {
    if Format::of(file)?.has_fields() {
        return Err(Failure::usage(format!("--file {}: here a file is one prompt", file.display()))
            .hint("`easyroutine extract --file` reads many; for one, write its text into a .txt file"));
    }
    Ok(())
}

impl Cutting {
    /// Tokenizes a text, or only the beginning if it is too long for the model; returns whether it is complete.
    fn encode(&self, text: &str, tokenizer: &Tokenizer, most: usize) -> Result<(Encoded, bool), Failure> {
        let bos = match self.bos {
            BosArg::Auto => Bos::Auto,
            BosArg::Yes => Bos::Yes,
            BosArg::No => Bos::No,
        };
        // One token beyond the limit shows that the text is too long.
        let (encoded, is_whole) = tokenizer.encode_up_to(text, bos, most.saturating_add(1))?;
        if encoded.ids.is_empty() {
            return Err(Failure::usage("the prompt is empty: it has no tokens"));
        }
        Ok((encoded, is_whole))
    }

    /// Tokenizes a text and checks it against the model's context: one that is too long is refused or truncated.
    pub(crate) fn row(
        &self,
        mut text: String,
        tokenizer: &Tokenizer,
        most: impl Into<Most>,
    ) -> Result<CutRow, Failure> {
        let most = most.into();
        let (mut encoded, is_whole) = self.encode(&text, tokenizer, most.tokens())?;
        let length = encoded.ids.len();
        let dropped = (length > most.tokens()).then(|| match is_whole {
            true => length.to_string(),
            false => format!("more than {}", most.tokens()),
        });
        if let Some(length) = &dropped {
            if !self.truncate {
                return Err(too_long(length, most));
            }
            encoded.ids.truncate(most.tokens());
            encoded.offsets.truncate(most.tokens());
            // Text not covered by a token is not part of the row, and may be long.
            let end = encoded.offsets.iter().map(|span| span.1).max().unwrap_or(0);
            text.truncate(end);
            text.shrink_to_fit();
        }
        Ok(CutRow { text, encoded, length_before: dropped })
    }

    /// Tokenizes the text of a prompt, and prints warnings.
    fn cut(&self, text: String, tokenizer: &Tokenizer, most: Most) -> Result<Prompt, Failure> {
        let CutRow { text, encoded, length_before } = self.row(text, tokenizer, most)?;
        tokenizer.warning_for(&text).iter().for_each(|warning| output::note("warning", warning));
        if tokenizer.begins_twice(&encoded.ids) {
            warn_of_bos(tokenizer, "the prompt");
        }
        if let Some(length) = length_before {
            output::note("warning", &format!("kept the first {} of {length} tokens", most.tokens()));
        }
        Ok(Prompt { text, encoded, chat: None })
    }
}

/// Limit on a row's tokens, and its reason.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Most {
    /// The model's context.
    Context(usize),
    /// A list's length.
    Listed(usize),
}

impl Most {
    fn tokens(self) -> usize {
        let (Most::Context(tokens) | Most::Listed(tokens)) = self;
        tokens
    }
}

impl From<usize> for Most {
    fn from(context: usize) -> Self {
        Most::Context(context)
    }
}

/// A text as a row of tokens that the model can read.
#[derive(Debug)]
pub(crate) struct CutRow {
    /// The text covered by the tokens.
    pub(crate) text: String,
    pub(crate) encoded: Encoded,
    /// The length of the whole text in tokens, in words, if it was truncated.
    pub(crate) length_before: Option<String>,
}

/// The error for a prompt of this many tokens.
pub(crate) fn too_long(length: &str, most: impl Into<Most>) -> Failure {
    let most = match most.into() {
        Most::Context(tokens) => format!("the model was built for {tokens} at most"),
        Most::Listed(tokens) => format!("{tokens} are listed at most"),
    };
    Failure::usage(format!("the prompt has {length} tokens; {most}"))
        .hint("pass --truncate to keep its first tokens")
}

/// Warns of two beginning-of-sequence tokens, where every model was trained on one.
pub(crate) fn warn_of_bos(tokenizer: &Tokenizer, what: &str) {
    let bos = tokenizer.bos_text().unwrap_or_default();
    let text = format!(
        "{what} begins with `{bos}`, and the tokenizer puts another in front; leave it out of the text, or pass --bos no"
    );
    output::note("warning", &text);
}

/// The token named by a flag: by its exact text, or as `id:7042`.
pub(crate) fn token_id(flag: &str, text: &str, tokenizer: &Tokenizer) -> Result<u32, Failure> {
    match text.strip_prefix("id:") {
        Some(number) => {
            number.parse().map_err(|_| Failure::usage(format!("{flag}: `{number}` is not a token id")))
        }
        None => {
            let id = tokenizer.single_token(text).ok_or_else(|| {
                Failure::usage(format!("{flag}: {text:?} is not one token of this model")).hint(
                    "see how it is cut: easyroutine tokens; most words begin with a blank, as in ' Paris'",
                )
            })?;
            if let Some(note) = without_blank(text, id, tokenizer) {
                output::note("note", &format!("{flag}: {note}"));
            }
            Ok(id)
        }
    }
}

/// A hint for a word without its leading space, if the word with the space is also a single token.
fn without_blank(text: &str, id: u32, tokenizer: &Tokenizer) -> Option<String> {
    if !text.starts_with(char::is_alphanumeric) {
        return None;
    }
    let other = tokenizer.single_token(&format!(" {text}")).filter(|other| *other != id)?;
    let (id_text, other_text) = (token_text(tokenizer, id), token_text(tokenizer, other));
    Some(format!("{id_text:?} (token {id}) is not {other_text:?} (token {other}), which follows other words"))
}

/// The same for an optional flag.
pub(crate) fn token_named(
    flag: &str,
    text: &Option<String>,
    tokenizer: &Tokenizer,
) -> Result<Option<u32>, Failure> {
    text.as_deref().map(|text| token_id(flag, text, tokenizer)).transpose()
}

/// A token's text; bytes that are not text are shown as such.
pub(crate) fn token_text(tokenizer: &Tokenizer, id: u32) -> String {
    tokenizer.token_text(id).to_string()
}

pub(crate) fn read_file(file: &Path) -> Result<String, Failure> {
    let place = file.display().to_string();
    let opened = File::open(file).map_err(|e| Failure::failed(format!("{place}: {e}")))?;
    without_newline(opened, &place)
}

pub(crate) fn read_stdin() -> Result<String, Failure> {
    without_newline(std::io::stdin().lock(), "standard input")
}

fn without_newline(reader: impl Read, place: &str) -> Result<String, Failure> {
    // Far beyond any context, and far below any memory: `/dev/zero` never ends.
    const LARGEST: u64 = 256 << 20;
    let mut bytes = Vec::new();
    let read = reader.take(LARGEST + 1).read_to_end(&mut bytes);
    read.map_err(|e| Failure::failed(format!("{place}: {e}")))?;
    if bytes.len() as u64 > LARGEST {
        return Err(Failure::failed(format!("{place}: more than {LARGEST} bytes are too much for a prompt")));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        Failure::failed(format!("{place}: not UTF-8 at byte {}", e.utf8_error().valid_up_to()))
    })?;
    // The byte order mark that some editors write is not part of the text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let cut = text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t));
    Ok(cut.unwrap_or(text).to_owned())
}

fn download_bar() -> ProgressCallback {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{msg:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    ProgressCallback::new(move |progress| {
        bar.set_message(one_line(progress.file));
        bar.set_length(progress.total.unwrap_or(progress.done));
        bar.set_position(progress.done);
        if progress.total == Some(progress.done) {
            bar.finish_and_clear();
        }
    })
}
