//! `compare`: two checkpoints of one architecture, where they part, and which tensors cause it.

mod tables;

use std::sync::atomic::Ordering;

use easyroutine::compare::models::{
    Causes, Differences, Direction, Options, Pair, Side, WeightsApart, sample,
};
use easyroutine::extract::{Example, Progress};
use easyroutine::load::Opened;
use easyroutine::prompts::{Prompt, Prompts};
use easyroutine::source::{FilesKind, ModelFiles};
use easyroutine::tokens::Tokenizer;
use easyroutine::{Error, ErrorKind, Stop};
use easyroutine_app::checkpoints;
use easyroutine_app::memory::bounded_both;
use easyroutine_app::reports::{ModelsCompared, model_json};

use self::tables::written;
use crate::args::{Args, Compare, Finding, Format, PatchArg};
use crate::failure::{Failure, one_line};
use crate::output;
use crate::progress::{Counted, Rows, interrupted};
use crate::session;

/// A table, or everything as JSON or as a page.
const FORMATS: &[Format] =
    &[Format::Table, Format::Tsv, Format::Json, Format::Csv, Format::Md, Format::Html, Format::Jsonl];

pub(crate) fn run(args: &Args, compare: &Compare) -> Result<(), Failure> {
    let targets = output::targets(args, FORMATS)?;
    let prompts = read(compare)?;
    let findings = [of_a(&compare.loading.finding), compare.loading.finding.clone()];
    let files = [session::find(&compare.a, &findings[0])?, session::find(&compare.b, &findings[1])?];
    let findings = [0, 1].map(|side| without_pre(&findings[side], &files[side]));
    let opened = [session::open(&files[0], &findings[0])?, session::open(&files[1], &findings[1])?];
    let (tokenizer, said) = checkpoints::tokenizer(&files, [0, 1].map(|side| findings[side].pre.as_deref()))?;
    said.iter().for_each(|warning| output::note("warning", warning));
    let options = bounded_both([&opened[0], &opened[1]], compare.loading.options())?;
    let types = opened.each_ref().map(|opened| opened.reading.family.model_type);
    let context = opened.iter().map(|opened: &Opened| opened.arch().context).min().unwrap_or(0);
    let warned = opened.each_ref().map(|opened| opened.warnings.len() + opened.notes.len());
    let [a, b] = opened;
    let mut pair = Pair::new(a, b, [&options, &options])?;
    let of_models = [Side::A, Side::B].into_iter().zip(warned);
    let of_models = of_models.flat_map(|(side, warned)| &pair.model(side).warnings()[warned..]);
    of_models.chain(pair.warnings()).for_each(|warning| output::note("warning", &one_line(warning)));
    let examples = examples(compare, prompts, tokenizer.as_ref(), context)?;
    let patched = checkpoints::tensors(&pair, &compare.tensor).map_err(|e| e.at("--tensor"))?;

    let stop = interrupted()?;
    let is_stopped = || stop.load(Ordering::Relaxed);
    let working = Working { compare, stop: Stop::When(&is_stopped) };
    let weights = working.weights(&pair)?;
    let differing: Vec<usize> = (0..weights.len()).filter(|tensor| !weights[*tensor].is_equal).collect();
    if differing.is_empty() {
        output::note(
            "note",
            &format!("A and B are equal: all {} tensors hold the same numbers", weights.len()),
        );
    }
    let differences = working.differences(&pair, &examples)?;
    let direction = direction(compare.patch);
    let patched: Vec<usize> = patched.into_iter().filter(|tensor| differing.contains(tensor)).collect();
    let causes = match direction {
        Some(direction) => Some((working.causes(&mut pair, &examples, &patched, direction)?, direction)),
        None => None,
    };
    if let Some((layer, row, position)) = differences.first_nan {
        let place = layer.map_or("the embedding".to_owned(), |layer| format!("layer {layer}"));
        let text = format!(
            "values that are not numbers: first in {place}, prompt {row}, position {position}; they are counted and left out"
        );
        output::note("warning", &text);
    }
    let models =
        [(0, Side::A), (1, Side::B)].map(|(n, side)| model_json(&files[n], types[n], pair.model(side)));
    let found = ModelsCompared {
        models: [&models[0], &models[1]],
        tokenizer: tokenizer.as_ref(),
        examples: &examples,
        differences: &differences,
        weights: &weights,
        causes: causes.as_ref().map(|(causes, direction)| (causes, *direction)),
    };
    written(&targets, compare.table, &found)
}

