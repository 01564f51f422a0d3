//! Runs a data set through the model: packed batches in, rows out to a sink.

mod collect;
mod continued;
mod plan;
mod size;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use easyroutine_sites::Point;

use crate::batch::Batch;
use crate::cache::{ActivationCache, Capture, Examples, RunningMean};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Between, Lane, Model, bytes_of_token};
use crate::positions::{Context, Row, Selected, Selection};
use crate::request::{Request, Tokens};
use crate::stop::Stop;
use crate::tap::{Tap, Value, Want};
pub use collect::Collect;
pub use continued::continued;
pub use size::Size;

/// One row of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Example {
    /// Its number in the data set, which names it in errors and results and seeds its draws.
    pub number: usize,
    /// Its token ids.
    pub ids: Vec<u32>,
    /// Its text with the byte span of each token, if known.
    pub text: Option<(String, Vec<(usize, usize)>)>,
    /// How many of the last ids continue the prompt: positions name tokens of the prompt, `all` includes every one.
    pub n_new: usize,
    /// Positions at which a new group starts, if this row has its own.
    pub pivots: Option<Vec<i64>>,
}

/// Receives rows as they come.
pub trait Sink {
    /// Receives the rows of one batch: row i of the cache is the data set's row `numbers[i]`. Within a window, rows
    /// come in any order.
    ///
    /// # Errors
    /// An error ends the extraction and is returned by it.
    fn rows(&mut self, numbers: &[usize], cache: ActivationCache) -> Result<()>;

    /// Called once every row of a window has been delivered: the examples in this range, counted from the start of this
    /// extraction. A store can now complete its unit.
    ///
    /// # Errors
    /// As [`Sink::rows`].
    fn window(&mut self, _examples: Range<usize>) -> Result<()> {
        Ok(())
    }

    /// Receives the means over all examples, once, at the end, if any were requested.
    ///
    /// # Errors
    /// As [`Sink::rows`].
    fn means(&mut self, means: &RunningMean) -> Result<()>;
}

/// Options of an extraction.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Limit on tokens per batch; a longer row forms its own batch. Results have the same bits for any limit.
    pub batch_tokens: usize,
    /// Number of consecutive examples sorted into batches together; the results of one window precede those of the
    /// next.
    pub window: usize,
    /// Where windows end, instead, if they are not all equally long: ascending, the last at the number of examples.
    pub ends: Option<&'a [usize]>,
    /// The folder of a temporary file in which activations wait between two layers, where memory holds neither the model's
    /// weights nor them; the system's own by default.
    pub folder: Option<&'a Path>,
    /// The context that all rows share; an example's own pivots take precedence.
    pub context: Context<'a>,
    /// Called after each batch.
    pub progress: Option<&'a dyn Fn(Progress)>,
    /// When to end early; rows already given to the sink stay given.
    pub stop: Stop<'a>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options {
            batch_tokens: 4096,
            window: usize::MAX,
            ends: None,
            folder: None,
            context: Context::default(),
            progress: None,
            stop: Stop::Never,
        }
    }
}

/// Progress of an extraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rows done.
    pub rows: usize,
    /// Rows in all.
    pub all_rows: usize,
    /// Tokens done, which measure time.
    pub tokens: usize,
    /// Tokens in all.
    pub all_tokens: usize,
}

/// How an extraction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Every row is done.
    Finished,
    /// It was stopped: some rows are not done.
    Stopped,
}

/// A checked extraction: every row's tokens are known, nothing has run.
pub struct Extraction<'a> {
    model: &'a Model,
    request: &'a Request,
    examples: &'a [Example],
    tokens: Tokens,
    options: Options<'a>,
}

/// Tokens of a pass over weights that are read anew in each: so many that reading takes a small part of the time, so few that
/// not much is lost with a pass that is stopped.
pub const PASS_TOKENS: usize = 1 << 15;

/// A batch of examples, by their places.
struct Job {
    places: Vec<usize>,
    /// The window whose last batch it is.
    ends: Option<Range<usize>>,
}

/// How memory is shared out beside the weights, in bytes but for the first.
struct Share {
    /// Tokens of a batch at most.
    batch_tokens: usize,
    waiting: u64,
    kept: u64,
}

/// A capture whose means over examples are those of all batches.
struct SharedMeans<'a> {
    capture: Capture,
    means: &'a RefCell<RunningMean>,
    takes_means: bool,
}

impl Tap for SharedMeans<'_> {
    fn wants(&self, point: Point) -> Want {
        self.capture.wants(point)
    }

    fn tokens(&self, point: Point, batch: &Batch) -> Option<Vec<usize>> {
        self.capture.tokens(point, batch)
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        if !self.takes_means {
            return self.capture.at(point, value);
        }
        self.capture.go_on_from(self.means.take());
        let result = self.capture.at(point, value);
        self.means.replace(self.capture.take_running());
        result
    }
}

/// Makes the tap that comes before the capture, for a batch's rows: an edit, for instance.
pub type FirstTap<'a> = dyn FnMut(&Batch, &[Row<'_>]) -> Result<Box<dyn Tap + 'a>> + 'a;

