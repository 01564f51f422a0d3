//! `extract`: activations of prompts to a safetensors file, or to a run in a store.

mod features;
mod file;
mod plan;
mod rows;

use file::Done;

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::atomic::Ordering;

use easyroutine::cache::{ActivationCache, Axis, Examples, PatternAverage, Reduction, readable};
use easyroutine::edit::{Edits, Intervention};
use easyroutine::extract::{Collect, End, Example, Extraction, Options, Size};
use easyroutine::positions::{Context, Row, Specifier};
use easyroutine::request::Request;
use easyroutine::sites::Selector;
use easyroutine::tokens::Tokenizer;
use easyroutine::{Batch, Error, ErrorKind, Stop, Tap};
use easyroutine_app::filling::Features;
use easyroutine_dictionaries::FeatureEdits;
use serde_json::Value;

use super::saved;
use crate::args::{Args, BosArg, Extract, Format, PatternArg};
use crate::failure::Failure;
use crate::session::{self, Session};
use crate::{changes, memory, output, progress};

pub(crate) fn run(args: &Args, extract: &Extract) -> Result<(), Failure> {
    let file = target(args, extract)?;
    refuse_idle_flags(extract, file)?;
    let (request, features) = request(extract)?;
    let given = extract.changes.read(&extract.model.loading.finding)?;
    let interventions = &given.interventions;
    if extract.plan {
        given.refuse_features("--plan does not foresee how many features are active: leave --dict out")?;
    }
    if extract.generate.is_some() && !given.features.is_empty() {
        let what = "--generate: its tokens are generated without changes of features";
        return Err(Failure::usage(what).hint("run --generate continues a prompt under such changes"));
    }
    features::check(&features, &given, extract)?;
    let texts = rows::read(extract)?;
    let fields = rows::fields(extract, &texts)?;
    let session = session::load(&extract.model.model, &extract.model.loading)?;
    request.points(session.model.arch())?;
    let tokenizer = match &extract.token_ids {
        Some(_) => session::tokenizer(&session.files, &extract.model.loading.finding).ok(),
        None => Some(session::tokenizer(&session.files, &extract.model.loading.finding)?),
    };
    needs_tokenizer(&request, tokenizer.is_some())?;
    let rows = rows::examples(texts, extract, tokenizer.as_deref(), session.model.arch().context)?;
    let rows::Rows { examples, of_file, chat } = rows;
    let special = tokenizer.as_deref().map_or(&[][..], Tokenizer::special_ids);
    let context = Context { special, pivots: &extract.pivot, seed: extract.changes.seed };
    let examples = match extract.generate {
        Some(count) => {
            let ends = match extract.ignore_end {
                true => Vec::new(),
                false => super::generate::ends(&session, tokenizer.as_deref())?,
            };
            rows::continued(examples, count as usize, &ends, extract, &session, interventions, context)?
        }
        None => examples,
    };
    let rows: Vec<Row<'_>> = examples.iter().map(Example::row).collect();
    let edits = changes::checked(&given, &session, &rows, context)?;
    let kept = features::Wanted::new(&features, &given, &session, &request, &examples, context)?;
    let dictionaries = given.dictionaries.fitted(&session)?;
    let of_store = (!dictionaries.is_empty()).then(|| Features {
        dictionaries,
        keys: &features,
        changes: &given.features,
        record: given.dictionaries.record(),
    });
    let in_store = saved::is_store(file).then(|| saved::Job {
        session: &session,
        request: &request,
        examples: &examples,
        fields: &fields,
        context,
        interventions,
        features: of_store,
        extract,
        chat: chat.as_ref(),
        of_file: of_file.as_deref(),
    });
    if extract.plan {
        let planned = plan::Planned {
            session: &session,
            request: &request,
            examples: &examples,
            context,
            interventions,
            extract,
            in_store: in_store.as_ref(),
        };
        return plan::run(args, &planned);
    }
    if let Some(job) = in_store {
        return saved::run(args, file, &job);
    }
    let job = Job {
        extract,
        request: &request,
        session: &session,
        examples: &examples,
        context,
        file,
        chat: chat.as_ref(),
        of_file: of_file.as_deref(),
        features: &kept,
    };
    if interventions.iter().any(Intervention::speaks_of_rows) {
        // Such an edit refers to rows of one batch, so all rows form one.
        let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids).collect();
        let edits = (edits, kept.tap(&rows)?);
        let cache = request.run_under(&session.model, &Batch::new(&ids)?, &rows, context, edits)?;
        return job.write(&cache, &(0..rows.len()).collect::<Vec<_>>());
    }
    job.run(&given)
}

/// A checked extraction into a file.
struct Job<'a> {
    extract: &'a Extract,
    request: &'a Request,
    session: &'a Session,
    examples: &'a [Example],
    context: Context<'a>,
    file: &'a Path,
    chat: Option<&'a Value>,
    /// The number of each row in its file, if some were skipped.
    of_file: Option<&'a [usize]>,
    /// Features to keep in addition to the activations.
    features: &'a features::Wanted<'a>,
}

