//! Runs a data set through the model: packed batches in, rows out to a sink.

mod collect;
mod continued;
mod plan;
mod size;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::batch::Batch;
use crate::cache::{ActivationCache, Examples, RunningMean};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::positions::{Context, Row, Selected, Selection};
use crate::request::{Request, Tokens};
use crate::stop::Stop;
use crate::tap::Tap;
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
        let lengths: Vec<usize> = self.examples.iter().map(|example| example.ids.len()).collect();
        let mut progress =
            Progress { rows: 0, all_rows: lengths.len(), tokens: 0, all_tokens: lengths.iter().sum() };
        let mut means = RunningMean::default();
        let mut end = End::Finished;
        'windows: for window in plan::windows(lengths.len(), self.options.window) {
            for batch in plan::batches(&lengths, window.clone(), self.options.batch_tokens) {
                if self.options.stop.is_due() {
                    end = End::Stopped;
                    break 'windows;
                }
                match self.batch(&batch, first, &mut means) {
                    Ok(cache) => sink.rows(&self.numbers(&batch), cache)?,
                    Err(error) if error.kind() == ErrorKind::Interrupted && self.options.stop.is_due() => {
                        end = End::Stopped;
                        break 'windows;
                    }
                    Err(error) => return Err(error),
                }
                progress.rows += batch.len();
                progress.tokens += batch.iter().map(|row| lengths[*row]).sum::<usize>();
                if let Some(tell) = self.options.progress {
                    tell(progress);
                }
            }
            sink.window(window)?;
        }
        if !means.is_empty() {
            sink.means(&means)?;
        }
        Ok(end)
    }

    /// Runs one batch of examples, given by index.
    fn batch(
        &self,
        places: &[usize],
        first: &mut FirstTap<'_>,
        means: &mut RunningMean,
    ) -> Result<ActivationCache> {
        let examples: Vec<&Example> = places.iter().map(|place| &self.examples[*place]).collect();
        let ids: Vec<&[u32]> = examples.iter().map(|example| example.ids.as_slice()).collect();
        let rows: Vec<Row<'_>> = examples.iter().map(|example| example.row()).collect();
        let batch = Batch::new(&ids)?;
        // A batch that adds to means runs to its end: stopping halfway would leave part of its rows in them.
        let stop = match self.request.reduction.examples {
            Examples::Mean => Stop::Never,
            Examples::Each => self.options.stop,
        };
        let capture =
            self.request.capture(self.model.arch(), self.tokens.of(places), std::mem::take(means))?;
        let mut taps = (first(&batch, &rows)?, capture);
        self.model.forward_until(&batch, &mut taps, stop)?;
        let (_, mut capture) = taps;
        *means = capture.take_running();
        Ok(capture.finish(&batch))
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
