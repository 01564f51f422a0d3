//! Runs written unit by unit, by one process or many, that resume after a crash.
//!
//! A plan divides the examples into units. Each unit becomes one shard, and a receipt describes it. The receipts decide
//! what is in the run: a shard without one was never written. When all receipts exist, the run is committed.

mod merge;
mod plan;
mod unfinished;

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::backend::MaybeHeld;
use crate::clock::Claim;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Hold;
use crate::manifest::{Manifest, Shard, TensorEntry};
use crate::names::{check_experiment, model_folder};
use crate::read;
use crate::record_sum;
use crate::save::{self, ActivationSaver, Contents, Fields, Provenance, Size};
use crate::shard::{self, Label};
use crate::store::Store;
use crate::tensor::Tensor;
pub use plan::{MODEL_DIGEST, Plan};
pub(crate) use plan::{OPEN_BEGINS, Opened};
pub use unfinished::Unfinished;

/// A run being written.
#[derive(Debug)]
pub struct OpenRun {
    store: Store,
    path: String,
    opened: Box<Opened>,
    worker: Option<String>,
    begun_here: bool,
    /// Shows others that the run is being written.
    _held: MaybeHeld,
}

/// The state of a named run.
#[derive(Debug)]
pub enum Begun {
    /// Not committed yet: there may be units to write.
    Open(OpenRun),
    /// Committed, with its path.
    Committed(String),
}

/// What to do if a run of this name was begun before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joining {
    /// Refuse.
    New,
    /// Resume it, or begin it: a process that was killed may not have got that far.
    Resume,
    /// Like `Resume`, for several processes that share the work.
    Share,
}

/// A committed run that a plan began.
struct Committed {
    /// Its path, below the store.
    path: String,
    /// Its plan; older runs have none.
    plan: Option<Plan>,
}

/// The contents of a unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Receipt {
    tensors: Vec<TensorEntry>,
    values: Map<String, Json>,
    size: [Option<u64>; 2],
    shard: Shard,
    /// Its own checksum; older receipts have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    receipt_xxh3: Option<String>,
}

impl Receipt {
    /// Parses a receipt; `None` if the text is not what was written.
    fn parse(text: &[u8]) -> Option<Self> {
        let receipt: Receipt = serde_json::from_slice(text).ok()?;
        let sum = receipt.receipt_xxh3.as_deref();
        sum.is_none_or(|sum| record_sum::is_right(text, sum)).then_some(receipt)
    }

    fn into_bytes(mut self) -> serde_json::Result<Vec<u8>> {
        let placeholder = record_sum::placeholder();
        self.receipt_xxh3 = Some(placeholder.clone());
        Ok(record_sum::filled(serde_json::to_string(&self)?, &placeholder).into_bytes())
    }
}

impl ActivationSaver {
    /// Begins or resumes the run of a name.
    ///
    /// # Errors
    /// If a run of this name has another plan, or exists contrary to `joining`; if the name is bad; or if the system
    /// refuses.
    pub fn begin(
        &self,
        name: &str,
        plan: &Plan,
        provenance: &Provenance<'_>,
        joining: Joining,
    ) -> Result<Begun> {
        plan::check_name(name)?;
        plan.check()?;
        let fields = Fields::new(provenance)?;
        let plan = &plan.with_words(&fields);
        let folder = format!("{}/{}", self.experiment(), model_folder(&provenance.model.name));
        let store = self.store();
        loop {
            let opened = store.opened(&folder, name)?;
            if let Some(Committed { path, plan: as_begun }) = store.committed(self.experiment(), name)? {
                if joining == Joining::New {
                    return Err(Error::new(ErrorKind::Exists, format!("there is a run `{name}`: {path}")));
                }
                // Older runs do not record their plans.
                if let Some(as_begun) = as_begun {
                    as_begun.check_same(plan).map_err(|e| e.at(format_args!("run `{name}`")))?;
                }
                return Ok(Begun::Committed(path));
            }
            if let Some(opened) = opened {
                if joining == Joining::New {
                    return Err(Error::new(ErrorKind::Exists, format!("the run `{name}` was begun before"))
                        .hint("--resume continues it; another --run begins another"));
                }
                opened.plan().check_same(plan).map_err(|e| e.at(format_args!("run `{name}`")))?;
                match store.joined(&folder, opened, false)? {
                    Some(begun) => return begun.with_aux(&fields),
                    // It was committed or cleared away at this moment: look again.
                    None => continue,
                }
            }
            let claim = Claim::new(store.backend())?;
            let opened = Opened::new(name, plan, &claim, &fields);
            match store.backend().put_new(&plan::file(&folder, name), &opened.to_bytes()) {
                Ok(()) => {}
                // Another process began it at this moment: look again.
                Err(error) if error.kind() == ErrorKind::Exists => continue,
                Err(error) => return Err(error),
            }
            // Another process may have begun and committed the run since the check above. A process that finds our plan
            // before it is deleted also finds that run, and looks for the run after the plan.
            if let Some(Committed { path, .. }) = store.committed(self.experiment(), name)? {
                let _ = store.drop_plan(&folder, &opened);
                return Ok(Begun::Committed(path));
            }
            if let Some(begun) = store.joined(&folder, opened, true)? {
                return begun.with_aux(&fields);
            }
        }
    }
}

