//! `features`: statistics of every feature of a dictionary over a data set.

mod describe;
mod line;
mod parts;

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use easyroutine::extract::{End, Example, Extraction, Options, PASS_TOKENS, Progress, Sink};
use easyroutine::positions::{Context, Row, Selection, Specifier};
use easyroutine::prompts::{Prompt, each_prompt};
use easyroutine::request::Request;
use easyroutine::tokens::Tokenizer;
use easyroutine::{Batch, Error, ErrorKind, Model, Stop, Tap};
use easyroutine_dictionaries::{Dictionaries, FeatureWatch, Keeping, Statistics, Watched, WatchedRow};
use serde_json::{Map, Value, json};

use crate::args::{Args, Features, Format};
use crate::failure::Failure;
use crate::session::{self, Session};
use crate::{output, progress};
use parts::{Digest, Folder};

/// Interval at which a long run saves its progress.
const SAVED_EVERY: Duration = Duration::from_secs(30);

pub(crate) fn run(args: &Args, features: &Features) -> Result<(), Failure> {
    let target = target(args)?;
    let specifiers = Specifier::parse_lists(&features.positions)?;
    let opened = features.dictionaries.open(&features.model.loading.finding)?;
    if opened.is_empty() {
        return Err(Failure::usage("no dictionary is given").hint("name one: --dict NAME=PATH"));
    }
    if !features.file.is_file() && features.file.exists() {
        return Err(Failure::usage(format!(
            "{}: the data set is read twice, so it is a file",
            features.file.display()
        ))
        .hint("write what a pipe gives into one"));
    }
    // The data set is read twice, once to count it and once to run it, so that memory never holds it.
    let before = stamp(&features.file);
    let mut digest = Digest::new();
    let n = features
        .reading
        .each(&features.file, |_, prompt| {
            digest.add(&prompt);
            Ok(true)
        })?
        .prompts;
    let session = session::load(&features.model.model, &features.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &features.model.loading.finding)?;
    let dictionaries = opened.fitted(&session)?;
    let layers = layers(features, dictionaries)?;
    let keys: Vec<String> = layers.iter().map(|(d, layer)| dictionaries.key(*d, *layer)).collect();
    let digests: Map<String, Value> = dictionaries
        .all()
        .iter()
        .map(|named| Ok((named.name.clone(), named.dictionary.digest()?.into())))
        .collect::<easyroutine::Result<_>>()?;
    let keeping = Keeping {
        top: features.top as usize,
        drawn: features.drawn as usize,
        before: features.before as usize,
        after: features.after as usize,
    };
    let plan = json!({
        "model_digest": session.identity.digest()?,
        "dictionaries": digests,
        "keys": keys,
        "prompts": n,
        "prompts_digest": digest.text(),
        "positions": features.positions,
        "bos": format!("{:?}", features.cutting.bos),
        "truncate": features.cutting.truncate,
        "dtype": easyroutine_app::reports::dtype_name(session.model.dtype()),
        "parts": features.part.map_or(1, |part| part.of),
        "top": keeping.top, "drawn": keeping.drawn, "before": keeping.before, "after": keeping.after,
    });
    let folder = Folder::open(target, &plan, features.part.map_or((1, 1), |part| (part.number, part.of)))?;
    let range = folder.range(n);
    let saved = folder.saved_of_all(&keys)?.filter(|(_, until)| range.start < *until && *until <= range.end);
    let done = saved.as_ref().map_or(range.start, |(_, until)| *until);
    let statistics = match saved {
        Some((saved, until)) => {
            let (done, n) = (until - range.start, range.len());
            output::note("note", &format!("continuing after {done} of {n} prompts"));
            saved
        }
        None => {
            let empty = |(d, layer): &(usize, usize)| {
                let coder = dictionaries.all()[*d].dictionary.layer(*layer)?;
                Ok(Statistics::new(coder.n_features(), keeping))
            };
            layers.iter().map(empty).collect::<easyroutine::Result<_>>()?
        }
    };
    let statistics = layers.iter().copied().zip(statistics).collect();
    let collecting = Collecting {
        features,
        session: &session,
        tokenizer: &tokenizer,
        dictionaries,
        specifiers: &specifiers,
        folder: folder.path(),
    };
    let watched: Watched = Rc::new(RefCell::new(statistics));
    let end = collecting.collect(done..range.end, &watched, &folder)?;
    if stamp(&features.file) != before {
        return Err(Failure::failed(format!(
            "{}: the file was changed while it was read, so what was collected may be of two data sets",
            features.file.display()
        ))
        .hint(format!("remove {} and begin again", target.display())));
    }
    if end < range.end {
        return Err(Failure::from(Error::new(
            ErrorKind::Interrupted,
            format!(
                "interrupted: {} of {} prompts are done; the same command continues",
                end - range.start,
                range.len()
            ),
        )));
    }
    finish(features, &collecting, &layers, &folder)
}

