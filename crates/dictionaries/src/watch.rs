//! A tap that adds a batch's features to statistics.

use std::cell::RefCell;
use std::rc::Rc;

use easyroutine::sites::Point;
use easyroutine::{Cpu, Result, Tap, Value, Want};
use easyroutine_kernels::Rows;

use crate::named::Dictionaries;
use crate::statistics::{Observed, Statistics};

/// Statistics filled by the taps of one batch after another: for each watched layer, its dictionary's index and its
/// number.
pub type Watched = Rc<RefCell<Vec<((usize, usize), Statistics)>>>;

/// One watched row of a batch.
#[derive(Debug, Clone)]
pub struct WatchedRow {
    /// Its number in the data set.
    pub number: u32,
    /// Its ids.
    pub ids: Vec<u32>,
    /// The counted positions, ascending.
    pub positions: Vec<usize>,
}

/// Adds a batch's features to statistics.
#[derive(Debug)]
pub struct FeatureWatch<'d> {
    dictionaries: &'d Dictionaries,
    cpu: Cpu,
    rows: Vec<WatchedRow>,
    watched: Watched,
}

impl<'d> FeatureWatch<'d> {
    /// Watches the rows of one batch, in order.
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
