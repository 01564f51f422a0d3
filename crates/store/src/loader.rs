//! Finding runs again.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::index::{self, Index};
use crate::metadata::Metadata;
use crate::names::check_experiment;
use crate::query::{Criteria, Query};
use crate::run::Run;
use crate::save::ActivationSaver;
use crate::store::{Found, Problem, Scan, Store};

/// Finds runs, in its own experiment unless a query names another.
#[derive(Debug, Clone)]
pub struct ActivationLoader {
    store: Store,
    experiment: String,
    index: Option<Index>,
}

impl ActivationLoader {
    /// A loader of an experiment in a folder; `*` is all experiments.
    ///
    /// # Errors
    /// If the folder does not exist, or the store is of a newer version.
    pub fn new(base: impl AsRef<Path>, experiment: &str) -> Result<Self> {
        Ok(ActivationLoader::of(Store::open(base)?, experiment))
    }

    /// A loader of the folder that `ACTIVATION_BASE_DIR` names, in the environment or a `.env` file.
    ///
    /// # Errors
    /// If no folder is named, and as [`ActivationLoader::new`].
    pub fn from_env(experiment: &str) -> Result<Self> {
        ActivationLoader::new(Store::base_from_env()?, experiment)
    }

    /// A loader for a saver's experiment.
    pub fn from_saver(saver: &ActivationSaver) -> Self {
        ActivationLoader::of(saver.store().clone(), saver.experiment())
    }

    /// A loader of an experiment in a store.
    pub fn of(store: Store, experiment: &str) -> Self {
        ActivationLoader { store, experiment: experiment.to_owned(), index: None }
    }

    /// The same with an index in the user's cache folder: queries over thousands of runs take milliseconds, and answers
    /// are the same. Only records edited by hand since the last query may be missed.
    #[must_use]
    pub fn indexed(self) -> Self {
        match index::default_folder() {
            Some(folder) => self.indexed_in(folder),
            None => self,
        }
    }

    /// The same with an index in a folder, which must be on this machine's own disk.
    #[must_use]
    pub fn indexed_in(self, folder: impl Into<PathBuf>) -> Self {
        ActivationLoader { index: Index::of(&self.store, folder.into()), ..self }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The runs that meet every criterion, in the order of their claims.
    ///
    /// # Errors
    /// If the store can't be read. A run that can't be read is a problem of the result, and hides no other.
    pub fn query(&self, query: &Query<'_>) -> Result<QueryResult> {
        let experiment = query.experiment_name.as_deref().unwrap_or(&self.experiment);
        let criteria = Criteria::new(query)?;
        let experiment = Some(experiment).filter(|name| *name != "*");
        if let Some(name) = experiment {
            check_experiment(name)?;
        }
        let indexed =
            self.index.as_ref().and_then(|index| index.find(&self.store, experiment, &criteria).ok());
        let scan = match indexed {
            Some(scan) => scan,
            None => self.store.scan_for(experiment, &|metadata: &Metadata| criteria.hold(metadata))?,
        };
        let Scan { runs, problems } = self.with_rows(scan, query);
        Ok(QueryResult { store: self.store.clone(), runs, problems: Arc::new(problems) })
    }

    /// Keeps the runs that meet the condition even if it uses row values that the record does not list; these are read.
    fn with_rows(&self, scan: Scan, query: &Query<'_>) -> Scan {
        let Scan { runs, mut problems } = scan;
        let holds = |run: &Found| {
            let Some(condition) = query.condition.as_ref().filter(|c| c.asks_rows(&run.metadata)) else {
                return Ok(true);
            };
            let opened = self.store.run(&run.path)?;
            Ok(condition.holds_with(&run.metadata, &opened.manifest().values))
        };
        let mut kept = Vec::with_capacity(runs.len());
        for run in runs {
            match holds(&run) {
                Ok(true) => kept.push(run),
                Ok(false) => {}
                Err(error) => problems.push(Problem::new(run.path, error)),
            }
        }
        Scan { runs: kept, problems }
    }
}

impl ActivationLoader {
    /// The runs at these paths below the store, in any experiment.
    ///
    /// # Errors
    /// If one does not exist, or cannot be read.
    pub fn at(&self, paths: &[String]) -> Result<QueryResult> {
        let run = |path: &String| {
            let metadata = self.store.run(path)?.metadata().clone();
            Ok(Found { path: path.clone(), metadata })
        };
        let runs = paths.iter().map(run).collect::<Result<_>>()?;
        Ok(QueryResult { store: self.store.clone(), runs, problems: Arc::default() })
    }
}

/// Runs that a query found.
#[derive(Debug)]
pub struct QueryResult {
    store: Store,
    runs: Vec<Found>,
    problems: Arc<Vec<Problem>>,
}

/// Selects one run of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// An index from 0, or from the end: -1 is the most recent.
    Index(i64),
    /// The name under which the run was begun, its folder's name, its path below the store, its run id, or a unique
    /// prefix of one of the last three.
    Name(String),
}

