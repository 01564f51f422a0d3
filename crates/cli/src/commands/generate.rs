//! `run --generate`: a continuation, printed as it comes.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;

use easyroutine::generate::{Finish, GenerateOptions, Generated, Sampling, TextStream, generate_until};
use easyroutine::load::end_ids;
use easyroutine::tokens::Tokenizer;
use easyroutine::{Error, ErrorKind, Tap};
use serde_json::{Value, json};

use crate::args::{Args, Format, Generation, Next};
use crate::changes;
use crate::failure::{Failure, one_line};
use crate::hosted::{self, Event};
use crate::output::{self, Cell, Destination};
use crate::session::{self, Prompt, Session, token_text};

/// Text by default on a terminal and in a pipe, since a continuation is text.
const FORMATS: &[Format] =
    &[Format::Table, Format::Table, Format::Tsv, Format::Json, Format::Csv, Format::Md, Format::Jsonl];

pub(super) fn run(args: &Args, next: &Next, count: usize) -> Result<(), Failure> {
    let targets = output::targets(args, FORMATS)?;
    let interventions = next.changes.read(&next.model.loading.finding)?;
    let session = session::load(&next.model.model, &next.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &next.model.loading.finding)?;
    let prompt = next.prompt.read(&tokenizer, session.model.arch().context)?;
    let edits = changes::of_prompt(&interventions, &session, &prompt, &tokenizer, next.changes.seed)?;
    let options = options(&next.generation, next.changes.seed, count, &session, &tokenizer)?;

    let streams = targets.iter().any(|t| t.file.is_none() && t.format == Format::Table);
    let mut written = Written::new(streams);
    let stops = &next.generation.stop;
    let continued =
        continued(&session, &tokenizer, &prompt, stops, &options, edits, |piece| written.add(piece))?;
    let Some(generated) = continued else { return Ok(()) };
    written.end()?;
    let result = Continuation { next, session: &session, tokenizer: &tokenizer, prompt: &prompt, generated };
    for target in targets.iter().filter(|t| !streams || t.file.is_some() || t.format != Format::Table) {
        output::write(target, result.render(target, &written.text)?.as_bytes())?;
    }
    if io::stderr().is_terminal() && result.generated.finish == Finish::Context {
        output::note("note", "the text ends where the model's context does");
    }
    Ok(())
}