/// Detects a changed file: its size and modification time.
fn stamp(file: &Path) -> Option<(u64, SystemTime)> {
    let found = std::fs::metadata(file).ok()?;
    Some((found.len(), found.modified().ok()?))
}

fn target(args: &Args) -> Result<&Path, Failure> {
    match args.output.as_slice() {
        [one] if args.format == Format::Auto => Ok(one),
        [_] => Err(Failure::usage("--format: features are written as JSON lines").hint("leave --format out")),
        _ => Err(Failure::usage("features writes into one folder").hint("say which: -o features/")),
    }
}

/// The requested layers.
fn layers(features: &Features, dictionaries: &Dictionaries) -> Result<Vec<(usize, usize)>, Failure> {
    if features.activations.is_empty() {
        let all = dictionaries.all().iter().enumerate();
        return Ok(all.flat_map(|(d, named)| (0..named.fits.len()).map(move |layer| (d, layer))).collect());
    }
    let keys = features.activations.iter().flat_map(|keys| keys.split(','));
    Ok(dictionaries.each_layer(keys.map(str::trim))?)
}

/// Everything needed to run prompts.
struct Collecting<'a> {
    features: &'a Features,
    session: &'a Session,
    tokenizer: &'a Tokenizer,
    dictionaries: &'a Dictionaries,
    specifiers: &'a [Specifier],
    /// Where the result goes.
    folder: &'a Path,
}