/// The prompts, so that errors in them show before a model is opened.
fn read(compare: &Compare) -> Result<Prompts, Failure> {
    let text = match (&compare.prompt, &compare.file) {
        (_, Some(file)) => return compare.reading.read(file),
        (Some(dash), None) if dash == "-" => session::read_stdin()?,
        (Some(text), None) => text.clone(),
        (None, None) => return Err(Failure::usage("no prompt given")),
    };
    compare.reading.refuse_without("--file prompts.jsonl")?;
    Ok(Prompts { prompts: vec![Prompt::Text(text)], rows: vec![0], skipped: 0 })
}

/// An adapter that is named belongs to B.
fn of_a(finding: &Finding) -> Finding {
    Finding { adapter: None, ..finding.clone() }
}

/// A rule for cutting text is that of GGUF files.
fn without_pre(finding: &Finding, files: &ModelFiles) -> Finding {
    match files.kind {
        FilesKind::Folder(_) => Finding { pre: None, ..finding.clone() },
        FilesKind::Gguf(_) => finding.clone(),
    }
}

fn examples(
    compare: &Compare,
    Prompts { prompts, rows, .. }: Prompts,
    tokenizer: Option<&Tokenizer>,
    context: usize,
) -> Result<Vec<Example>, Failure> {
    let example = |(number, prompt): (usize, Prompt)| match (prompt, tokenizer) {
        (Prompt::Ids(ids), None) => Ok(Example { number, ids, ..Example::default() }),
        (prompt, Some(tokenizer)) => compare.cutting.example(number, prompt, tokenizer, context),
        (_, None) => Err(Failure::failed("neither model has a tokenizer")
            .hint("prompts may be lists of token ids: --file ids.jsonl --field ids")),
    };
    rows.into_iter().zip(prompts).map(example).collect()
}

fn direction(patch: PatchArg) -> Option<Direction> {
    match patch {
        PatchArg::Removes => Some(Direction::Removes),
        PatchArg::Adds => Some(Direction::Adds),
        PatchArg::Both => Some(Direction::Both),
        PatchArg::None => None,
    }
}

/// The long parts of the work.
struct Working<'a> {
    compare: &'a Compare,
    stop: Stop<'a>,
}

impl Working<'_> {
    fn weights(&self, pair: &Pair) -> Result<Vec<WeightsApart>, Failure> {
        let bar = Counted::new("tensors read");
        let weights = pair.weights(self.stop, &mut |done, of| drop(bar.tell(done, of)));
        bar.finish();
        weights.map_err(stopped)
    }

    fn differences(&self, pair: &Pair, examples: &[Example]) -> Result<Differences, Failure> {
        let models = [pair.model(Side::A), pair.model(Side::B)];
        let by_layer = models.into_iter().find(|model| model.is_by_layer()).unwrap_or(models[0]);
        let bar = Rows::new(by_layer);
        let tell = |progress: Progress| bar.tell(progress);
        let found = pair.differences(examples, self.options(&tell));
        bar.finish();
        found.map_err(stopped)
    }

    fn causes(
        &self,
        pair: &mut Pair,
        examples: &[Example],
        tensors: &[usize],
        direction: Direction,
    ) -> Result<Causes, Failure> {
        let bar = Counted::new("tensors patched");
        let tell = |progress: Progress| drop(bar.tell(progress.rows + 1, progress.all_rows));
        let examples = sample(examples, self.compare.patch_tokens as usize);
        let found = pair.causes(examples, tensors, direction, self.options(&tell));
        bar.finish();
        found.map_err(stopped)
    }

    fn options<'a>(&'a self, tell: &'a dyn Fn(Progress)) -> Options<'a> {
        Options {
            worst: self.compare.worst as usize,
            batch_tokens: self.compare.batch_tokens as usize,
            progress: Some(tell),
            stop: self.stop,
            ..Options::default()
        }
    }
}

fn stopped(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::Interrupted => {
            Failure::from(Error::new(ErrorKind::Interrupted, "interrupted: nothing is written"))
        }
        _ => error.into(),
    }
}
