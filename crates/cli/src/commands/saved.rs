//! `extract … -o BASE/`: a run in a store, written shard by shard.

use std::path::Path;
use std::sync::atomic::Ordering;

use easyroutine::edit::Intervention;
use easyroutine::extract::Example;
use easyroutine::positions::Context;
use easyroutine::request::Request;
use easyroutine::{Error, ErrorKind, Stop};
use easyroutine_app::filling::{Annotations, Features, Field, Filled, Filling, Generated, Place};
use easyroutine_store::{ActivationSaver, Joining};
use serde_json::{Map, Value, json};

use super::runs::pairs;
use crate::args::{Args, Extract, Format};
use crate::failure::Failure;
use crate::session::Session;
use crate::{output, progress};

/// A data set and the request for it.
pub(super) struct Job<'a> {
    pub(super) session: &'a Session,
    pub(super) request: &'a Request,
    pub(super) examples: &'a [Example],
    /// Fields to keep in addition to each row's activations.
    pub(super) fields: &'a [Field],
    pub(super) context: Context<'a>,
    /// Interventions, already checked against all rows.
    pub(super) interventions: &'a [Intervention],
    /// Features that are kept, and changes of features.
    pub(super) features: Option<Features<'a>>,
    pub(super) extract: &'a Extract,
    /// The number of each row in its file, if some were skipped.
    pub(super) of_file: Option<&'a [usize]>,
    /// How conversations were made of the prompts, if they were.
    pub(super) chat: Option<&'a Value>,
}

impl Job<'_> {
    /// Examples per unit, and the number of units of the run.
    pub(super) fn units(&self) -> Result<(u64, usize), Failure> {
        Ok(self.filling(&self.all_fields())?.units(self.extract.saving.unit)?)
    }

    /// The fields to keep, plus the number of each row in its file if some were skipped.
    fn all_fields(&self) -> Vec<Field> {
        // A field of the file with this name is kept instead.
        let is_taken = self.fields.iter().any(|(name, _)| name == "row");
        let name = if is_taken { "row_of_file" } else { "row" };
        let numbers = |rows: &[usize]| (name.to_owned(), rows.iter().map(|row| json!(row)).collect());
        self.of_file.map(numbers).into_iter().chain(self.fields.iter().cloned()).collect()
    }

    fn filling<'a>(&'a self, fields: &'a [Field]) -> Result<Filling<'a>, Failure> {
        self.interventions.iter().try_for_each(speaks_of_one_row)?;
        let Session { files, model, identity, .. } = self.session;
        let ignores_end = self.extract.ignore_end;
        Ok(Filling {
            model,
            files,
            digest: identity.digest()?,
            request: self.request,
            examples: self.examples,
            fields,
            context: self.context,
            interventions: self.interventions,
            features: self.features,
            generated: self.extract.generate.map(|tokens| Generated { tokens: tokens.into(), ignores_end }),
            chat: self.chat,
            batch_tokens: self.extract.batch_tokens as usize,
            folder: None,
            on_nan: None,
            stop: Stop::Never,
        })
    }
}

/// Whether a target is a store: a folder, a name that ends like one, or a bucket.
pub(super) fn is_store(target: &Path) -> bool {
    easyroutine_store::is_url(target)
        || target.is_dir()
        || target.as_os_str().to_string_lossy().ends_with(std::path::is_separator)
}

/// Writes the missing units, or this process's share of them, and commits the run if none is left.
pub(super) fn run(args: &Args, base: &Path, job: &Job<'_>) -> Result<(), Failure> {
    let saving = &job.extract.saving;
    if !matches!(args.format, Format::Auto | Format::Table | Format::Json | Format::Jsonl) {
        return Err(Failure::usage("--format: a run's place is printed as text or as JSON")
            .hint("easyroutine runs load or export writes its numbers in other formats"));
    }
    let stop = progress::interrupted()?;
    let fields = job.all_fields();
    let filling = Filling {
        folder: Some(base).filter(|base| base.is_dir()),
        on_nan: Some(&|| output::warn_of_nan(true, !job.interventions.is_empty())),
        stop: Stop::When(&|| stop.load(Ordering::Relaxed)),
        ..job.filling(&fields)?
    };
    let saver = ActivationSaver::new(base, saving.experiment.as_deref().unwrap_or("default"))?;
    let (name, joining) = match (&saving.run, saving.part) {
        (Some(name), Some(_)) => (name.clone(), Joining::Share),
        (Some(name), None) if saving.resume => (name.clone(), Joining::Resume),
        (Some(name), None) => (name.clone(), Joining::New),
        (None, _) => (easyroutine_store::fresh_name(), Joining::New),
    };
    let place = Place {
        saver: &saver,
        run: &name,
        joining,
        share: saving.part.map_or((0, 1), |part| (part.number - 1, part.of)),
        unit: saving.unit,
        on_beginning: &|| {
            output::note("note", &format!("no run `{name}` was begun before: it begins now"));
        },
    };
    let bar = progress::Rows::new(&job.session.model);
    let filled = filling.fill(place, annotations(job)?, &|progress| bar.tell(progress))?;
    bar.finish();
    match filled {
        Filled::Saved(path) => done(args, base, &path),
        Filled::Shared(missing, units) => {
            output::note("note", &format!("{missing} of {units} units are left to other parts"));
            Ok(())
        }
        Filled::Stopped(written, units) => {
            let message = format!("interrupted: {written} of {units} units are written");
            Err(Failure::from(Error::new(ErrorKind::Interrupted, message))
                .hint(format!("the same command with --run {name} --resume continues")))
        }
    }
}

/// The user's annotations of the run.
fn annotations(job: &Job<'_>) -> Result<Annotations, Failure> {
    let saving = &job.extract.saving;
    let pairs = pairs(&saving.meta)?;
    if !job.fields.is_empty() && pairs.iter().any(|(key, _)| key == "fields") {
        return Err(Failure::usage("--meta fields=…: `fields` says what --keep-fields keeps of each row")
            .hint("call your key another name"));
    }
    let file = job.extract.file.as_ref().and_then(|file| file.file_name());
    Ok(Annotations {
        tags: saving.tag.clone(),
        other_metadata: pairs.into_iter().map(|(key, value)| (key, value.into())).collect(),
        types: Map::new(),
        dataset: file.map(|name| json!({"file": name.to_string_lossy()})),
    })
}

/// Prints the place of the run.
fn done(args: &Args, base: &Path, path: &str) -> Result<(), Failure> {
    let place = base.join(path).display().to_string();
    let text = match args.format {
        Format::Json | Format::Jsonl => {
            json!({"schema": "easyroutine.run_saved/1", "base": base.display().to_string(), "path": path})
                .to_string()
        }
        _ => place,
    };
    let target = output::Destination { format: args.format, file: None };
    output::write(&target, format!("{text}\n").as_bytes())
}

/// Rows of a store run in changing batches, so that one row's result cannot depend on another.
fn speaks_of_one_row(intervention: &Intervention) -> Result<(), Failure> {
    if !intervention.speaks_of_rows() {
        return Ok(());
    }
    Err(Failure::usage("--intervene: values for single rows of a batch, or from another row, are for files")
        .hint("write to a file: -o activations.safetensors"))
}