/// Continues a prompt. `add` gets the text piece by piece, and says whether somebody still reads it; `None` if nobody
/// does.
pub(super) fn continued(
    session: &Session,
    tokenizer: &Tokenizer,
    prompt: &Prompt,
    stops: &[String],
    options: &GenerateOptions,
    edits: impl Tap,
    mut add: impl FnMut(&str) -> Result<bool, Error>,
) -> Result<Option<Generated>, Failure> {
    let mut text = TextStream::new(tokenizer, &prompt.encoded.ids, stops)?;
    let mut gone = false;
    let rows = [&prompt.encoded.ids];
    let mut generated = generate_until(&session.model, &rows, options, edits, hosted::stop(), |token| {
        let piece = if tokenizer.is_special(token.id) { None } else { Some(text.push(token.id)?) };
        let stopped = piece.as_ref().is_some_and(|piece| piece.stopped);
        gone = !add(&piece.map(|piece| piece.text).unwrap_or_default())?;
        Ok(if stopped || gone { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if gone {
        return Ok(None);
    }
    add(&text.finish()?)?;
    Ok(generated.pop())
}

/// How a continuation of at most `max_new_tokens` is made.
pub(super) fn options(
    generation: &Generation,
    seed: u64,
    max_new_tokens: usize,
    session: &Session,
    tokenizer: &Tokenizer,
) -> Result<GenerateOptions, Failure> {
    let Generation { temperature, top_k, top_p, .. } = *generation;
    let sampling = match temperature {
        Some(0.0) if top_k.is_some() || top_p.is_some() => {
            return Err(Failure::usage("--temperature 0 draws nothing: leave out --top-k and --top-p"));
        }
        Some(0.0) => Sampling::Greedy,
        None if top_k.is_none() && top_p.is_none() => Sampling::Greedy,
        _ => Sampling::Random { temperature: temperature.unwrap_or(1.0), top_k, top_p },
    };
    let ends = if generation.ignore_end { Vec::new() } else { ends(session, Some(tokenizer))? };
    Ok(GenerateOptions { max_new_tokens, sampling, ends, seed })
}

/// Ids that end a row: the model's, else the tokenizer's.
pub(super) fn ends(session: &Session, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>, Failure> {
    let mut ends = end_ids(&session.files)?;
    if ends.is_empty() {
        ends.extend(tokenizer.and_then(Tokenizer::eos_id));
    }
    Ok(ends)
}

/// The text so far, also printed as it comes when streaming.
struct Written {
    text: String,
    streams: bool,
    to_terminal: bool,
}

impl Written {
    fn new(streams: bool) -> Self {
        Written { text: String::new(), streams, to_terminal: io::stdout().is_terminal() }
    }

    /// Adds a piece; returns false if the reader has gone.
    fn add(&mut self, piece: &str) -> Result<bool, Error> {
        if hosted::say(Event::Piece(piece)) {
            hosted::check()?;
        }
        self.text.push_str(piece);
        if self.streams && !piece.is_empty() { self.print(piece) } else { Ok(true) }
    }

    /// Ends the last line.
    fn end(&self) -> Result<(), Error> {
        if self.streams && !self.text.ends_with('\n') {
            // If the reader has gone, there is no line to end.
            self.print("\n")?;
        }
        Ok(())
    }

    /// A model's text is untrusted: of control characters only its line ends reach a terminal.
    fn print(&self, piece: &str) -> Result<bool, Error> {
        let shown = match self.to_terminal {
            true => piece.split('\n').map(one_line).collect::<Vec<_>>().join("\n"),
            false => piece.to_owned(),
        };
        let mut out = io::stdout().lock();
        match out.write_all(shown.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(e) => Err(Error::new(ErrorKind::Io, format!("standard output: {e}")).because(e)),
        }
    }
}

/// Everything reported about a continuation.
struct Continuation<'a> {
    next: &'a Next,
    session: &'a Session,
    tokenizer: &'a Tokenizer,
    prompt: &'a Prompt,
    generated: Generated,
}

impl Continuation<'_> {
    fn render(&self, target: &Destination, text: &str) -> Result<String, Failure> {
        if target.format == Format::Table {
            return Ok(format!("{}\n", text.trim_end_matches('\n')));
        }
        let tokens = self.generated.ids.iter().zip(&self.generated.logprobs).enumerate();
        let row = |(step, (id, logprob)): (usize, (&u32, &f64))| {
            vec![
                step.to_string().into(),
                id.to_string().into(),
                Cell::token(&token_text(self.tokenizer, *id)),
                Cell::new(format!("{:.6}", logprob.exp()), logprob.exp()),
                Cell::new(format!("{logprob:.5}"), logprob),
            ]
        };
        let rows: Vec<Vec<Cell>> = tokens.map(row).collect();
        let header = ["step", "id", "token", "probability", "logprob"];
        output::render(target.format, &header, &rows, &self.json(text))
    }

    fn json(&self, text: &str) -> Value {
        let Generation { temperature, top_k, top_p, stop, .. } = &self.next.generation;
        let named = |id: &u32| json!({"id": id, "text": token_text(self.tokenizer, *id)});
        let generated = self.generated.ids.iter().zip(&self.generated.logprobs).map(
            |(id, logprob)| json!({"id": id, "text": token_text(self.tokenizer, *id), "logprob": logprob}),
        );
        json!({
            "schema": "easyroutine.generate/1",
            "model": self.session.model_json(),
            "bos": self.prompt.encoded.starts_with_bos,
            "chat": self.prompt.chat,
            "interventions": self.next.changes.intervene,
            "sampling": {
                "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": self.next.changes.seed, "stop": stop,
            },
            "tokens": self.prompt.encoded.ids.iter().map(named).collect::<Vec<_>>(),
            "generated": generated.collect::<Vec<_>>(),
            "text": text,
            "finish": self.generated.finish.name(),
        })
    }
}
