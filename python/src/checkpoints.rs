//! Two checkpoints of one architecture side by side.

use easyroutine::compare::models::{Direction, Options, Pair, Side, sample};
use easyroutine::extract::Example;
use easyroutine::load::{self, LoadOptions};
use easyroutine::source::AdapterChoice;
use easyroutine::tokens::{Bos, Tokenizer};
use easyroutine::{Error, ErrorKind, Stop};
use easyroutine_app::checkpoints;
use easyroutine_app::memory::bounded_both;
use easyroutine_app::reports::{ModelsCompared, model_json};
use easyroutine_view::checkpoints as view;
use pyo3::prelude::*;

use crate::attention::drawing;
use crate::errors::Failure;
use crate::interrupt::Signals;
use crate::model::dtype_of;
use crate::source;

/// One prompt.
#[derive(FromPyObject)]
pub(crate) enum PromptInput {
    Text(String),
    Ids(Vec<u32>),
}

/// What is asked for.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct ComparisonSettings {
    patch: String,
    /// Names of tensors to patch; all without it.
    tensors: Option<Vec<String>>,
    patch_tokens: usize,
    worst: usize,
    dtype: String,
    threads: Option<usize>,
    memory: Option<String>,
    adapter: Option<String>,
    offline: bool,
}

/// The JSON `easyroutine.compare_models/1`, and what the user should know.
#[pyfunction]
pub(crate) fn compare_checkpoints(
    py: Python<'_>,
    a: &str,
    b: &str,
    prompts: Vec<PromptInput>,
    settings: ComparisonSettings,
) -> Result<(String, Vec<String>), Failure> {
    let memory = settings.memory.as_deref().map(easyroutine::cache::parse_bytes).transpose()?;
    let given = LoadOptions {
        dtype: dtype_of(&settings.dtype)?,
        threads: settings.threads,
        memory,
        ..LoadOptions::default()
    };
    // An adapter that is named belongs to B.
    let of_b = source::adapter(settings.adapter.clone(), true);
    let files = [
        source::find(py, a, None, settings.offline, AdapterChoice::Beside, None)?,
        source::find(py, b, None, settings.offline, of_b, None)?,
    ];
    let signals = Signals::new();
    let work = || -> Result<(String, Vec<String>), Error> {
        let stop = Stop::When(&|| signals.is_stopped());
        let [a, b] = [load::open(&files[0], &given)?, load::open(&files[1], &given)?];
        let options = bounded_both([&a, &b], given.clone())?;
        let types = [&a, &b].map(|opened| opened.reading.family.model_type);
        let context = a.arch().context.min(b.arch().context);
        let mut pair = Pair::new(a, b, [&options, &options])?;
        let of_models = [Side::A, Side::B].into_iter().flat_map(|side| pair.model(side).warnings());
        let mut warnings: Vec<String> = of_models.chain(pair.warnings()).cloned().collect();
        let (tokenizer, said) = checkpoints::tokenizer(&files, [None; 2])?;
        warnings.extend(said);
        let tokenizer = tokenizer.as_ref();
        let examples = examples(prompts, tokenizer, context)?;
        let weights = pair.weights(stop, &mut |_, _| ())?;
        let chosen = checkpoints::tensors(&pair, settings.tensors.as_deref().unwrap_or_default())?;
        let differing: Vec<usize> = chosen.into_iter().filter(|tensor| !weights[*tensor].is_equal).collect();
        let options = Options { worst: settings.worst, stop, ..Options::default() };
        let differences = pair.differences(&examples, options)?;
        let direction = direction(&settings.patch)?;
        let causes = match direction {
            None => None,
            Some(direction) => {
                let some = sample(&examples, settings.patch_tokens);
                Some((pair.causes(some, &differing, direction, options)?, direction))
            }
        };
        let models =
            [(0, Side::A), (1, Side::B)].map(|(n, side)| model_json(&files[n], types[n], pair.model(side)));
        let found = ModelsCompared {
            models: [&models[0], &models[1]],
            tokenizer,
            examples: &examples,
            differences: &differences,
            weights: &weights,
            causes: causes.as_ref().map(|(causes, direction)| (causes, *direction)),
        };
        Ok((found.json().to_string(), warnings))
    };
    py.detach(work).map_err(|error| signals.failure(error))
}

/// The JSON as a page.
#[pyfunction]
pub(crate) fn checkpoints_page(json: &str) -> Result<String, Failure> {
    let report = serde_json::from_str(json).map_err(|e| Error::input(format!("not JSON: {e}")))?;
    view::html(&report).map_err(drawing)
}

fn examples(
    prompts: Vec<PromptInput>,
    tokenizer: Option<&Tokenizer>,
    context: usize,
) -> Result<Vec<Example>, Error> {
    let example = |(number, prompt)| {
        let (ids, text) = match prompt {
            PromptInput::Ids(ids) => (ids, None),
            PromptInput::Text(text) => {
                let tokenizer = tokenizer.ok_or_else(|| {
                    Error::new(ErrorKind::Tokenizer, "neither model has a tokenizer")
                        .hint("prompts may be lists of token ids")
                })?;
                let encoded = tokenizer.encode(&text, Bos::Auto)?;
                (encoded.ids, Some((text, encoded.offsets)))
            }
        };
        if ids.is_empty() || ids.len() > context {
            let what = format!("prompt {number} has {} tokens; the models take 1 to {context}", ids.len());
            return Err(Error::input(what));
        }
        Ok(Example { number, ids, text, ..Example::default() })
    };
    prompts.into_iter().enumerate().map(example).collect()
}

fn direction(name: &str) -> Result<Option<Direction>, Error> {
    match name {
        "removes" => Ok(Some(Direction::Removes)),
        "adds" => Ok(Some(Direction::Adds)),
        "both" => Ok(Some(Direction::Both)),
        "none" => Ok(None),
        other => Err(Error::input(format!("patch is `{other}`; it is removes, adds, both or none"))),
    }
}
