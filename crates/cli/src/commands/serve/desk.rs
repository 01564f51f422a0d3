//! The answering thread: one model in memory, one question at a time.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use easyroutine::tokens::Tokenizer;
use easyroutine_serve::{Doing, Reply};
use easyroutine_view::attention::{AttentionReport, Sink};
use easyroutine_view::circuit::CircuitReport;
use easyroutine_view::graph::GraphReport;
use easyroutine_view::lens::LensReport;
use easyroutine_view::{attention, circuit, graph, lens};
use serde_json::{Value, json};

use super::super::dict_page;
use super::asked::{self, Asked, With};
use super::{python, words};
use crate::args::{Command, Format, Loading};
use crate::failure::{Failure, SUCCESS};
use crate::hosted::{self, Call, Event};
use crate::output;
use crate::session::{self, Session};

/// The flags of `serve`.
#[derive(Debug)]
pub(super) struct First {
    pub(super) model: Option<String>,
    pub(super) loading: Loading,
    pub(super) base: Option<PathBuf>,
    pub(super) features: Vec<PathBuf>,
}

/// A model in memory.
struct Held {
    reference: String,
    loading: Loading,
    session: Rc<Session>,
    tokenizer: Rc<Tokenizer>,
    /// Notes printed while it was loaded.
    notes: Vec<Value>,
}

pub(super) struct Desk {
    held: Option<Held>,
    /// Why there is no model, if loading one failed.
    problem: Option<Value>,
    loading: Loading,
    base: Option<PathBuf>,
    features: Vec<PathBuf>,
}

impl Desk {
    /// Loads the first model; if that fails, the page reports it and stays.
    pub(super) fn open(first: First, doing: &Doing) -> Self {
        let First { model, loading, base, features } = first;
        let mut desk = Desk { held: None, problem: None, loading: loading.clone(), base, features };
        if let Some(reference) = model {
            doing.set(&format!("loading {reference}"));
            if let Err(failure) = desk.load(&reference, loading) {
                failure.report();
            }
        }
        desk
    }

    /// Replaces the model in memory, which is dropped first.
    fn load(&mut self, reference: &str, loading: Loading) -> Result<(), Failure> {
        (self.held, self.problem) = (None, None);
        let notes = Rc::new(RefCell::new(Vec::new()));
        let heard = Rc::clone(&notes);
        let call = Call {
            model: None,
            is_page: false,
            hear: Box::new(move |event| heard.borrow_mut().extend(note(event))),
            is_abandoned: Box::new(|| false),
        };
        let open = || {
            let session = session::read(reference, &loading)?;
            let tokenizer = session::tokenizer(&session.files, &loading.finding)?;
            Ok((session, tokenizer))
        };
        let (opened, _) = hosted::run(call, open);
        let notes = notes.take();
        for note in &notes {
            let text = |key: &str| note[key].as_str().unwrap_or_default();
            output::note(text("kind"), text("text"));
        }
        match opened {
            Ok((session, tokenizer)) => {
                let (reference, session) = (reference.to_owned(), Rc::new(session));
                self.held = Some(Held { reference, loading, session, tokenizer, notes });
                Ok(())
            }
            Err(failure) => {
                self.problem = Some(failure_json(&failure, Some(reference)));
                Err(failure)
            }
        }
    }

    /// Answers one question; any error, even a bug, is an answer.
    pub(super) fn answer(&mut self, question: &Value, reply: &Reply) {
        let begin = Instant::now();
        let answered = catch_unwind(AssertUnwindSafe(|| match question["ask"].as_str() {
            Some("state") => Ok(self.state()),
            Some("load") => self.swap(question, reply),
            Some("run") => self.run(question, reply),
            _ => Err(Failure::usage("a question asks `state`, `load` or `run`")),
        }));
        let mut event = match answered {
            Ok(Ok(event)) => event,
            Ok(Err(failure)) => failure_json(&failure, None),
            Err(_) => {
                failure_json(&Failure::failed("the command broke off: this is a fault of the program"), None)
            }
        };
        event["seconds"] = json!(begin.elapsed().as_secs_f64());
        reply.send(&event);
    }

