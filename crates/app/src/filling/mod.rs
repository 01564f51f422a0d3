//! Fills a run in a store, unit by unit, from an extraction: shared by every face that saves data sets.

mod features;
mod fields;
mod unit;

use std::ops::Range;
use std::path::Path;

use easyroutine::arch::Arch;
use easyroutine::edit::{Edits, Intervention};
use easyroutine::extract::{End, Example, Extraction, Options, Progress};
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine::sites::Point;
use easyroutine::source::ModelFiles;
use easyroutine::{Batch, Model, Stop, Tap};
use easyroutine_store::{
    self as store, ActivationSaver, Begun, Joining, MODEL_DIGEST, OpenRun, Plan, Provenance, SHARD_BYTES,
    checksum,
};
use serde_json::{Map, Value, json};

use crate::record;
use crate::reports::dtype_name;
pub use features::Features;
pub use fields::{Field, summary};
pub use unit::finish_values;

/// Limit on units per run, if its shards are small, and minimum rows per unit: fine enough for many workers and little
/// loss with one, coarse enough for few files.
const MOST_UNITS: u64 = 64;
const LEAST_ROWS: u64 = 256;

/// A data set and what to extract from it.
#[derive(Clone, Copy)]
pub struct Filling<'a> {
    /// The model.
    pub model: &'a Model,
    /// The model's files.
    pub files: &'a ModelFiles,
    /// The model's identity by content.
    pub digest: &'a str,
    /// What to keep of each row.
    pub request: &'a Request,
    /// The rows.
    pub examples: &'a [Example],
    /// Fields to keep besides each row's activations.
    pub fields: &'a [Field],
    /// The context that all rows share.
    pub context: Context<'a>,
    /// Interventions, already checked against all rows.
    pub interventions: &'a [Intervention],
    /// Features that are kept beside the activations, and changes of features.
    pub features: Option<Features<'a>>,
    /// How the model continued the examples, if it did.
    pub generated: Option<Generated>,
    /// How conversations were made of the prompts, if they were.
    pub chat: Option<&'a Value>,
    /// Limit on tokens per batch.
    pub batch_tokens: usize,
    /// The folder of a temporary file, as [`Options::folder`].
    pub folder: Option<&'a Path>,
    /// Called once if a kept value is NaN.
    pub on_nan: Option<&'a dyn Fn()>,
    /// When to end early.
    pub stop: Stop<'a>,
}

/// How examples were continued before their activations were kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generated {
    /// Limit on new tokens.
    pub tokens: u64,
    /// Whether rows continue past an end token.
    pub ignores_end: bool,
}

/// What a user adds to a run.
#[derive(Debug, Clone, Default)]
pub struct Annotations {
    /// Tags to find it by.
    pub tags: Vec<String>,
    /// User keys.
    pub other_metadata: Vec<(String, store::Value<'static>)>,
    /// Types of these values that JSON lacks.
    pub types: Map<String, Value>,
    /// The source of the rows.
    pub dataset: Option<Value>,
}

/// The place of a run in a store, and this process's share of the work.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The experiment.
    pub saver: &'a ActivationSaver,
    /// The run's name.
    pub run: &'a str,
    /// Whether it is new, resumed or shared.
    pub joining: Joining,
    /// This process's share of the units: its index, and the number of shares.
    pub share: (usize, usize),
    /// Examples per unit; `None`: as many as fit a shard.
    pub unit: Option<u64>,
    /// Called if a run that was to be resumed does not exist and begins now.
    pub on_beginning: &'a dyn Fn(),
}

/// How filling a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filled {
    /// The run is complete, at this path below the store.
    Saved(String),
    /// This share is written; the number of units left to others, and of all units.
    Shared(usize, usize),
    /// It was stopped; the number of units written, and of all units.
    Stopped(usize, usize),
}

/// The state of a run when it is opened.
#[derive(Debug)]
pub enum Opened {
    /// Already complete, at this path below the store.
    Committed(String),
    /// There may be units to write.
    Open(Units),
}

/// The units of an open run. Any process that opened the run may write any of them, in any order.
#[derive(Debug)]
pub struct Units {
    run: OpenRun,
    /// Whether all rows keep the same number of tokens.
    is_rectangular: bool,
}

