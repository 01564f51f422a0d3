//! `--intervene` and `--dict`: read before a model is loaded, checked against it before it runs.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use easyroutine::edit::{Edits, Intervention, Reference};
use easyroutine::positions::{Context, Row};
use easyroutine::tokens::Tokenizer;
use easyroutine_dictionaries::{Dictionaries, Dictionary, FeatureChange, FeatureEdits, Options, stated};
use serde_json::{Map, Value, json};

use crate::args::{Changes, DictFlags, Finding};
use crate::failure::{Failure, one_line};
use crate::output;
use crate::session::{self, Prompt, Session};

/// The changes, as given.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) interventions: Vec<Intervention>,
    pub(crate) features: Vec<FeatureChange>,
    pub(crate) dictionaries: Opened,
    /// What the files of values that interventions name say of themselves.
    stated: BTreeMap<PathBuf, BTreeMap<String, String>>,
}

/// Opened dictionaries, fitted to the model once it is known.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    waiting: RefCell<Vec<(String, Dictionary)>>,
    fitted: OnceCell<Dictionaries>,
    record: Map<String, Value>,
}

impl Changes {
    /// Reads the interventions and their values, and opens the dictionaries.
    ///
    /// # Errors
    /// If a text is not an intervention, a file does not exist, or a dictionary cannot be read.
    pub(crate) fn read(&self, finding: &Finding) -> Result<Given, Failure> {
        let (features, others): (Vec<&String>, Vec<&String>) =
            self.intervene.iter().partition(|text| FeatureChange::is_meant(text));
        let read = |text: &&String| text.parse::<Intervention<Reference>>();
        let others = others.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let files: BTreeSet<PathBuf> =
            others.iter().filter_map(Intervention::file).map(ToOwned::to_owned).collect();
        let interventions = others.into_iter().map(Intervention::load).collect::<Result<_, _>>()?;
        let stated = files.into_iter().map(|file| Ok((file.clone(), stated(&file)?)));
        let stated = stated.collect::<easyroutine::Result<_>>()?;
        let features = features.iter().map(|text| text.parse()).collect::<Result<Vec<FeatureChange>, _>>()?;
        let dictionaries = self.dictionaries.open(finding)?;
        if dictionaries.is_empty() && !features.is_empty() {
            return Err(Failure::usage("--intervene changes features, and no dictionary is given")
                .hint("name one: --dict NAME=PATH; its features are features_NAME"));
        }
        Ok(Given { interventions, features, dictionaries, stated })
    }
}

impl Given {
    pub(crate) fn is_empty(&self) -> bool {
        self.interventions.is_empty() && self.features.is_empty()
    }

    /// Warns of values that were made with another model: where the widths agree, nothing else would tell.
    fn warn_of_other_models(&self, session: &Session) -> Result<(), Failure> {
        for (file, about) in &self.stated {
            let about = |key: &str| about.get(key).map(String::as_str);
            let own_type = session.model_type;
            let other = match (about("model_digest"), about("model_type")) {
                (Some(digest), _) if digest != session.identity.digest()? => about("model").unwrap_or(digest),
                (None, Some(stated)) if !is_same_type(stated, own_type) => stated,
                _ => continue,
            };
            let own = if about("model_digest").is_some() { &session.files.name } else { own_type };
            let text = format!(
                "{} was made with another model: it says `{other}`, and this is `{own}`",
                file.display()
            );
            output::note("warning", &one_line(&text));
        }
        Ok(())
    }

    /// Refuses features for a command that does not use them.
    ///
    /// # Errors
    /// If any were given.
    pub(crate) fn refuse_features(&self, what: &str) -> Result<(), Failure> {
        if self.features.is_empty() && self.dictionaries.is_empty() {
            return Ok(());
        }
        Err(Failure::usage(format!("--dict: {what}")))
    }
}

impl DictFlags {
    /// Opens the named dictionaries.
    ///
    /// # Errors
    /// If a flag is not NAME=…, a place or factor belongs to no given dictionary, or files cannot be read.
    pub(crate) fn open(&self, finding: &Finding) -> Result<Opened, Failure> {
        let mut named: Vec<(String, String, Options)> = Vec::new();
        for text in &self.dict {
            let Some((name, path)) = text.split_once('=') else {
                return Err(Failure::usage(format!("--dict: `{}` names no path", one_line(text)))
                    .hint("write NAME=PATH; features are then features_NAME"));
            };
            if named.iter().any(|(taken, ..)| taken == name) {
                return Err(Failure::usage(format!(
                    "--dict: two dictionaries are called `{}`",
                    one_line(name)
                )));
            }
            named.push((name.to_owned(), path.to_owned(), Options::default()));
        }
        for text in &self.place {
            let (at, place) = owner("--place", text, &named)?;
            once("--place", &mut named[at].2.place, place.to_owned())?;
        }
        for text in &self.norm_factor {
            let (at, factor) = owner("--norm-factor", text, &named)?;
            let factor = factor.parse().map_err(|_| {
                Failure::usage(format!("--norm-factor: `{}` is not a number", one_line(factor)))
            })?;
            once("--norm-factor", &mut named[at].2.norm_factor, factor)?;
        }
        let mut opened = Opened::default();
        for (name, path, options) in named {
            let dictionary = session::dictionary(&path, &options, finding)?;
            for warning in &dictionary.certificate().warnings {
                output::note("warning", &one_line(&format!("{name}: {warning}")));
            }
            let certificate = dictionary.certificate();
            let record = json!({
                "path": path,
                "commit": dictionary.commit(),
                "format": certificate.format,
                "architecture": certificate.architecture,
                "place": options.place,
                "norm_factor": options.norm_factor,
            });
            opened.record.insert(name.clone(), record);
            opened.waiting.borrow_mut().push((name, dictionary));
        }
        Ok(opened)
    }
}