impl Job<'_> {
    /// Runs all batches and writes the result: everything, or what was done when the user interrupted.
    fn run(&self, given: &changes::Given) -> Result<(), Failure> {
        let stop = progress::interrupted()?;
        let bar = progress::Rows::new(&self.session.model);
        let tell = |progress| bar.tell(progress);
        let options = Options {
            batch_tokens: self.extract.batch_tokens as usize,
            context: self.context,
            progress: Some(&tell),
            stop: Stop::When(&|| stop.load(Ordering::Relaxed)),
            // Where room is wanted for the result there is room for more; the system's own place may be memory.
            folder: self.file.parent().filter(|folder| folder.is_dir()),
            ..Options::default()
        };
        let model = &self.session.model;
        let extraction = Extraction::new(model, self.request, self.examples, options)?;
        self.announce(extraction.size()?)?;
        let mut collect = Collect::default();
        let dictionaries = given.dictionaries.fitted(self.session)?;
        let mut first = |_: &Batch, rows: &[Row<'_>]| -> easyroutine::Result<Box<dyn Tap + '_>> {
            let edits = Edits::new(&given.interventions, model.arch(), rows, self.context)?;
            let features = FeatureEdits::new(&given.features, dictionaries, model.cpu(), rows, self.context)?;
            Ok(Box::new(((edits, features), self.features.tap(rows)?)))
        };
        let end = extraction.run_after(&mut first, &mut collect)?;
        bar.finish();
        let (rows, cache) = collect.finish()?;
        if end == End::Stopped && rows.is_empty() {
            return Err(stopped("interrupted before a first batch was done; nothing was written"));
        }
        self.write(&cache, &rows)?;
        let (file, asked) = (self.file.display(), self.examples.len());
        match end {
            End::Finished => Ok(()),
            End::Stopped => {
                Err(stopped(&format!("interrupted: {} of {asked} rows are in {file}", rows.len())))
            }
        }
    }

    /// Prints how much will be kept, and refuses what memory cannot hold.
    fn announce(&self, size: Size) -> Result<(), Failure> {
        // Twice, as they are joined in the end.
        let bound = self.extract.model.loading.memory.filter(|memory| size.bytes > memory / 2);
        let within = |memory: u64| {
            let (bytes, memory) = (readable(size.bytes), readable(memory));
            Failure::memory(format!("the activations are {bytes}, too many for --memory {memory}"))
        };
        let fits = bound.map_or(Ok(()), |memory| Err(within(memory)));
        fits.and_then(|()| memory::check_free(size.bytes, "the activations")).map_err(|failure| {
            failure.hint(
                "write into a store, which needs little memory: -o runs/; or take fewer: --limit, --positions last",
            )
        })?;
        if self.extract.file.is_some() && (io::stderr().is_terminal() || size.bytes >= LARGE) {
            announcement(size, self.examples.len()).iter().for_each(|(kind, text)| output::note(kind, text));
        }
        Ok(())
    }

    fn write(&self, cache: &ActivationCache, places: &[usize]) -> Result<(), Failure> {
        output::warn_of_nan(cache.has_nan(), !self.extract.changes.intervene.is_empty());
        let rows: Vec<usize> =
            places.iter().map(|row| self.of_file.map_or(*row, |rows| rows[*row])).collect();
        let done = Done { rows: &rows, asked: self.examples.len(), are_numbered: self.of_file.is_some() };
        let features = self.features.finish(places);
        file::write(self.file, cache, done, self.session, self.extract, self.chat, features)?;
        if io::stderr().is_terminal() {
            let size = std::fs::metadata(self.file).map_or(0, |m| m.len());
            output::note("wrote", &format!("{} ({})", self.file.display(), readable(size)));
        }
        Ok(())
    }
}

/// From this size on, announce how much will be kept, even if not on a terminal.
const LARGE: u64 = 100_000_000;

/// The announcement before a long run.
fn announcement(size: Size, rows: usize) -> Vec<(&'static str, String)> {
    let mut said = vec![("keeps", format!("{} in {} keys, of {rows} rows", readable(size.bytes), size.keys))];
    if size.logits_bytes >= LARGE && 2 * size.logits_bytes >= size.bytes {
        let logits = readable(size.logits_bytes);
        said.push((
            "warning",
            format!("logits are {logits} of it: they are as wide as the vocabulary; --positions last keeps those of the last token"),
        ));
    }
    said
}

fn stopped(message: &str) -> Failure {
    Failure::from(Error::new(ErrorKind::Interrupted, message))
}