impl Begun {
    /// Writes the tensors of the metadata unless a process that joined already has: the one that began the run may not
    /// have got that far.
    fn with_aux(self, fields: &Fields<'_>) -> Result<Self> {
        if let Begun::Open(run) = &self
            && !fields.aux.is_empty()
        {
            run.put_part(run.n_units(), &fields.aux, &Contents::default())?;
        }
        Ok(self)
    }
}

impl Store {
    /// The run of a name in an experiment, begun or committed.
    ///
    /// # Errors
    /// If there is none, or the system refuses.
    pub fn begun(&self, experiment: &str, name: &str) -> Result<Begun> {
        check_experiment(experiment)?;
        plan::check_name(name)?;
        loop {
            if let Some(begun) = self.begun_now(experiment, name)? {
                return Ok(begun);
            }
        }
    }

    /// The same; `None` if it was committed or cleared away at this moment.
    fn begun_now(&self, experiment: &str, name: &str) -> Result<Option<Begun>> {
        let mut opened = None;
        let mut problems = Vec::new();
        for folder in self.model_folders(Some(experiment), &mut problems)? {
            if let Some(found) = self.opened(&folder, name)? {
                opened = Some((folder, found));
                break;
            }
        }
        if let Some(Committed { path, .. }) = self.committed(experiment, name)? {
            return Ok(Some(Begun::Committed(path)));
        }
        let (folder, opened) = opened.ok_or_else(|| match problems.pop() {
            // It may be this one.
            Some(problem) => problem.error.at(problem.path),
            None => Error::new(
                ErrorKind::NotFound,
                format!("no run `{name}` was begun in the experiment `{experiment}`"),
            ),
        })?;
        self.joined(&folder, opened, false)
    }

