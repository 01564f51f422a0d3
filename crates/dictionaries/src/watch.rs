//! A tap that adds the features of a batch to statistics.

use std::cell::RefCell;
use std::rc::Rc;

use easyroutine::sites::Point;
use easyroutine::{Cpu, Result, Tap, Value, Want};
use easyroutine_kernels::Rows;

use crate::named::Dictionaries;
use crate::statistics::{Observed, Statistics};

/// Statistics that the taps of one batch after another fill: for each layer that is watched, its place among the
/// dictionaries and its numbers.
pub type Watched = Rc<RefCell<Vec<((usize, usize), Statistics)>>>;

/// One row of a batch that is watched.
#[derive(Debug, Clone)]
pub struct WatchedRow {
    /// Its number in the data set.
    pub number: u32,
    /// Its ids.
    pub ids: Vec<u32>,
    /// The positions that count, ascending.
    pub positions: Vec<usize>,
}

/// Adds the features of a batch to statistics.
#[derive(Debug)]
pub struct FeatureWatch<'d> {
    dictionaries: &'d Dictionaries,
    cpu: Cpu,
    rows: Vec<WatchedRow>,
    watched: Watched,
}

impl<'d> FeatureWatch<'d> {
    /// Watches the rows of one batch, in its order.
    pub fn new(dictionaries: &'d Dictionaries, cpu: &Cpu, rows: Vec<WatchedRow>, watched: &Watched) -> Self {
        FeatureWatch { dictionaries, cpu: cpu.clone(), rows, watched: Rc::clone(watched) }
    }
}

impl Tap for FeatureWatch<'_> {
    fn wants(&self, point: Point) -> Want {
        let reads = |((d, layer), _): &((usize, usize), Statistics)| {
            self.dictionaries.all()[*d].fits[*layer].reads == point
        };
        if self.watched.borrow().iter().any(reads) { Want::Read } else { Want::Nothing }
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        for ((dictionary, layer), statistics) in self.watched.borrow_mut().iter_mut() {
            let named = &self.dictionaries.all()[*dictionary];
            if named.fits[*layer].reads != point {
                continue;
            }
            let coder = named.dictionary.layer(*layer)?;
            let mut x = Vec::new();
            for (row, watched) in self.rows.iter().enumerate() {
                for position in &watched.positions {
                    x.extend_from_slice(value.vector(row, *position).unwrap_or_default());
                }
            }
            let n = self.rows.iter().map(|row| row.positions.len()).sum();
            let features = coder.encode(&self.cpu, Rows::dense(&x, n, coder.d_in()))?;
            named.dictionary.check_unchanged()?;
            let mut first = 0;
            for row in &self.rows {
                let (prompt, ids, positions) = (row.number, row.ids.as_slice(), row.positions.as_slice());
                statistics.add(Observed { prompt, ids, positions, features: &features, first });
                first += positions.len();
            }
        }
        Ok(())
    }
}