impl Units {
    /// Number of units.
    pub fn len(&self) -> usize {
        self.run.n_units()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of a unit.
    pub fn examples(&self, unit: usize) -> Range<usize> {
        let examples = self.run.examples(unit);
        examples.start as usize..examples.end as usize
    }

    /// The units not written yet; none if another process has committed the run.
    ///
    /// # Errors
    /// The store's errors.
    pub fn missing(&self) -> Result<Vec<usize>, Error> {
        Ok(self.run.missing()?)
    }

    /// Publishes the run and returns its path below the store.
    ///
    /// # Errors
    /// If units are missing, and the store's errors.
    pub fn commit(&self) -> Result<String, Error> {
        Ok(self.run.commit(finish_values)?)
    }
}

/// An error of filling.
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

impl<'a> Filling<'a> {
    /// The checked extraction over all examples.
    ///
    /// # Errors
    /// As [`Extraction::new`]; if fields cannot be kept, or an intervention refers to single rows, which share no fixed
    /// batch.
    fn whole(&self) -> Result<Extraction<'a>, easyroutine::Error> {
        if self.interventions.iter().any(Intervention::speaks_of_rows) {
            return Err(easyroutine::Error::input(
                "a run in a store cannot have values for single rows of a batch, or from another row",
            ));
        }
        fields::check(self.fields, self.examples.len(), &self.request.points(self.model.arch())?)?;
        self.extraction(0..self.examples.len(), Options::default())
    }

    /// Writes the missing units, or this process's share of them, and commits the run if none is left.
    ///
    /// # Errors
    /// As [`Extraction::new`] and [`Extraction::run_after`]; if fields cannot be kept, or an intervention refers to
    /// single rows, which share no fixed batch; and the store's errors, for example if a run of that name cannot be
    /// joined.
    pub fn fill(
        &self,
        place: Place<'_>,
        annotations: Annotations,
        tell: &dyn Fn(Progress),
    ) -> Result<Filled, Error> {
        let units = match self.open(place, annotations)? {
            Opened::Committed(path) => return Ok(Filled::Saved(path)),
            Opened::Open(units) => units,
        };
        let (number, of) = place.share;
        let mine: Vec<usize> =
            units.missing()?.into_iter().filter(|unit| unit % of.max(1) == number).collect();
        let end = self.write(&units, &mine, tell)?;
        let (missing, all) = (units.missing()?.len(), units.len());
        match end {
            End::Stopped => Ok(Filled::Stopped(all - missing, all)),
            End::Finished if missing > 0 => Ok(Filled::Shared(missing, all)),
            End::Finished => Ok(Filled::Saved(units.commit()?)),
        }
    }

    /// Begins or joins the run without writing yet: [`Filling::write`] does, for the units that the caller chooses.
    ///
    /// # Errors
    /// As [`Filling::fill`], before the first row runs.
    pub fn open(&self, place: Place<'_>, annotations: Annotations) -> Result<Opened, Error> {
        let whole = self.whole()?;
        let plan = self.plan(&whole, place.unit)?;
        let run = match place.saver.begin(place.run, &plan, &self.provenance(annotations)?, place.joining)? {
            Begun::Committed(path) => return Ok(Opened::Committed(path)),
            Begun::Open(run) => run,
        };
        if place.joining == Joining::Resume && run.is_begun_here() {
            (place.on_beginning)();
        }
        Ok(Opened::Open(Units { run, is_rectangular: whole.tokens().columns.is_rectangular() }))
    }

    /// Examples per unit, chosen if `unit` is `None`, and the number of units; writes nothing.
    ///
    /// # Errors
    /// As [`Filling::fill`], before the first row runs.
    pub fn units(&self, unit: Option<u64>) -> Result<(u64, usize), Error> {
        let plan = self.plan(&self.whole()?, unit)?;
        Ok((plan.unit, plan.n_units()))
    }