impl From<i64> for Which {
    fn from(index: i64) -> Self {
        Which::Index(index)
    }
}

impl From<&str> for Which {
    fn from(name: &str) -> Self {
        Which::Name(name.to_owned())
    }
}

impl QueryResult {
    /// Number of runs.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether there are no runs.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs, in the order of their claims.
    pub fn runs(&self) -> &[Found] {
        &self.runs
    }

    /// What could not be read during the search.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Paths of the runs, below the store.
    pub fn get_paths(&self) -> Vec<&str> {
        self.runs.iter().map(|run| run.path.as_str()).collect()
    }

    /// A range of the runs.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> QueryResult {
        let end = range.end.min(self.runs.len());
        let runs = self.runs[range.start.min(end)..end].to_vec();
        QueryResult { store: self.store.clone(), runs, problems: self.problems.clone() }
    }

    /// The runs at these indices; those out of range are left out.
    #[must_use]
    pub fn pick(&self, places: &[usize]) -> QueryResult {
        let runs = places.iter().filter_map(|at| self.runs.get(*at).cloned()).collect();
        QueryResult { store: self.store.clone(), runs, problems: self.problems.clone() }
    }

    /// One of the runs. An index from the end is refused while some run can't be read, since that may be the one meant.
    ///
    /// # Errors
    /// If an index is out of range or ambiguous, or a name matches no run, several, or one that can't be read.
    pub fn get(&self, which: impl Into<Which>) -> Result<&Found> {
        let which = which.into();
        if matches!(which, Which::Index(index) if index < 0) {
            self.is_countable()?;
        }
        self.position(&which).map(|at| &self.runs[at])
    }

    /// A run's path below the store; a name also finds a run that can't be read. While such a run exists every index is
    /// refused, even from the start: this is for callers who have not seen the list, or who change what is there.
    ///
    /// # Errors
    /// As [`QueryResult::get`].
    pub fn path(&self, which: impl Into<Which>) -> Result<&str> {
        let which = which.into();
        if matches!(which, Which::Index(_)) {
            self.is_countable()?;
        }
        match self.find(&which)? {
            Place::Run(at) => Ok(&self.runs[at].path),
            Place::Unread(at) => Ok(&self.problems[at].path),
        }
    }

    /// Checks that indices are certain, because every run could be read.
    ///
    /// # Errors
    /// Names the run that could not be read, with a hint.
    pub fn is_countable(&self) -> Result<()> {
        let hidden: Vec<&Problem> = self.unread().collect();
        let Some(first) = hidden.first() else { return Ok(()) };
        let others =
            if hidden.len() > 1 { format!(" and {} others", hidden.len() - 1) } else { String::new() };
        let Problem { path, error, .. } = first;
        let message = format!(
            "places of runs can't be counted: {path}{others} can't be read, and may be any of them: {error}"
        );
        let most_recent = self.runs.last().map_or_else(String::new, |run| format!(", {}", run.path));
        Err(Error::new(ErrorKind::Damaged, message).hint(format!(
            "name the run by its path: the most recent that can be read{most_recent}; or remove what can't be: easyroutine runs rm {path}"
        )))
    }

    fn unread(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| problem.hides_a_run)
    }

    /// Opens a run; its tensors are read on demand.
    ///
    /// # Errors
    /// As [`QueryResult::get`], and if the run is damaged or has disappeared.
    pub fn load(&self, which: impl Into<Which>) -> Result<Run> {
        self.store.run(&self.get(which)?.path)
    }

    /// Removes a run from the store and from this result; a name also finds a run that can't be read.
    ///
    /// # Errors
    /// As [`QueryResult::path`], and if the system refuses.
    pub fn remove(&mut self, which: impl Into<Which>) -> Result<()> {
        let path = self.path(which)?.to_owned();
        self.store.remove(&path)?;
        self.runs.retain(|run| run.path != path);
        Ok(())
    }

    /// Moves a run to another experiment, and returns its new path.
    ///
    /// # Errors
    /// As [`QueryResult::path`], and if the name is bad or taken.
    pub fn update_run_experiment(&mut self, which: impl Into<Which>, experiment: &str) -> Result<String> {
        let from = self.path(which)?.to_owned();
        let path = self.store.move_run(&from, experiment)?;
        for run in self.runs.iter_mut().filter(|run| run.path == from) {
            let metadata = run.metadata.clone().in_experiment(experiment);
            *run = Found { path: path.clone(), metadata };
        }
        Ok(path)
    }

    fn position(&self, which: &Which) -> Result<usize> {
        match self.find(which)? {
            Place::Run(at) => Ok(at),
            Place::Unread(at) => {
                let Problem { path, error, .. } = &self.problems[at];
                let unread = Error::new(error.kind(), format!("{path}: {error}"));
                Err(unread.hint(format!("if it can't be mended: easyroutine runs rm {path}")))
            }
        }
    }

    fn find(&self, which: &Which) -> Result<Place> {
        match which {
            Which::Index(index) => {
                let n = self.runs.len();
                let at = if *index < 0 {
                    n.checked_sub(index.unsigned_abs() as usize)
                } else {
                    usize::try_from(*index).ok()
                };
                at.filter(|at| *at < n).map(Place::Run).ok_or_else(|| {
                    let error = Error::new(
                        ErrorKind::NotFound,
                        format!("there is no run {index}: the result has {n}"),
                    );
                    if n == 0 {
                        error
                    } else {
                        error.hint(format!("0 to {}, or -1 for the most recent", n - 1))
                    }
                })
            }
            Which::Name(name) => self.named(name),
        }
    }

    fn named(&self, name: &str) -> Result<Place> {
        let of_path = |path: &str, fits: &dyn Fn(&str) -> bool| fits(path) || fits(folder(path));
        // The id of a run that can't be read is unknown.
        let fitting = |fits: &dyn Fn(&str) -> bool| -> Vec<Place> {
            let runs = self.runs.iter().enumerate();
            let runs = runs.filter(|(_, run)| of_path(&run.path, fits) || fits(run.metadata.run_id()));
            let unread = self.problems.iter().enumerate();
            let unread = unread.filter(|(_, problem)| problem.hides_a_run && of_path(&problem.path, fits));
            runs.map(|(at, _)| Place::Run(at)).chain(unread.map(|(at, _)| Place::Unread(at))).collect()
        };
        if let Some(place) = fitting(&|found| found == name).first() {
            return Ok(*place);
        }
        let is_begun_as = |run: &Found| run.metadata.name().is_some_and(|begun| begun == name);
        let begun: Vec<usize> = (0..self.runs.len()).filter(|at| is_begun_as(&self.runs[*at])).collect();
        match begun[..] {
            [] => {}
            [at] => {
                // A run that can't be read may have the same name, in another experiment.
                self.is_countable()?;
                return Ok(Place::Run(at));
            }
            [..] => {
                let paths: Vec<&str> = begun.iter().take(10).map(|at| self.runs[*at].path.as_str()).collect();
                return Err(Error::new(
                    ErrorKind::Ambiguous,
                    format!("{} runs were begun as `{name}`", begun.len()),
                )
                .hint(format!("say which: {}", paths.join(", "))));
            }
        }
        let begins = |found: &str| !name.is_empty() && found.starts_with(name);
        match fitting(&begins)[..] {
            [place] => {
                if let Place::Run(at) = place
                    && !of_path(&self.runs[at].path, &begins)
                {
                    self.is_countable()?;
                }
                Ok(place)
            }
            [] => Err(Error::new(ErrorKind::NotFound, format!("no run is called `{name}`")).hint(
                if self.runs.is_empty() {
                    "the result is empty".to_owned()
                } else {
                    format!("the most recent is {}", self.runs[self.runs.len() - 1].path)
                },
            )),
            ref places => {
                let path = |place: &Place| match *place {
                    Place::Run(at) => self.runs[at].path.as_str(),
                    Place::Unread(at) => self.problems[at].path.as_str(),
                };
                let paths: Vec<&str> = places.iter().take(10).map(path).collect();
                Err(Error::new(ErrorKind::Ambiguous, format!("{} runs begin with `{name}`", places.len()))
                    .hint(format!("say which: {}", paths.join(", "))))
            }
        }
    }
}

/// Where a run is in a result.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Among those that were read.
    Run(usize),
    /// Among the problems.
    Unread(usize),
}

impl fmt::Display for QueryResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} run{}", self.runs.len(), if self.runs.len() == 1 { "" } else { "s" })?;
        for (index, run) in self.runs.iter().enumerate() {
            let tags = run.metadata.tags();
            let tags = if tags.is_empty() { String::new() } else { format!("  [{}]", tags.join(", ")) };
            let experiment = run.path.split('/').next().unwrap_or_default();
            let name = run.metadata.name().map_or_else(String::new, |name| format!("  {name}"));
            writeln!(
                f,
                "{index:>4}  {}{name}  {experiment}  {}{tags}",
                folder(&run.path),
                run.metadata.model_name()
            )?;
        }
        for problem in self.problems.iter() {
            writeln!(f, "   !  {}: {}", problem.path, problem.error)?;
        }
        Ok(())
    }
}

/// The last name of a path: the time of the claim.
fn folder(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