/// Keeps the value of a flag that each dictionary may have once.
fn once<T>(flag: &str, slot: &mut Option<T>, value: T) -> Result<(), Failure> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Failure::usage(format!("{flag} is given twice for one dictionary"))
            .hint("it may repeat for another dictionary of --dict")),
    }
}

/// The dictionary that a flag `NAME=VALUE` belongs to, and the value; with a single dictionary the name may be omitted.
fn owner<'t>(
    flag: &str,
    text: &'t str,
    named: &[(String, String, Options)],
) -> Result<(usize, &'t str), Failure> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (Some(name), value),
        None => (None, text),
    };
    let found = match name {
        Some(name) => named.iter().position(|(known, ..)| known == name),
        None if named.len() == 1 => Some(0),
        None => None,
    };
    found.map(|at| (at, value)).ok_or_else(|| {
        Failure::usage(format!("{flag}: `{}` is of no dictionary that --dict names", one_line(text)))
            .hint(format!("write {flag} NAME=VALUE with a name of --dict"))
    })
}

impl Opened {
    /// Whether none were given.
    pub(crate) fn is_empty(&self) -> bool {
        self.record.is_empty()
    }

    /// A description for the record of a result.
    pub(crate) fn record(&self) -> &Map<String, Value> {
        &self.record
    }

    /// The dictionaries, fitted to a model. Says of those that name another.
    ///
    /// # Errors
    /// If one does not fit.
    pub(crate) fn fitted(&self, session: &Session) -> Result<&Dictionaries, Failure> {
        if let Some(fitted) = self.fitted.get() {
            return Ok(fitted);
        }
        let mut all = Dictionaries::default();
        for (name, dictionary) in self.waiting.take() {
            tell_of_other_model(Some(&name), &dictionary, session);
            all.add(&name, dictionary, session.model.arch())?;
        }
        Ok(self.fitted.get_or_init(|| all))
    }
}

/// Says if a dictionary names another model than this one.
pub(crate) fn tell_of_other_model(name: Option<&str>, dictionary: &Dictionary, session: &Session) {
    if let Some(said) = dictionary.certificate().other_model(&session.files) {
        let name = name.map(|name| format!("{name}: ")).unwrap_or_default();
        output::note("warning", &one_line(&format!("{name}{said}")));
    }
}

/// Whether a control vector's architecture is the model's: `gemma3` and `gemma3_text` are one.
fn is_same_type(stated: &str, own: &str) -> bool {
    let plain = |text: &str| text.replace(['_', '-', '.'], "").to_lowercase();
    let (stated, own) = (plain(stated), plain(own));
    stated.starts_with(&own) || own.starts_with(&stated)
}

/// The checked interventions on rows, then those on features; prints their warnings.
///
/// # Errors
/// As [`Edits::new`], [`Dictionaries::add`] and [`FeatureEdits::new`].
pub(crate) fn checked<'g>(
    given: &'g Given,
    session: &Session,
    rows: &[Row<'_>],
    context: Context<'_>,
) -> Result<(Edits, FeatureEdits<'g>), Failure> {
    let model = &session.model;
    given.warn_of_other_models(session)?;
    let edits = Edits::new(&given.interventions, model.arch(), rows, context)?;
    edits.warnings().iter().for_each(|warning| output::note("warning", warning));
    let dictionaries = given.dictionaries.fitted(session)?;
    let features = FeatureEdits::new(&given.features, dictionaries, model.cpu(), rows, context)?;
    Ok((edits, features))
}

/// Interventions on one prompt; random positions are drawn by `seed`.
///
/// # Errors
/// As [`checked`].
pub(crate) fn of_prompt<'g>(
    given: &'g Given,
    session: &Session,
    prompt: &Prompt,
    tokenizer: &Tokenizer,
    seed: u64,
) -> Result<(Edits, FeatureEdits<'g>), Failure> {
    let context = Context { special: tokenizer.special_ids(), seed, ..Context::default() };
    checked(given, session, &[prompt.row()], context)
}
