//! A run in a store, filled unit by unit by an extraction: what every face that saves data sets shares.

mod fields;
mod unit;

use std::ops::Range;

use easyroutine::edit::Intervention;
use easyroutine::extract::{End, Example, Extraction, Options, Progress};
use easyroutine::positions::Context;
use easyroutine::request::Request;
use easyroutine::source::ModelFiles;
use easyroutine::{Model, Stop};
use easyroutine_store::{MODEL_DIGEST, OpenRun, Plan, SHARD_BYTES, checksum};
use serde_json::{Map, Value, json};

use crate::reports::dtype_name;
pub use fields::{Field, summary};
pub use unit::finish_values;

/// A data set and what is asked of it.
#[derive(Clone, Copy)]
pub struct Filling<'a> {
    /// The model.
    pub model: &'a Model,
    /// What is kept of each row.
    pub request: &'a Request,
    /// The rows.
    pub examples: &'a [Example],
    /// What is kept of each row beside its activations.
    pub fields: &'a [Field],
    /// What all rows share.
    pub context: Context<'a>,
    /// Checked against all rows already.
    pub interventions: &'a [Intervention],
    /// Tokens of a batch at most.
    pub batch_tokens: usize,
    /// Called once where a value that is kept is not a number.
    pub on_nan: Option<&'a dyn Fn()>,
    /// When it ends early.
    pub stop: Stop<'a>,
}

/// What went wrong.
#[derive(Debug)]
pub enum Error {
    /// In the engine.
    Engine(easyroutine::Error),
    /// In the store.
    Store(easyroutine_store::Error),
}

impl From<easyroutine::Error> for Error {
    fn from(error: easyroutine::Error) -> Self {
        Error::Engine(error)
    }
}

impl From<easyroutine_store::Error> for Error {
    fn from(error: easyroutine_store::Error) -> Self {
        Error::Store(error)
    }
}

/// What the model has to do with a run's numbers, in the words of every face: whoever joins must have the same.
pub fn spec_of_model(files: &ModelFiles, digest: &str, model: &Model) -> Map<String, Value> {
    let entries = [
        ("model", json!(files.name)),
        ("commit", json!(files.commit)),
        (MODEL_DIGEST, json!(digest)),
        ("dtype", json!(dtype_name(model.dtype()))),
        ("instructions", json!(model.cpu().simd().to_string())),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

impl<'a> Filling<'a> {
    /// All of the examples, checked.
    ///
    /// # Errors
    /// As [`Extraction::new`]; fields that cannot be kept; an intervention that speaks of single rows, which run in other batches each time.
    pub fn whole(&self) -> Result<Extraction<'a>, easyroutine::Error> {
        if self.interventions.iter().any(Intervention::speaks_of_rows) {
            return Err(easyroutine::Error::input(
                "values for single rows of a batch, or from another row, are not for runs in a store",
            ));
        }
        fields::check(self.fields, self.examples.len())?;
        self.extraction(0..self.examples.len(), Options::default())
    }

    /// How the run is cut into units of `unit` examples, without one into as many as a shard holds. Whoever joins must
    /// want the same as `spec` and as the rows and their tokens say.
    ///
    /// # Errors
    /// As [`Extraction::size`].
    pub fn plan(
        &self,
        whole: &Extraction<'_>,
        mut spec: Map<String, Value>,
        unit: Option<u64>,
    ) -> Result<Plan, easyroutine::Error> {
        let rows = self.examples.iter().flat_map(|row| [&[row.ids.len() as u32], &row.ids[..]].concat());
        let ids: Vec<u8> = rows.flat_map(u32::to_le_bytes).collect();
        let selected = &whole.tokens().columns.rows;
        let chosen = json!(selected.iter().map(|s| &s.indices).collect::<Vec<_>>()).to_string();
        spec.insert("rows".to_owned(), json!(checksum(&ids)));
        spec.insert("tokens".to_owned(), json!(checksum(chosen.as_bytes())));
        if !self.fields.is_empty() {
            spec.insert("fields".to_owned(), json!(checksum(json!(self.fields).to_string().as_bytes())));
        }
        let n_examples = self.examples.len() as u64;
        let unit = match unit {
            Some(unit) => unit,
            None => {
                SHARD_BYTES.div_euclid(whole.size()?.bytes.div_ceil(n_examples).max(1)).clamp(1, n_examples)
            }
        };
        Ok(Plan { n_examples, unit, spec })
    }

    /// Runs these units and puts each into the run. Stopped, it ends between two blocks: the unit at hand is left out,
    /// those before it stay.
    ///
    /// # Errors
    /// Of the engine and of the store.
    pub fn write(
        &self,
        whole: &Extraction<'_>,
        run: &OpenRun,
        units: &[usize],
        tell: &dyn Fn(Progress),
    ) -> Result<End, Error> {
        let is_rectangular = whole.tokens().columns.is_rectangular();
        let rows = || units.iter().flat_map(|unit| range(run, *unit));
        let tokens = |row: usize| self.examples[row].ids.len();
        let mut so_far =
            Progress { rows: 0, all_rows: rows().count(), tokens: 0, all_tokens: rows().map(tokens).sum() };
        let mut on_nan = self.on_nan;
        for unit in units {
            let tell = |of_unit: Progress| {
                tell(Progress {
                    rows: so_far.rows + of_unit.rows,
                    tokens: so_far.tokens + of_unit.tokens,
                    ..so_far
                });
            };
            let range = range(run, *unit);
            let Some(cache) = unit::run(self, range.clone(), &tell)? else { return Ok(End::Stopped) };
            if let Some(tell) = on_nan.take_if(|_| cache.has_nan()) {
                tell();
            }
            let mut contents = unit::contents(&cache, is_rectangular);
            contents.values.extend(fields::of_rows(self.fields, range.clone()));
            run.put(*unit, &contents)?;
            so_far.rows += range.len();
            so_far.tokens += range.map(tokens).sum::<usize>();
        }
        Ok(End::Finished)
    }

    fn extraction<'b>(
        &self,
        examples: Range<usize>,
        options: Options<'b>,
    ) -> Result<Extraction<'b>, easyroutine::Error>
    where
        'a: 'b,
    {
        let options =
            Options { batch_tokens: self.batch_tokens, context: self.context, stop: self.stop, ..options };
        Extraction::new(self.model, self.request, &self.examples[examples], options)
    }
}

fn range(run: &OpenRun, unit: usize) -> Range<usize> {
    let examples = run.examples(unit);
    examples.start as usize..examples.end as usize
}
