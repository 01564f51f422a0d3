//! `dict check`: what a dictionary does to a model on a text.

use std::sync::atomic::Ordering;

use easyroutine::Stop;
use easyroutine::extract::Example;
use easyroutine::positions::{Context, Row, Specifier};
use easyroutine::prompts::Prompt;
use easyroutine_dictionaries::{Dictionaries, Measured, Measuring};
use serde_json::json;

use crate::args::{Args, DictCheck};
use crate::failure::{Failure, one_line};
use crate::output::{self, Cell, PLAIN};
use crate::{changes, progress, session};

/// The dictionary's name in keys.
const NAME: &str = "dictionary";

pub(crate) fn run(args: &Args, check: &DictCheck) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let positions = Specifier::parse_lists(&check.positions)?;
    let finding = &check.model.loading.finding;
    let reading = check.dictionary.reading.options();
    let dictionary = session::dictionary(&check.dictionary.path, &reading, finding)?;
    dictionary.check_numbers()?;
    dictionary.certificate().warnings.iter().for_each(|warning| output::note("warning", &one_line(warning)));
    if check.file.is_none() {
        check.reading.refuse_without("--file text.jsonl")?;
    }
    let session = session::load(&check.model.model, &check.model.loading)?;
    let mut dictionaries = Dictionaries::default();
    dictionaries.add(NAME, dictionary, session.model.arch())?;
    changes::tell_of_other_model(None, &dictionaries.all()[0].dictionary, &session);
    let tokenizer = session::tokenizer(&session.files, &check.model.loading.finding)?;
    let most = session.model.arch().context;
    let context = Context { special: tokenizer.special_ids(), ..Context::default() };
    let stop = progress::interrupted()?;
    let stop = || stop.load(Ordering::Relaxed);
    let measuring = Measuring::new(&session.model, &dictionaries, 0, &positions, context, Stop::When(&stop))?;
    let mut text = Text { measuring, waiting: Vec::new(), tokens: 0, prompts: 0 };
    let mut example = |number, prompt| {
        check.cutting.example(number, prompt, &tokenizer, most).and_then(|example| text.add(example))
    };
    match &check.file {
        None => easyroutine_dictionaries::text()
            .map(|text| Prompt::Text(text.to_owned()))
            .enumerate()
            .try_for_each(|(number, prompt)| example(number, prompt))?,
        Some(file) => {
            let mut failed = None;
            check.reading.each(file, |number, prompt| {
                failed = example(number, prompt).err();
                Ok(failed.is_none())
            })?;
            failed.map_or(Ok(()), Err)?;
        }
    }
    let (found, prompts) = text.finish()?;
    let certificate = dictionaries.all()[0].dictionary.certificate();
    let figures = &certificate.figures;
    let json = json!({
        "schema": "easyroutine.dictionary_check/1",
        "model": session.model_json(),
        "dictionary": certificate.to_json(),
        "text": check.file.as_ref().map(|file| file.display().to_string()),
        "positions": check.positions,
        "prompts": prompts,
        "measured": found.to_json(),
    });
    let table = table(&found, figures, prompts);
    output::tables(&targets, &["what", "value", "publisher"], &table, &json)
}

/// A text that is measured as it is read.
struct Text<'a> {
    measuring: Measuring<'a>,
    waiting: Vec<Example>,
    /// Of those that wait.
    tokens: usize,
    prompts: usize,
}

impl Text<'_> {
    fn add(&mut self, example: Example) -> Result<(), Failure> {
        let length = example.ids.len();
        if self.tokens + length > Measuring::TOGETHER {
            self.measure()?;
        }
        self.tokens += length;
        self.prompts += 1;
        self.waiting.push(example);
        Ok(())
    }

    fn measure(&mut self) -> Result<(), Failure> {
        let waiting = std::mem::take(&mut self.waiting);
        self.tokens = 0;
        if waiting.is_empty() {
            return Ok(());
        }
        let rows: Vec<Row<'_>> = waiting.iter().map(Example::row).collect();
        Ok(self.measuring.add(&rows)?)
    }

    /// The figures, and the number of prompts.
    fn finish(mut self) -> Result<(Measured, usize), Failure> {
        self.measure()?;
        Ok((self.measuring.finish()?, self.prompts))
    }
}

/// The figures as a table, with one line per layer for a set.
fn table(found: &Measured, figures: &[(String, f64)], prompts: usize) -> Vec<Vec<Cell>> {
    let publisher = |what: &str| figures.iter().find(|(name, _)| name == what).map(|(_, value)| *value);
    let number = |value: Option<f64>, digits: usize| match value {
        Some(value) => Cell::new(format!("{value:.digits$}"), value),
        None => Cell::from(String::new()),
    };
    let count = |n: usize| Cell::new(n.to_string(), n);
    let nothing = || Cell::from(String::new());
    let mut rows = vec![
        vec![Cell::from("prompts".to_owned()), count(prompts), nothing()],
        vec![Cell::from("tokens".to_owned()), count(found.tokens), nothing()],
        vec![Cell::from("measured_tokens".to_owned()), count(found.measured_tokens), nothing()],
    ];
    for (number_of_layer, layer) in found.layers.iter().enumerate() {
        let name = |what: &str| match found.layers.len() {
            1 => Cell::from(what.to_owned()),
            _ => Cell::from(format!("{what}_{number_of_layer}")),
        };
        rows.push(vec![name("l0"), number(Some(layer.l0), 2), number(publisher("l0"), 2)]);
        rows.push(vec![name("explained_variance"), number(layer.explained_variance, 4), nothing()]);
        rows.push(vec![name("mse"), number(Some(layer.mse), 4), nothing()]);
        rows.push(vec![name("cosine"), number(Some(layer.cosine), 4), nothing()]);
        rows.push(vec![name("active_features"), count(layer.active_features), nothing()]);
    }
    for (what, value) in [
        ("ce_clean", Some(found.ce_clean)),
        ("ce_spliced", Some(found.ce_spliced)),
        ("ce_zero", Some(found.ce_zero)),
        ("ce_recovered", found.ce_recovered()),
        ("kl", Some(found.kl)),
    ] {
        rows.push(vec![Cell::from(what.to_owned()), number(value, 4), nothing()]);
    }
    rows
}