impl Collecting<'_> {
    /// Runs the prompts of a range in batches, and saves progress from time to time. Returns how far it got.
    fn collect(&self, range: Range<usize>, watched: &Watched, folder: &Folder) -> Result<usize, Failure> {
        let stop = progress::stopped()?;
        let model = &self.session.model;
        let bar = progress::Rows::new(model);
        let begin = range.start;
        let (mut done, mut tokens, mut saved) = (begin, 0, Instant::now());
        let mut number = 0;
        let is_stopped = || stop.load(Ordering::Relaxed);
        let mut run = |pass: &mut Pass| -> Result<(), Failure> {
            // The estimated length of the rest, from what was seen.
            let all_tokens =
                (tokens + pass.tokens) * range.len() / (done - begin + pass.examples.len()).max(1);
            let (rows, all_rows) = (done - begin, range.len());
            let tell =
                |of: Progress| bar.tell(Progress { rows, all_rows, tokens: tokens + of.tokens, all_tokens });
            // One batch runs to its end; a pass of many may be long, and what it has seen is not of whole rows.
            let stop = if model.is_by_layer() { Stop::When(&is_stopped) } else { Stop::Never };
            if self.pass(pass, watched, stop, &tell)? == End::Stopped {
                pass.is_broken = true;
                return Ok(());
            }
            done += pass.examples.len();
            tokens += pass.tokens;
            if saved.elapsed() > SAVED_EVERY || model.is_by_layer() {
                self.save(watched, folder, done)?;
                saved = Instant::now();
            }
            *pass = Pass::default();
            Ok(())
        };
        let mut pass = Pass::default();
        let mut failure = None;
        let mut take = |number: usize, row: usize, prompt: Prompt| -> Result<bool, Failure> {
            if number >= range.end || is_stopped() {
                return Ok(false);
            }
            if number >= range.start {
                let context = model.arch().context;
                let example = self.features.cutting.example(row, prompt, self.tokenizer, context)?;
                pass.push(example, self.features.batch_tokens as usize);
                if pass.is_full(model) {
                    run(&mut pass)?;
                }
            }
            Ok(number + 1 < range.end && !pass.is_broken)
        };
        if !range.is_empty() {
            let options = self.features.reading.options();
            each_prompt(&self.features.file, &options, |row, prompt| {
                number += 1;
                Ok(take(number - 1, row, prompt).unwrap_or_else(|e| {
                    failure = Some(e);
                    false
                }))
            })?;
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        if !pass.examples.is_empty() && !is_stopped() {
            run(&mut pass)?;
        }
        bar.finish();
        if !pass.is_broken {
            self.save(watched, folder, done)?;
        }
        Ok(done)
    }

    /// Runs the batches of a pass.
    fn pass(
        &self,
        pass: &Pass,
        watched: &Watched,
        stop: Stop<'_>,
        tell: &dyn Fn(Progress),
    ) -> Result<End, Failure> {
        let context = Context { special: self.tokenizer.special_ids(), ..Context::default() };
        let request = Request { positions: self.specifiers.to_vec(), ..Request::default() };
        let model = &self.session.model;
        let options = Options {
            batch_tokens: self.features.batch_tokens as usize,
            ends: Some(&pass.ends),
            folder: Some(self.folder),
            context,
            progress: Some(tell),
            stop,
            ..Options::default()
        };
        let mut first = |_: &Batch, rows: &[Row<'_>]| -> easyroutine::Result<Box<dyn Tap + '_>> {
            let rows = rows.iter().map(|row| {
                let selection = Selection::of(self.specifiers, &[*row], context)?;
                let mut positions =
                    selection.rows.into_iter().next().map(|row| row.indices).unwrap_or_default();
                positions.sort_unstable();
                positions.dedup();
                let number = u32::try_from(row.number).map_err(|_| Error::input("too many prompts"))?;
                Ok(WatchedRow { number, ids: row.ids.to_vec(), positions })
            });
            let rows = rows.collect::<easyroutine::Result<Vec<_>>>()?;
            Ok(Box::new(FeatureWatch::new(self.dictionaries, model.cpu(), rows, watched)))
        };
        Ok(Extraction::new(model, &request, &pass.examples, options)?.run_after(&mut first, &mut Nowhere)?)
    }

    fn save(&self, watched: &Watched, folder: &Folder, until: usize) -> Result<(), Failure> {
        for ((d, layer), statistics) in watched.borrow().iter() {
            folder.save(&self.dictionaries.key(*d, *layer), statistics, until)?;
        }
        Ok(())
    }
}

/// Examples that run together: a batch, or as many batches as pay for reading the model once.
#[derive(Default)]
struct Pass {
    examples: Vec<Example>,
    tokens: usize,
    /// Where its batches end, which are the same however many run together.
    ends: Vec<usize>,
    /// Tokens since the last of them.
    open: usize,
    /// Whether it was stopped half way.
    is_broken: bool,
}

impl Pass {
    fn push(&mut self, example: Example, batch_tokens: usize) {
        self.tokens += example.ids.len();
        self.open += example.ids.len();
        self.examples.push(example);
        if self.open >= batch_tokens {
            self.ends.push(self.examples.len());
            self.open = 0;
        }
    }

    fn is_full(&self, model: &Model) -> bool {
        let ends_here = self.ends.last() == Some(&self.examples.len());
        ends_here && (!model.is_by_layer() || self.tokens >= PASS_TOKENS)
    }
}

/// The features have been taken already.
struct Nowhere;

impl Sink for Nowhere {
    fn rows(&mut self, _: &[usize], _: easyroutine::cache::ActivationCache) -> easyroutine::Result<()> {
        Ok(())
    }

    fn means(&mut self, _: &easyroutine::cache::RunningMean) -> easyroutine::Result<()> {
        Ok(())
    }
}

/// Joins the parts, if all are there, and writes the result.
fn finish(
    features: &Features,
    collecting: &Collecting<'_>,
    layers: &[(usize, usize)],
    folder: &Folder,
) -> Result<(), Failure> {
    for (d, layer) in layers {
        let key = collecting.dictionaries.key(*d, *layer);
        let Some(statistics) = folder.joined(&key)? else {
            output::note("note", "this part is done; the last of them writes the result");
            return Ok(());
        };
        let session = collecting.session;
        let named = &collecting.dictionaries.all()[*d];
        let describing = describe::Describing {
            statistics: &statistics,
            session,
            tokenizer: collecting.tokenizer,
            named,
            layer: *layer,
            logits: features.logits as usize,
        };
        describing.write(&key, folder.path())?;
        let alive = statistics.features().iter().filter(|feature| feature.count > 0).count();
        output::note(
            "wrote",
            &format!(
                "{}: {} tokens of {} prompts, L0 {:.2}, {alive} of {} features active",
                folder.path().join(format!("{key}.jsonl")).display(),
                statistics.tokens(),
                statistics.prompts(),
                statistics.l0(),
                statistics.features().len()
            ),
        );
    }
    Ok(())
}
