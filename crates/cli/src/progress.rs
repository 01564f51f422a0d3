//! Progress of a long run, and interruption by the user.

use std::cell::Cell;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use easyroutine::extract::Progress;
use easyroutine::sites::{Point, Site};
use easyroutine::{Error, Model, Tap, Value, Want};
use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;
use crate::hosted::{self, Event};
use crate::output;

/// Becomes true on the first Ctrl-C, so that finished work can be kept; the second ends the program at once.
///
/// # Errors
/// If the system refuses to handle the signal.
pub(crate) fn interrupted() -> Result<Arc<AtomicBool>, Failure> {
    use signal_hook::consts::SIGINT;
    use signal_hook::flag;
    let interrupted = Arc::new(AtomicBool::new(false));
    // In this order: on the first signal the shutdown is not armed yet.
    flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&interrupted))
        .and_then(|_| flag::register(SIGINT, Arc::clone(&interrupted)))
        .map_err(|e| Failure::failed(format!("cannot watch for Ctrl-C: {e}")))?;
    Ok(interrupted)
}

/// The same, also when another program ends this one or its terminal closes, so that nothing is left behind.
///
/// # Errors
/// If the system refuses to handle the signals.
pub(crate) fn stopped() -> Result<Arc<AtomicBool>, Failure> {
    let stopped = interrupted()?;
    #[cfg(unix)]
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stopped))
            .map_err(|e| Failure::failed(format!("cannot watch for the end: {e}")))?;
    }
    Ok(stopped)
}

/// A progress bar for rows, with rate and remaining time, on a terminal.
#[derive(Debug)]
pub(crate) struct Rows {
    bar: ProgressBar,
    /// When it began, where it is still to be said how long it will take.
    silent_since: Cell<Option<Instant>>,
}

impl Rows {
    /// Of a model that is read layer by layer it is said how long all rows will take, once that can be seen.
    pub(crate) fn new(model: &Model) -> Self {
        let silent_since = Cell::new(model.is_by_layer().then(Instant::now));
        if !std::io::stderr().is_terminal() {
            return Rows { bar: ProgressBar::hidden(), silent_since };
        }
        let bar = ProgressBar::new(0);
        // Rows differ in length, and time depends on tokens.
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {per_sec} tokens, {eta} left") {
            bar.set_style(style);
        }
        Rows { bar, silent_since }
    }

    pub(crate) fn tell(&self, progress: Progress) {
        if let Some(began) = self.silent_since.take().filter(|_| progress.tokens > 0) {
            let seconds = began.elapsed().as_secs_f64() * progress.all_tokens as f64 / progress.tokens as f64;
            if seconds >= WORTH_SAYING {
                let rows = progress.all_rows;
                let text = format!("layer by layer, {rows} rows take about {}", duration(seconds));
                self.bar.suspend(|| output::note("note", &text));
            }
        }
        self.bar.set_length(progress.all_tokens as u64);
        self.bar.set_message(format!("{}/{} rows", progress.rows, progress.all_rows));
        self.bar.set_position(progress.tokens as u64);
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Seconds from which a run is long.
const WORTH_SAYING: f64 = 10.0;

/// Seconds in words.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        ..60.0 => format!("{seconds:.1} s"),
        ..3600.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.1} h", seconds / 3600.0),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

/// A tap that says, of a model that is read layer by layer, how long one run takes, once that can be seen.
#[derive(Debug)]
pub(crate) struct Layers {
    /// When the run began, where it is still to be said.
    silent_since: Option<Instant>,
    n_layers: usize,
}

impl Layers {
    /// Time starts now.
    pub(crate) fn new(model: &Model) -> Self {
        let silent_since = model.is_by_layer().then(Instant::now);
        Layers { silent_since, n_layers: model.arch().layers.len() }
    }
}

impl Tap for Layers {
    fn wants(&self, point: Point) -> Want {
        // In the last block a run may go on with some tokens alone.
        let is_early = || point.layer().is_some_and(|layer| layer + 1 < self.n_layers);
        match self.silent_since {
            Some(_) if point.site() == Site::ResidOut && is_early() => Want::Read,
            _ => Want::Nothing,
        }
    }

    fn at(&mut self, point: Point, _: &mut Value<'_>) -> easyroutine::Result<()> {
        if let (Some(began), Some(layer)) = (self.silent_since, point.layer())
            && let Some(seconds) = foreseen(began.elapsed().as_secs_f64(), layer + 1, self.n_layers)
        {
            self.silent_since = None;
            if seconds >= WORTH_SAYING {
                output::note(
                    "note",
                    &format!("layer by layer, the prompt takes about {}", duration(seconds)),
                );
            }
        }
        Ok(())
    }
}

/// Seconds of a whole run, from those of its first layers: once a second has passed, or a quarter of the layers.
fn foreseen(seconds: f64, layers: usize, of: usize) -> Option<f64> {
    (seconds >= 1.0 || 4 * layers >= of).then_some(seconds * of as f64 / layers as f64)
}

/// A progress bar for equal pieces of work, with the remaining time, on a terminal.
#[derive(Debug)]
pub(crate) struct Counted {
    bar: ProgressBar,
    what: String,
}

impl Counted {
    /// `what` names the pieces, in the plural.
    pub(crate) fn new(what: &str) -> Self {
        if !std::io::stderr().is_terminal() || hosted::is_hosted() {
            return Counted { bar: ProgressBar::hidden(), what: what.to_owned() };
        }
        let bar = ProgressBar::new(0);
        let template = format!("{{msg}} {{wide_bar}} {{pos}}/{{len}} {what}, {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        Counted { bar, what: what.to_owned() }
    }

    /// # Errors
    /// If the result is no longer awaited.
    pub(crate) fn tell(&self, done: usize, of: usize) -> Result<(), Error> {
        self.bar.set_length(of as u64);
        self.bar.set_position(done as u64);
        hosted::say(Event::Progress { done, of, what: &self.what });
        hosted::check()
    }

    /// Prints a message above the bar.
    pub(crate) fn say(&self, text: String) {
        self.bar.set_message(text);
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::foreseen;

    #[test]
    fn the_time_of_a_run_is_that_of_its_layers() {
        assert_eq!(foreseen(0.2, 1, 32), None);
        assert_eq!(foreseen(2.0, 1, 32), Some(64.0));
        assert_eq!(foreseen(0.5, 8, 32), Some(2.0));
    }
}
