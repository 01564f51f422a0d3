//! `extract --plan`: the cost of an extraction, before it begins.

use std::time::Instant;

use easyroutine::cache::readable;
use easyroutine::edit::Intervention;
use easyroutine::extract::{Collect, Example, Extraction, Options};
use easyroutine::positions::Context;
use easyroutine::request::Request;
use easyroutine_app::filling::edits_of_batches;
use serde_json::{Map, Value, json};

use super::super::saved;
use crate::args::{Args, Extract};
use crate::failure::Failure;
use crate::output::{self, Cell, PLAIN};
use crate::progress::duration;
use crate::session::Session;

/// A checked extraction.
pub(super) struct Planned<'a> {
    pub(super) session: &'a Session,
    pub(super) request: &'a Request,
    pub(super) examples: &'a [Example],
    pub(super) context: Context<'a>,
    pub(super) interventions: &'a [Intervention],
    pub(super) extract: &'a Extract,
    /// The run in a store, if it would be one.
    pub(super) in_store: Option<&'a saved::Job<'a>>,
}

/// Prints rows, tokens, bytes, units, and the time needed on this machine. Writes nothing.
pub(super) fn run(args: &Args, planned: &Planned<'_>) -> Result<(), Failure> {
    let target = output::standard_output(args, PLAIN)?;
    let rows = planned.examples.len();
    let tokens: usize = planned.examples.iter().map(|example| example.ids.len()).sum();
    let size = planned.extraction(planned.examples)?.size()?;
    let units = planned.in_store.map(saved::Job::units).transpose()?;
    let speed = planned.tokens_per_second()?;
    let seconds = tokens as f64 / speed;
    let mut facts = vec![
        ("rows", json!(rows), rows.to_string()),
        ("tokens", json!(tokens), tokens.to_string()),
        ("bytes", json!(size.bytes), readable(size.bytes)),
        ("bytes_per_token", json!(size.bytes as f64 / tokens as f64), readable(size.bytes / tokens as u64)),
    ];
    if let Some((unit, units)) = units {
        facts.push(("rows_per_unit", json!(unit), unit.to_string()));
        facts.push(("units", json!(units), units.to_string()));
    }
    let threads = planned.session.model.cpu().threads();
    facts.push(("threads", json!(threads), threads.to_string()));
    facts.push(("tokens_per_second", json!(speed), format!("{speed:.0}")));
    facts.push(("seconds", json!(seconds), duration(seconds)));
    let table: Vec<Vec<Cell>> = facts
        .iter()
        .map(|(key, value, shown)| vec![(*key).to_owned().into(), Cell::new(shown.clone(), value)])
        .collect();
    let mut json = Map::from_iter([("schema".to_owned(), json!("easyroutine.extraction_plan/1"))]);
    json.extend(facts.into_iter().map(|(key, value, _)| (key.to_owned(), value)));
    let text = output::render(target.format, &["property", "value"], &table, &Value::Object(json))?;
    output::write(&target, text.as_bytes())
}

impl Planned<'_> {
    fn extraction<'b>(&'b self, examples: &'b [Example]) -> Result<Extraction<'b>, Failure> {
        let options = Options {
            batch_tokens: self.extract.batch_tokens as usize,
            context: self.context,
            ..Options::default()
        };
        Ok(Extraction::new(&self.session.model, self.request, examples, options)?)
    }

    /// Measured on the second run of one batch of rows from all over the data set, because the first packs weights; on
    /// the first if every run reads them.
    fn tokens_per_second(&self) -> Result<f64, Failure> {
        let sample = self.sample();
        // Edits that refer to rows of the whole data set would meet other rows in a sample; next to the model they take
        // no time.
        let interventions: Vec<Intervention> =
            self.interventions.iter().filter(|change| !change.speaks_of_rows()).cloned().collect();
        let tokens: usize = sample.iter().map(|example| example.ids.len()).sum();
        let mut seconds = f64::INFINITY;
        let packs = !self.session.model.is_by_layer();
        for _ in 0..1 + usize::from(packs) {
            let started = Instant::now();
            let mut edits = edits_of_batches(&interventions, self.session.model.arch(), self.context);
            self.extraction(&sample)?.run_after(&mut edits, &mut Collect::default())?;
            seconds = started.elapsed().as_secs_f64();
        }
        Ok(tokens as f64 / seconds.max(1e-9))
    }

    /// Evenly spaced rows, with about as many tokens as run together.
    fn sample(&self) -> Vec<Example> {
        let rows = self.examples.len();
        let tokens: usize = self.examples.iter().map(|example| example.ids.len()).sum();
        let most = (self.extract.batch_tokens as usize).min(SAMPLE_TOKENS);
        let step = tokens.div_ceil(most.max(1)).clamp(1, rows);
        self.examples.iter().step_by(step).cloned().collect()
    }
}

/// A second or two for a model of a hundred million parameters.
const SAMPLE_TOKENS: usize = 2048;
