//! Mean scores of edges over pairs of prompts, kept in a file from which a later run continues.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::{Duration, Instant};

use easyroutine::attribution::edges::{EdgeScorer, EdgeSums};
use easyroutine::patching::Metric;
use easyroutine::{Error, Stop};
use serde_json::Value;

use crate::files;

/// The shortest time between two writes.
const PAUSE: Duration = Duration::from_secs(5);

/// Scores pairs and adds them up.
#[derive(Debug)]
pub struct EdgeScores<'a> {
    scorer: EdgeScorer<'a>,
    sums: EdgeSums,
    /// The file of the sums, and their origin.
    kept: Option<(&'a Path, Value)>,
    written: Instant,
}

impl<'a> EdgeScores<'a> {
    /// No scores yet, or those of a file if it exists. `kept` is the file and the
    /// [origin](crate::record::edge_scores) of its sums; without one, nothing is kept.
    ///
    /// # Errors
    /// If the file is damaged, or its sums have another origin.
    pub fn open(scorer: EdgeScorer<'a>, kept: Option<(&'a Path, Value)>) -> Result<Self, Error> {
        let sums = match &kept {
            Some((file, origin)) if file.exists() => EdgeSums::read(scorer.graph(), file, origin)?,
            _ => EdgeSums::new(scorer.graph()),
        };
        Ok(EdgeScores { scorer, sums, kept, written: Instant::now() })
    }

    /// The number of pairs in the sums.
    pub fn n(&self) -> usize {
        self.sums.summed.n()
    }

    /// Adds the scores of the next pair, clean and corrupted, unless the sums include it.
    ///
    /// # Errors
    /// As [`EdgeScorer::score`]; if the pairs so far are not those that the file's sums include; if the file cannot be
    /// written.
    pub fn add(&mut self, pair: [&[u32]; 2], metric: Metric, stop: Stop<'_>) -> Result<(), Error> {
        if self.sums.has(pair, metric)? {
            return Ok(());
        }
        let found = self.scorer.score(pair[0], pair[1], metric, stop)?;
        self.sums.add(pair, metric, &found);
        if self.written.elapsed() >= PAUSE {
            self.write()?;
            self.written = Instant::now();
        }
        Ok(())
    }

    /// The mean scores once all pairs were read. The sums are kept even if reading failed.
    ///
    /// # Errors
    /// That of reading; if the file cannot be written, or its sums include more pairs than were read.
    pub fn finish<E: From<Error>>(self, read: Result<(), E>) -> Result<Vec<f64>, E> {
        self.write()?;
        read?;
        if let Some((file, _)) = &self.kept {
            self.sums.summed.finish().map_err(|e| e.at(file.display()))?;
        }
        Ok(self.sums.mean())
    }

    fn write(&self) -> Result<(), Error> {
        let Some((file, origin)) = &self.kept else { return Ok(()) };
        files::replace(file, |at| self.sums.write(origin, &mut BufWriter::new(File::create(at)?)))
    }
}