    /// What is available to explore.
    fn state(&self) -> Value {
        let model = self.held.as_ref().map(|held| {
            let arch = held.session.model.arch();
            let mut model = held.session.model_json();
            model["reference"] = json!(held.reference);
            model["n_layers"] = json!(arch.layers.len());
            model["n_heads"] = json!(arch.n_heads);
            model["d_model"] = json!(arch.d_model);
            model["vocabulary"] = json!(arch.vocabulary);
            model["context"] = json!(arch.context);
            model["notes"] = json!(held.notes);
            model
        });
        let base = self.base.as_ref().map(|base| base.display().to_string());
        let data = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": model,
            "problem": self.problem,
            "base": base,
            "features": self.features(),
        });
        json!({"event": "result", "data": data})
    }

    /// The files of features, looked for anew: a long run of `features` may have ended meanwhile.
    fn features(&self) -> Vec<Value> {
        let files = self.features.iter().flat_map(|path| match path.is_dir() {
            true => dict_page::files_in(path),
            false => vec![path.clone()],
        });
        let about = |file: PathBuf| {
            let key = file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
            json!({"key": key, "path": file.display().to_string()})
        };
        files.map(about).collect()
    }

    fn swap(&mut self, question: &Value, reply: &Reply) -> Result<Value, Failure> {
        let Some(reference) = question["model"].as_str().filter(|name| !name.trim().is_empty()) else {
            return Err(Failure::usage("name a model"));
        };
        reply.doing(&format!("loading {reference}"));
        let mut loading = self.loading.clone();
        // Nothing leaves the machine from here: downloads are done by a command.
        loading.finding.offline = true;
        loading.finding.revision = None;
        self.load(reference, loading)?;
        Ok(self.state())
    }

    /// The refusal of a question that expects another model: one window may load a model while a second one still shows
    /// the last.
    fn swapped(&self, question: &Value) -> Option<Value> {
        let expected = question["model"].as_str()?;
        let loaded = self.held.as_ref().map(|held| held.reference.as_str());
        if loaded == Some(expected) {
            return None;
        }
        let what =
            loaded.map_or("no model is in memory".to_owned(), |name| format!("`{name}` is in memory now"));
        let failure = Failure::usage(format!("`{expected}` is no longer loaded: {what}"))
            .hint("load it again, or ask the model that is loaded");
        let mut event = failure_json(&failure, loaded);
        event["swapped"] = json!(true);
        Some(event)
    }

    fn run(&mut self, question: &Value, reply: &Reply) -> Result<Value, Failure> {
        if let Some(refusal) = self.swapped(question) {
            return Ok(refusal);
        }
        let (format, is_page) = format(question)?;
        let with = self.held.as_ref().map(|held| With { reference: &held.reference, loading: &held.loading });
        let Asked { args, words } = asked::read(question, format, with, self.base.as_deref())?;
        if let (Some(named), Some(held)) = (asked::model(&args.command), &self.held)
            && (named.model != held.reference || named.loading != held.loading)
        {
            return Err(Failure::usage("the page runs the model that is loaded").hint("load the other first"));
        }
        reply.doing(&format!("running {}", words.get(1).map_or("", String::as_str)));
        let (heard, watched) = (reply.clone(), reply.clone());
        let call = Call {
            model: self.held.as_ref().map(|held| (Rc::clone(&held.session), Rc::clone(&held.tokenizer))),
            is_page,
            hear: Box::new(move |event| hear(event, &heard)),
            is_abandoned: Box::new(move || watched.is_abandoned()),
        };
        let (status, written) = hosted::run(call, || crate::run(&args));
        let status = status?;
        let mut event = json!({
            "event": "result",
            "status": status,
            "command": words::shell(&words),
        });
        match format {
            Format::Png => event["base64"] = json!(STANDARD.encode(&written)),
            Format::Json => {
                event["data"] = data(&args.command, &written, is_page)?;
                event["python"] = json!(python::of(&args.command, &words[1..], &event["data"]));
            }
            _ => event["text"] = json!(String::from_utf8_lossy(&written)),
        }
        debug_assert!(status == SUCCESS || matches!(args.command, Command::Runs(_)));
        Ok(event)
    }
}

/// The requested format. `page` is the JSON that a page draws.
fn format(question: &Value) -> Result<(Format, bool), Failure> {
    use clap::ValueEnum as _;
    match question["format"].as_str().unwrap_or("page") {
        "page" => Ok((Format::Json, true)),
        name => match Format::from_str(name, false) {
            Ok(Format::Auto) | Err(_) => Err(Failure::usage(format!("`{name}` is not a format"))),
            Ok(format) => Ok((format, false)),
        },
    }
}

/// What is told of a circuit beside its edges.
#[derive(serde::Deserialize)]
struct About {
    easyroutine: Value,
}

/// The report of a command. Large ones are sent in the form of the one-file pages.
fn data(command: &Command, written: &[u8], is_page: bool) -> Result<Value, Failure> {
    let text = std::str::from_utf8(written).map_err(|e| Failure::failed(e.to_string()))?;
    Ok(match command {
        Command::Lens(_) if is_page => lens::page_data(&LensReport::from_json(text)?),
        Command::Graph(_) if is_page => graph::page_data(&GraphReport::from_json(text)?),
        Command::Edges(_) if is_page => {
            let mut data = circuit::page_data(&CircuitReport::from_json(text)?);
            let About { easyroutine } =
                serde_json::from_str(text).map_err(|e| Failure::failed(format!("no report: {e}")))?;
            for key in ["metric", "clean", "corrupted", "circuit"] {
                data[key] = easyroutine[key].clone();
            }
            data
        }
        Command::Attn(_) if is_page => attention::page_data(&AttentionReport::from_json(text)?, Sink::Shown)?,
        _ => serde_json::from_str(text).map_err(|e| Failure::failed(format!("no report: {e}")))?,
    })
}

fn hear(event: Event<'_>, reply: &Reply) {
    match event {
        Event::Note { .. } => {
            if let Some(mut event) = note(event) {
                event["event"] = json!("note");
                reply.send(&event);
            }
        }
        Event::Progress { done, of, what } => {
            reply.send(&json!({"event": "progress", "done": done, "of": of, "what": what}));
        }
        Event::Piece("") => {}
        Event::Piece(text) => reply.send(&json!({"event": "piece", "text": text})),
    }
}

fn note(event: Event<'_>) -> Option<Value> {
    match event {
        Event::Note { kind, text } => Some(json!({"kind": kind, "text": text})),
        _ => None,
    }
}

/// A failure in the page's form.
fn failure_json(failure: &Failure, model: Option<&str>) -> Value {
    json!({
        "event": "error",
        "message": failure.message(),
        "hint": failure.hint_text(),
        "status": failure.code(),
        "model": model,
    })
}