impl<'a> Extraction<'a> {
    /// Checks everything that can be checked before the run.
    ///
    /// # Errors
    /// As [`Request::points`] and [`Request::tokens`], for any row; if there are no examples, an id is beyond the
    /// vocabulary, or a row is too long.
    pub fn new(
        model: &'a Model,
        request: &'a Request,
        examples: &'a [Example],
        options: Options<'a>,
    ) -> Result<Self> {
        request.points(model.arch())?;
        if examples.is_empty() {
            return Err(Error::input("no prompt given"));
        }
        let mut all: Option<Tokens> = None;
        for example in examples {
            let context = example.context(options.context);
            let tokens = request.tokens(&[example.row()], context)?;
            match &mut all {
                None => all = Some(tokens),
                Some(all) => all.append(tokens)?,
            }
        }
        let tokens = all.unwrap_or_default();
        let rows: Vec<Row<'_>> = examples.iter().map(Example::row).collect();
        request.check_means(&tokens, &rows)?;
        for example in examples {
            model.check_row(example.number, 0, &example.ids)?;
        }
        Ok(Extraction { model, request, examples, tokens, options })
    }

    /// The tokens that the request selects in every example.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The size of what will be kept.
    ///
    /// # Errors
    /// As [`Request::points`].
    pub fn size(&self) -> Result<Size> {
        let points = self.request.points(self.model.arch())?;
        Ok(size::of(self.model.arch(), &points, &self.tokens, &self.request.reduction))
    }

    /// Runs all batches and passes their rows to the sink.
    ///
    /// # Errors
    /// As [`Model::forward`], and the sink's errors.
    pub fn run(&self, sink: &mut dyn Sink) -> Result<End> {
        self.run_after(&mut |_, _| Ok(Box::new(())), sink)
    }

    /// The same, with a tap before the capture of each batch.
    ///
    /// # Errors
    /// As [`Extraction::run`], and the tap's errors.
    pub fn run_after(&self, first: &mut FirstTap<'_>, sink: &mut dyn Sink) -> Result<End> {
        let means = RefCell::new(RunningMean::default());
        let lengths: Vec<usize> = self.examples.iter().map(|example| example.ids.len()).collect();
        let mut progress =
            Progress { rows: 0, all_rows: lengths.len(), tokens: 0, all_tokens: lengths.iter().sum() };
        for pass in self.passes(&lengths)? {
            let taken = match self.options.stop.is_due() {
                true => None,
                false => self.pass(&pass, first, &means, progress)?,
            };
            let Some(caches) = taken else {
                self.give_means(&means, sink)?;
                return Ok(End::Stopped);
            };
            for (job, cache) in pass.iter().zip(caches) {
                sink.rows(&self.numbers(&job.places), cache)?;
                progress.rows += job.places.len();
                progress.tokens += job.places.iter().map(|row| lengths[*row]).sum::<usize>();
                if let Some(tell) = self.options.progress {
                    tell(progress);
                }
                if let Some(window) = &job.ends {
                    sink.window(window.clone())?;
                }
            }
        }
        self.give_means(&means, sink)?;
        Ok(End::Finished)
    }

    fn give_means(&self, means: &RefCell<RunningMean>, sink: &mut dyn Sink) -> Result<()> {
        let means = means.borrow();
        if means.is_empty() { Ok(()) } else { sink.means(&means) }
    }

    /// The batches of each pass over the model's weights: one, or as many as memory holds the results of where the weights
    /// are read anew in each pass.
    fn passes(&self, lengths: &[usize]) -> Result<Vec<Vec<Job>>> {
        let Options { window, ends, batch_tokens, .. } = self.options;
        let share = self.share();
        let batch_tokens = share.as_ref().map_or(batch_tokens, |share| share.batch_tokens.min(batch_tokens));
        let points = self.request.points(self.model.arch())?;
        let mut passes: Vec<Vec<Job>> = Vec::new();
        let (mut tokens, mut bytes) = (0, 0);
        for window in plan::windows(lengths.len(), window, ends) {
            let mut batches = plan::batches(lengths, window.clone(), batch_tokens).into_iter().peekable();
            while let Some(places) = batches.next() {
                let of_batch: usize = places.iter().map(|row| lengths[*row]).sum();
                let kept = match &share {
                    None => 0,
                    Some(_) => {
                        let tokens = self.tokens.of(&places);
                        size::of(self.model.arch(), &points, &tokens, &self.request.reduction).bytes
                    }
                };
                let ends = batches.peek().is_none().then(|| window.clone());
                let job = Job { places, ends };
                match (passes.last_mut(), &share) {
                    (Some(pass), Some(share))
                        if tokens + of_batch <= PASS_TOKENS && bytes + kept <= share.kept =>
                    {
                        pass.push(job);
                    }
                    _ => {
                        passes.push(vec![job]);
                        (tokens, bytes) = (0, 0);
                    }
                }
                (tokens, bytes) = (tokens + of_batch, bytes + kept);
            }
        }
        Ok(passes)
    }