    /// The run's provenance.
    fn provenance(&self, annotations: Annotations) -> Result<Provenance<'static>, easyroutine::Error> {
        let mut config = record::config(self.request, self.model.arch())?;
        // Other inputs that the numbers depend on, if not the defaults.
        if let Some(Generated { tokens, ignores_end }) = self.generated {
            config.insert("generate".to_owned(), json!(tokens));
            config.insert("ignore_end".to_owned(), json!(ignores_end));
        }
        if let Some(features) = self.features {
            let said = features.described()?.into_iter();
            config.extend(said.map(|(key, value)| (key.to_owned(), value)));
        }
        if self.context.seed != 0 {
            config.insert("seed".to_owned(), json!(self.context.seed));
        }
        if let Some(chat) = self.chat {
            config.insert("chat".to_owned(), chat.clone());
        }
        let mut other_metadata = annotations.other_metadata;
        let is_said = |key: &str, said: &[(String, store::Value<'_>)]| said.iter().any(|(k, _)| k == key);
        if !self.context.pivots.is_empty() && !is_said("pivot_positions", &other_metadata) {
            let pivots = json!(self.context.pivots).into();
            other_metadata.insert(0, ("pivot_positions".to_owned(), pivots));
        }
        if !self.fields.is_empty() {
            other_metadata.push(("fields".to_owned(), summary(self.fields).into()));
        }
        Ok(Provenance {
            model: record::model(self.files, Some(self.digest), self.model),
            target_token_positions: record::positions(&self.request.positions),
            interventions: record::interventions(self.interventions),
            extraction_config: Value::Object(config),
            other_metadata,
            tags: annotations.tags,
            dataset: annotations.dataset,
            types: annotations.types,
        })
    }

    /// How the run is divided into units of `unit` examples, or by default as many as fit a shard; and everything that
    /// its numbers depend on, which any process that joins must match.
    fn plan(&self, whole: &Extraction<'_>, unit: Option<u64>) -> Result<Plan, Error> {
        let points = self.request.points(self.model.arch())?;
        let interventions = record::interventions(self.interventions);
        let interventions = interventions.map(|value| value.to_json("interventions")).transpose()?;
        let entries = [
            ("model", json!(self.files.name)),
            ("commit", json!(self.files.commit)),
            (MODEL_DIGEST, json!(self.digest)),
            ("dtype", json!(dtype_name(self.model.dtype()))),
            ("instructions", json!(self.model.cpu().simd().to_string())),
            ("activations", points.iter().map(Point::to_string).collect()),
            ("positions", record::positions(&self.request.positions)),
            ("interventions", json!(interventions)),
        ];
        let mut spec: Map<String, Value> =
            entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        if let Some(features) = self.features {
            spec.extend(features.identity()?.into_iter().map(|(key, value)| (key.to_owned(), value)));
        }
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
                let fit = SHARD_BYTES / whole.size()?.bytes.div_ceil(n_examples.max(1)).max(1);
                // From the data set alone, so that any process that joins, alone or in a cluster, has the same units.
                fit.min(n_examples.div_ceil(MOST_UNITS).max(LEAST_ROWS)).clamp(1, n_examples.max(1))
            }
        };
        Ok(Plan { n_examples, unit, spec })
    }

    /// Runs these units and adds each to the run. If stopped, it ends between two blocks: unfinished units are dropped,
    /// earlier ones stay. If the model is read layer by layer, consecutive units run together.
    ///
    /// # Errors
    /// Errors of the engine and of the store.
    pub fn write(&self, open: &Units, units: &[usize], tell: &dyn Fn(Progress)) -> Result<End, Error> {
        let rows = || units.iter().flat_map(|unit| open.examples(*unit));
        let tokens = |row: usize| self.examples[row].ids.len();
        let mut so_far =
            Progress { rows: 0, all_rows: rows().count(), tokens: 0, all_tokens: rows().map(tokens).sum() };
        let mut on_nan = self.on_nan;
        let by_layer = self.model.is_by_layer();
        for some in units.chunk_by(|one, next| by_layer && one + 1 == *next) {
            let tell = |of_some: Progress| {
                tell(Progress {
                    rows: so_far.rows + of_some.rows,
                    tokens: so_far.tokens + of_some.tokens,
                    ..so_far
                });
            };
            let mut sink = unit::Units::new(self, open, some, &mut on_nan);
            match unit::run(self, &mut sink, &tell) {
                Err(error) => return Err(sink.failure().map_or(error.into(), Error::Store)),
                Ok(End::Stopped) => return Ok(End::Stopped),
                Ok(End::Finished) => {}
            }
            let of_some = || some.iter().flat_map(|unit| open.examples(*unit));
            so_far.rows += of_some().count();
            so_far.tokens += of_some().map(tokens).sum::<usize>();
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
        let Filling { batch_tokens, context, stop, folder, .. } = *self;
        let options = Options { batch_tokens, context, stop, folder, ..options };
        Extraction::new(self.model, self.request, &self.examples[examples], options)
    }
}

/// Checked interventions, for the rows of one batch after another.
pub fn edits_of_batches<'a>(
    interventions: &'a [Intervention],
    arch: &'a Arch,
    context: Context<'a>,
) -> impl FnMut(&Batch, &[Row<'_>]) -> Result<Box<dyn Tap + 'a>, easyroutine::Error> + 'a {
    move |_, rows| Ok(Box::new(Edits::new(interventions, arch, rows, context)?))
}