    fn opened(&self, folder: &str, name: &str) -> Result<Option<Opened>> {
        let file = plan::file(folder, name);
        match self.backend().open(&file) {
            Ok(source) => Opened::parse(&read::whole(&*source, &file)?).map(Some).map_err(|e| e.at(&file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The run of a plan, held; `None` if the plan is gone. `gc` deletes a plan only while the run is not held.
    fn joined(&self, folder: &str, opened: Opened, begun_here: bool) -> Result<Option<Begun>> {
        let path = format!("{folder}/{}", opened.folder());
        match self.backend().claim(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Exists => {}
            Err(error) => return Err(error),
        }
        let held = match self.backend().hold(&path, Hold::Together) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            held => held?,
        };
        let run = OpenRun {
            store: self.clone(),
            path,
            opened: Box::new(opened),
            worker: None,
            begun_here,
            _held: held,
        };
        if self.record(&run.path)?.is_some() {
            run.close()?;
            return Ok(Some(Begun::Committed(run.path)));
        }
        let planned = self.opened(folder, run.opened.name())?;
        let is_planned = planned.is_some_and(|planned| planned.run_id() == run.opened.run_id());
        Ok(is_planned.then_some(Begun::Open(run)))
    }

    /// Deletes the plan of this run, and no other of its name.
    fn drop_plan(&self, folder: &str, opened: &Opened) -> Result<()> {
        let is_its = |text: &[u8]| Opened::parse(text).is_ok_and(|found| found.run_id() == opened.run_id());
        self.backend().delete_if(&plan::file(folder, opened.name()), &is_its)
    }

    /// The committed run of a name.
    fn committed(&self, experiment: &str, name: &str) -> Result<Option<Committed>> {
        let runs = self.scan(Some(experiment))?.runs;
        let is_it =
            |run: &crate::Found| run.metadata.store().and_then(|s| s.get("name")).is_some_and(|n| n == name);
        let Some(run) = runs.into_iter().find(is_it) else { return Ok(None) };
        let plan = run.metadata.store().and_then(|store| store.get("plan")).map(Plan::from_json);
        let plan = plan.transpose().map_err(|e| e.at(&run.path))?;
        Ok(Some(Committed { plan, path: run.path }))
    }
}

impl OpenRun {
    /// Its path, below the store.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Names this process in the manifest.
    #[must_use]
    pub fn as_worker(self, worker: impl Into<String>) -> Self {
        OpenRun { worker: Some(worker.into()), ..self }
    }

    /// Whether this very call began the run.
    pub fn is_begun_here(&self) -> bool {
        self.begun_here
    }

    /// Number of units in the plan.
    pub fn n_units(&self) -> usize {
        self.opened.plan().n_units()
    }

    /// The examples of a unit.
    pub fn examples(&self, unit: usize) -> Range<u64> {
        self.opened.plan().examples(unit)
    }

    /// The units not written yet; none if another process has committed the run.
    ///
    /// # Errors
    /// The system's error.
    pub fn missing(&self) -> Result<Vec<usize>> {
        let written = self.receipts()?;
        let missing: Vec<usize> = (0..self.n_units()).filter(|unit| !written.contains_key(unit)).collect();
        // Receipts are deleted once the record exists.
        let is_done = !missing.is_empty() && self.store.record(&self.path)?.is_some();
        Ok(if is_done { Vec::new() } else { missing })
    }

    /// Writes a unit. A unit that any process has written already stays unchanged.
    ///
    /// # Errors
    /// If there is no such unit, the contents can't be kept, or the system refuses.
    pub fn put(&self, unit: usize, contents: &Contents<'_>) -> Result<()> {
        if unit >= self.n_units() {
            return Err(Error::input(format!("the plan has {} units; {unit} is none", self.n_units())));
        }
        self.put_part(unit, &contents.tensors, contents)
    }

    /// Makes the run visible once every unit is written. Several processes may try; one succeeds. `finish` may
    /// transform the joined values of all units.
    ///
    /// # Errors
    /// If units are missing or inconsistent, or the system refuses.
    pub fn commit(&self, finish: impl FnOnce(&mut Map<String, Json>)) -> Result<String> {
        match self.commit_units(finish) {
            Err(error) if self.is_anothers(&error) => {}
            done => done?,
        }
        self.close()?;
        Ok(self.path.clone())
    }

    fn commit_units(&self, finish: impl FnOnce(&mut Map<String, Json>)) -> Result<()> {
        let receipts = self.receipts()?;
        let missing: Vec<usize> = (0..self.n_units()).filter(|unit| !receipts.contains_key(unit)).collect();
        if !missing.is_empty() {
            let (n, first) = (missing.len(), missing[0]);
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("{n} of {} units are not written, the first is {first}", self.n_units()),
            )
            .hint("run the missing parts, then commit"));
        }
        if self.opened.has_aux() && !receipts.contains_key(&self.n_units()) {
            return Err(Error::new(ErrorKind::Conflict, "the tensors of its metadata are not written")
                .hint("begin it again as it was begun, with --resume"));
        }
        let backend = self.store.backend();
        let (manifest, size) = joined(receipts, self.n_units(), finish)?;
        // Never commit a manifest that could not be read back.
        Manifest::from_value(&manifest.to_value()?.0)?;
        let fields = self.opened.fields();
        save::publish(backend, &self.path, &self.opened.claim()?, fields, manifest, size)
    }

    /// Whether an error only means that another process committed the run meanwhile: our file exists already, a file
    /// that we read was deleted, or a unit was gone.
    fn is_anothers(&self, error: &Error) -> bool {
        let by_haste = matches!(error.kind(), ErrorKind::Exists | ErrorKind::NotFound | ErrorKind::Conflict);
        by_haste && self.store.record(&self.path).is_ok_and(|record| record.is_some())
    }

    /// Writes a unit, or, as number `n_units`, the tensors of the metadata.
    fn put_part(&self, unit: usize, tensors: &[Tensor<'_>], contents: &Contents<'_>) -> Result<()> {
        match self.put_tensors(unit, tensors, contents) {
            Err(error) if self.is_anothers(&error) => Ok(()),
            done => done,
        }
    }

    fn put_tensors(&self, unit: usize, tensors: &[Tensor<'_>], contents: &Contents<'_>) -> Result<()> {
        let backend = self.store.backend();
        let receipt = self.receipt(unit);
        if backend.entry(&receipt).is_ok() || self.store.record(&self.path)?.is_some() {
            return Ok(());
        }
        save::check_tensors(tensors)?;
        let examples = (unit < self.n_units()).then(|| [self.examples(unit).start, self.examples(unit).end]);
        let label = Label {
            run: &self.path,
            run_id: self.opened.run_id(),
            number: unit,
            examples,
            worker: self.worker.clone(),
        };
        let pieces = tensors.iter().flat_map(|tensor| shard::pieces(tensor, None)).collect();
        let shard = shard::write(backend, &label, pieces)?;
        // The receipt must not outlive its shard.
        backend.settle(&self.path)?;
        let values = contents.values.clone();
        let size = [save::n_examples(tensors), save::n_rows(tensors)];
        let tensors = save::manifest(tensors, Map::new(), Vec::new()).tensors;
        let text = Receipt { tensors, values, size, shard, receipt_xxh3: None }.into_bytes();
        let text = text.map_err(|e| Error::input(format!("unit {unit}: {e}")))?;
        match backend.put_new(&receipt, &text) {
            // Another process was faster: its unit counts, and `gc` finds ours.
            Err(error) if error.kind() == ErrorKind::Exists => Ok(()),
            done => done,
        }
    }

    fn receipt(&self, unit: usize) -> String {
        format!("{}/parts/{unit:05}.json", self.path)
    }

    /// Receipts by unit. A torn or changed receipt, or one without its whole shard, does not count and is deleted.
    fn receipts(&self) -> Result<BTreeMap<usize, Receipt>> {
        let backend = self.store.backend();
        let folder = format!("{}/parts", self.path);
        let entries = match backend.list(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        let mut found = BTreeMap::new();
        for entry in entries {
            let Some(unit) = entry.name.strip_suffix(".json").and_then(|n| n.parse::<usize>().ok()) else {
                continue;
            };
            let file = format!("{folder}/{}", entry.name);
            let text = match backend.open(&file) {
                Ok(source) => read::whole(&*source, &file)?,
                // Another process found it torn, or has committed the run.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let receipt = Receipt::parse(&text);
            let is_whole = |receipt: &Receipt| {
                let shard = &receipt.shard;
                crate::names::check_file(&shard.file).is_ok()
                    && backend
                        .entry(&format!("{}/{}", self.path, shard.file))
                        .is_ok_and(|e| e.size == shard.bytes)
            };
            match receipt.filter(is_whole) {
                Some(receipt) => drop(found.insert(unit, receipt)),
                // Another process may have rewritten it meanwhile.
                None => backend.delete_if(&file, &|found| found == text)?,
            }
        }
        Ok(found)
    }

    /// Removes what only an open run needs, once some process's record is durable. `gc` finds anything left.
    fn close(&self) -> Result<()> {
        let backend = self.store.backend();
        backend.settle(&self.path)?;
        let folder = self.path.rsplit_once('/').unwrap_or_default().0;
        let _ = self.store.drop_plan(folder, &self.opened);
        let _ = backend.delete_folder(&format!("{}/parts", self.path));
        Ok(())
    }
}

/// The manifest of all units, and their total size.
fn joined(
    receipts: BTreeMap<usize, Receipt>,
    n_units: usize,
    finish: impl FnOnce(&mut Map<String, Json>),
) -> Result<(Manifest, Size)> {
    let mut manifest = Manifest::default();
    let mut size = Size { n_examples: Some(0), n_rows: Some(0) };
    for (unit, receipt) in receipts {
        if unit >= n_units {
            manifest.tensors.extend(receipt.tensors);
        } else {
            if unit == 0 {
                manifest.tensors = receipt.tensors;
            } else if manifest.tensors != receipt.tensors {
                return Err(Error::damaged(format!("unit {unit} has other tensors than those before it")));
            }
            let add = |sum: Option<u64>, more: Option<u64>| Some(sum? + more?);
            size.n_examples = add(size.n_examples, receipt.size[0]);
            size.n_rows = add(size.n_rows, receipt.size[1]);
            merge::into(&mut manifest.values, receipt.values)
                .map_err(|e| e.at(format_args!("unit {unit}")))?;
        }
        manifest.shards.push(receipt.shard);
    }
    finish(&mut manifest.values);
    Ok((manifest, size))
}