fn target<'a>(args: &'a Args, extract: &Extract) -> Result<&'a Path, Failure> {
    let [file] = args.output.as_slice() else {
        return Err(Failure::usage("extract writes one file, or a run into a store")
            .hint("say which: -o activations.safetensors, or -o runs/"));
    };
    if saved::is_store(file) {
        return match reductions(extract).next() {
            Some(flag) => Err(Failure::usage(format!("{flag}: a store keeps activations of every token"))
                .hint("write to a file: -o activations.safetensors")),
            None => Ok(file),
        };
    }
    // Without an extension it was meant as a folder.
    let as_folder = match file.extension() {
        None => format!("end it with a slash to name a store: -o {}/", file.display()),
        Some(_) => "let -o name a folder: -o runs/".to_owned(),
    };
    if let Some(flag) = extract.saving.given() {
        return Err(Failure::usage(format!(
            "{flag} is for runs in a store, and {} is a file",
            file.display()
        ))
        .hint(as_folder));
    }
    if args.format != Format::Auto && !extract.plan {
        return Err(Failure::usage(format!("--format: {} is written as safetensors", file.display()))
            .hint("leave --format out"));
    }
    if file.extension().is_none_or(|e| e != "safetensors") {
        return Err(Failure::usage(format!("{}: extract writes safetensors", file.display())).hint(
            match file.extension() {
                None => as_folder,
                Some(_) => "let the name end in .safetensors, or name a folder: -o runs/".to_owned(),
            },
        ));
    }
    output::folder_exists(file)?;
    Ok(file)
}

/// Flags given that reduce the numbers kept per token.
fn reductions(extract: &Extract) -> impl Iterator<Item = &'static str> {
    let flags = [
        ("--avg", extract.avg),
        ("--pattern-avg", extract.pattern_avg != PatternArg::None),
        ("--pattern-rows", !extract.pattern_rows.is_empty()),
        ("--avg-over-examples", extract.avg_over_examples),
    ];
    flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag)
}

/// The request to the model, and the feature keys within it.
fn request(extract: &Extract) -> Result<(Request, Vec<String>), Failure> {
    let mut activations = Vec::new();
    let mut features = Vec::new();
    for text in &extract.activations {
        let (of_features, others): (Vec<&str>, Vec<&str>) =
            text.split(',').partition(|key| key.trim().starts_with("features_"));
        features.extend(of_features.iter().map(|key| key.trim().to_owned()));
        if !others.is_empty() {
            activations.extend(Selector::parse_list(&others.join(",")).map_err(Error::from)?);
        }
    }
    let pattern_rows = Specifier::parse_lists(&extract.pattern_rows)?;
    let reduction = Reduction {
        positions: if extract.avg { Axis::Groups } else { Axis::Tokens },
        pattern: match extract.pattern_avg {
            PatternArg::None => PatternAverage::None,
            PatternArg::Mean => PatternAverage::Mean,
            PatternArg::Sum => PatternAverage::Sum,
            PatternArg::BaselineRatio => PatternAverage::BaselineRatio,
        },
        pattern_rows: (!pattern_rows.is_empty()).then_some(pattern_rows),
        examples: if extract.avg_over_examples { Examples::Mean } else { Examples::Each },
    };
    Ok((Request { activations, positions: Specifier::parse_lists(&extract.positions)?, reduction }, features))
}

/// Refuses flags without effect, since a user who gives one expects an effect.
fn refuse_idle_flags(extract: &Extract, file: &Path) -> Result<(), Failure> {
    if extract.token_ids.is_some() && extract.chat.chat {
        return Err(Failure::usage("--chat changes nothing in --token-ids, which are run as they are")
            .hint("give the prompt as text"));
    }
    if extract.token_ids.is_some() && extract.cutting.bos != BosArg::Auto {
        return Err(Failure::usage("--bos changes nothing in --token-ids, which are run as they are")
            .hint("write the token into the rows, or leave it out of them"));
    }
    let positions = extract.positions.iter().chain(&extract.pattern_rows).chain(&extract.changes.intervene);
    let speaks_of_groups = positions.into_iter().any(|text| text.contains("inputs-partition-"));
    // A store keeps the pivots, and queries can use them.
    if !extract.pivot.is_empty() && !speaks_of_groups && !saved::is_store(file) {
        return Err(Failure::usage("--pivot cuts rows into groups, and no position speaks of one")
            .hint("--positions inputs-partition-0 is the group before the first pivot"));
    }
    Ok(())
}

/// Without a tokenizer, special ids are unknown; ignoring that would silently select the wrong tokens.
fn needs_tokenizer(request: &Request, has_tokenizer: bool) -> Result<(), Failure> {
    let speaks_of_special =
        |s: &&Specifier| matches!(s, Specifier::Special | Specifier::AllText | Specifier::RandomText(_));
    let rows = request.reduction.pattern_rows.iter().flatten();
    match request.positions.iter().chain(rows).find(speaks_of_special) {
        Some(specifier) if !has_tokenizer => Err(Failure::failed(format!(
            "position `{specifier}` needs the model's tokenizer, which could not be read"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_that_fill_the_disk_are_warned_of() {
        let said = |bytes, logits_bytes| announcement(Size { keys: 3, bytes, logits_bytes }, 1000);
        assert_eq!(said(1_500, 1_500), [("keeps", "1.5 kB in 3 keys, of 1000 rows".to_owned())]);
        assert_eq!(said(300_000_000, 100_000_000).len(), 1);
        let large = said(9_900_000_000, 9_000_000_000);
        assert_eq!(large.len(), 2);
        assert!(large[1].1.starts_with("logits are 9.0 GB of it"), "{large:?}");
    }
}
