//! The sink that keeps everything in memory.

use super::Sink;
use crate::cache::{ActivationCache, Aggregations, Batches, Key, RunningMean};
use crate::error::Result;

/// Collects all rows, in the order of the data set.
#[derive(Debug, Default)]
pub struct Collect {
    batches: Batches,
    numbers: Vec<usize>,
    means: RunningMean,
}

impl Collect {
    /// A collector with other aggregation strategies.
    pub fn with(aggregations: Aggregations) -> Self {
        Collect { batches: Batches::new(aggregations), ..Collect::default() }
    }

    /// The numbers of the collected rows, ascending, and their activations in that order.
    ///
    /// # Errors
    /// As [`Batches::finish`].
    pub fn finish(self) -> Result<(Vec<usize>, ActivationCache)> {
        let mut order: Vec<usize> = (0..self.numbers.len()).collect();
        order.sort_by_key(|row| self.numbers[*row]);
        let joined = self.batches.finish()?;
        let is_sorted = self.numbers.is_sorted();
        let mut cache = if is_sorted { joined } else { joined.in_order(&order)? };
        for (point, mean) in self.means.means() {
            cache.insert(Key::Mean(point), mean);
        }
        Ok((order.iter().map(|row| self.numbers[*row]).collect(), cache))
    }
}

impl Sink for Collect {
    fn rows(&mut self, numbers: &[usize], cache: ActivationCache) -> Result<()> {
        self.numbers.extend_from_slice(numbers);
        self.batches.push(cache)
    }

    fn means(&mut self, means: &RunningMean) -> Result<()> {
        self.means = means.clone();
        Ok(())
    }
}