    /// How memory is shared out beside the weights, where it does not hold all of them: a quarter each for a run's own
    /// buffers and for what waits between layers, and for results as much, twice while they are joined.
    fn share(&self) -> Option<Share> {
        let part = self.model.room()? / 4;
        let of_token = bytes_of_token(self.model.arch()).max(1);
        Some(Share { batch_tokens: (part / of_token).max(1) as usize, waiting: part, kept: part })
    }

    /// Runs the batches of one pass; nothing if it was stopped.
    fn pass(
        &self,
        jobs: &[Job],
        first: &mut FirstTap<'_>,
        means: &RefCell<RunningMean>,
        progress: Progress,
    ) -> Result<Option<Vec<ActivationCache>>> {
        let takes_means = self.request.reduction.examples == Examples::Mean;
        let mut batches = Vec::with_capacity(jobs.len());
        for Job { places, .. } in jobs {
            let examples: Vec<&Example> = places.iter().map(|place| &self.examples[*place]).collect();
            let ids: Vec<&[u32]> = examples.iter().map(|example| example.ids.as_slice()).collect();
            let rows: Vec<Row<'_>> = examples.iter().map(|example| example.row()).collect();
            let batch = Batch::new(&ids)?;
            let so_far = RunningMean::default();
            let capture = self.request.capture(self.model.arch(), self.tokens.of(places), so_far)?;
            let taps = (first(&batch, &rows)?, SharedMeans { capture, means, takes_means });
            batches.push((batch, taps));
        }
        let share = self.share();
        let before = (takes_means && share.is_some()).then(|| means.borrow().clone());
        let ran = match share {
            None => {
                // A batch that adds to means runs to its end: stopped half way it would leave a part of its rows in them.
                let stop = if takes_means { Stop::Never } else { self.options.stop };
                let mut all = batches.iter_mut();
                all.try_for_each(|(batch, taps)| self.model.forward_until(batch, taps, stop))
            }
            Some(share) => {
                let lanes = batches.into_iter().map(|(batch, taps)| Lane::new(self.model, batch, taps));
                let mut lanes = lanes.collect::<Result<Vec<_>>>()?;
                let folder = self.options.folder.map_or_else(std::env::temp_dir, Path::to_owned);
                let between = Between { memory: share.waiting, folder: &folder };
                let tokens: usize = lanes.iter().map(|lane| lane.batch.n_tokens()).sum();
                let ran = self.model.forward_side_by_side(
                    &mut lanes,
                    between,
                    self.options.stop,
                    &mut |done, of| {
                        // The last block is told of with the rows that are done then.
                        if let Some(tell) = self.options.progress.filter(|_| done < of) {
                            tell(Progress { tokens: progress.tokens + tokens * done / of, ..progress });
                        }
                    },
                );
                batches = lanes.into_iter().map(|lane| (lane.batch, lane.tap)).collect();
                ran
            }
        };
        match ran {
            Ok(()) => {
                let finished =
                    |(batch, (_, shared)): (Batch, (_, SharedMeans<'_>))| shared.capture.finish(&batch);
                Ok(Some(batches.into_iter().map(finished).collect()))
            }
            Err(error) if error.kind() == ErrorKind::Interrupted && self.options.stop.is_due() => {
                // Means speak of whole passes: a part of the layers has seen these rows.
                if let Some(before) = before {
                    means.replace(before);
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn numbers(&self, places: &[usize]) -> Vec<usize> {
        places.iter().map(|place| self.examples[*place].number).collect()
    }
}

/// Runs a data set and collects everything in one cache, rows in the order of the examples.
///
/// # Errors
/// As [`Extraction::new`] and [`Extraction::run`], and if it was stopped before the end.
pub fn extract(
    model: &Model,
    request: &Request,
    examples: &[Example],
    options: Options<'_>,
) -> Result<ActivationCache> {
    let mut collect = Collect::default();
    match Extraction::new(model, request, examples, options)?.run(&mut collect)? {
        End::Finished => Ok(collect.finish()?.1),
        End::Stopped => Err(Error::new(ErrorKind::Interrupted, "stopped before the last row")),
    }
}

impl Example {
    /// The row, for positions and errors.
    pub fn row(&self) -> Row<'_> {
        let text = self.text.as_ref().map(|(text, spans)| (text.as_str(), spans.as_slice()));
        Row { number: self.number, ids: &self.ids, text, n_new: self.n_new }
    }

    fn context<'a>(&'a self, shared: Context<'a>) -> Context<'a> {
        Context { pivots: self.pivots.as_deref().unwrap_or(shared.pivots), ..shared }
    }
}

impl Tokens {
    /// The tokens of a list of rows, by index.
    fn of(&self, places: &[usize]) -> Tokens {
        let some = |selection: &Selection| Selection {
            specifiers: selection.specifiers.clone(),
            rows: places.iter().map(|place| selection.rows[*place].clone()).collect::<Vec<Selected>>(),
        };
        Tokens { columns: some(&self.columns), pattern_rows: self.pattern_rows.as_ref().map(some) }
    }
}
