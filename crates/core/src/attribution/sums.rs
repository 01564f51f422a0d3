//! Scores of many pairs, summed in order, and kept on disk to resume from.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use easyroutine_files::{Encoding, HeaderEntry};
use easyroutine_sites::Point;
use serde_json::Value;

use super::Attribution;
use super::scores::cells_of;
use crate::error::{Error, ErrorKind, Result};
use crate::patching::Metric;
use crate::summed::{Summed, SumsFile};

const FILE: SumsFile = SumsFile {
    key: "easyroutine.attribution",
    schema: "easyroutine.attribution_sums/1",
    of: "attribution",
    items: "pairs",
};
const METRICS: &str = "metrics";

/// Scores of many pairs, each summed over its positions.
#[derive(Debug, Clone, PartialEq)]
pub struct AttributionSums {
    cells: BTreeMap<Point, Cells>,
    /// Sums of the metric of the targets and of the bases.
    metrics: [f64; 2],
    summed: Summed,
}

/// Sums of one activation.
#[derive(Debug, Clone, PartialEq)]
struct Cells {
    values: Vec<f64>,
    /// Whether there is one for each head or neuron.
    has_parts: bool,
}

impl Default for AttributionSums {
    fn default() -> Self {
        AttributionSums { cells: BTreeMap::new(), metrics: [0.0; 2], summed: Summed::of(FILE.items) }
    }
}

impl AttributionSums {
    /// The pairs in the sums.
    pub fn summed(&self) -> &Summed {
        &self.summed
    }

    /// Passes the next pair of a data set, clean and corrupted, and says whether the sums include it.
    ///
    /// # Errors
    /// As [`Summed::has`].
    pub fn has(&mut self, [clean, corrupted]: [&[u32]; 2], metric: Metric) -> Result<bool> {
        self.summed.has(&[clean, corrupted], &format!("{metric:?}"))
    }

    /// Adds the scores of a pair, the first row of `found`. A token that several positions name counts once.
    pub fn add(&mut self, [clean, corrupted]: [&[u32]; 2], metric: Metric, found: &Attribution) {
        let distinct = found.selection.rows[0].distinct();
        for (point, kept) in &found.scores {
            // Cells of a pattern are at other positions in every pair.
            let is_pairwise = point.site().is_pairwise();
            let parts = kept.row_shapes[0].get(1).copied().filter(|_| !is_pairwise);
            let new = || Cells { values: vec![0.0; parts.unwrap_or(1)], has_parts: parts.is_some() };
            let cells = self.cells.entry(*point).or_insert_with(new);
            for (_, part, value) in cells_of(kept, 0, &distinct, is_pairwise) {
                cells.values[part.filter(|_| !is_pairwise).unwrap_or(0)] += f64::from(value);
            }
        }
        self.metrics[0] += found.target[0];
        self.metrics[1] += found.base[0];
        self.summed.add(&[clean, corrupted], &format!("{metric:?}"));
    }

    /// The mean over pairs of each activation, or of each of its heads or neurons.
    pub fn means(&self) -> Vec<((Point, Option<usize>), f64)> {
        let n = self.summed.n().max(1) as f64;
        let of = |(point, cells): (&Point, &Cells)| {
            let (point, has_parts) = (*point, cells.has_parts);
            let values = cells.values.iter().enumerate();
            values.map(move |(at, sum)| ((point, has_parts.then_some(at)), sum / n)).collect::<Vec<_>>()
        };
        self.cells.iter().flat_map(of).collect()
    }

    /// The mean metric of the targets and of the bases.
    pub fn metrics(&self) -> [f64; 2] {
        self.metrics.map(|sum| sum / self.summed.n().max(1) as f64)
    }

    /// Writes the sums, exactly. `told` describes their origin; [`Self::read`] compares it.
    ///
    /// # Errors
    /// The writer's errors.
    pub fn write(&self, told: &Value, out: &mut impl Write) -> std::io::Result<()> {
        let names: Vec<String> = self.cells.keys().map(Point::to_string).collect();
        let own = names.iter().map(String::as_str).zip(self.cells.values());
        let own = own.map(|(name, cells)| (name, cells.values.as_slice(), cells.has_parts));
        let all: Vec<(&str, &[f64], bool)> = own.chain([(METRICS, &self.metrics[..], true)]).collect();
        let lengths: Vec<[usize; 1]> = all.iter().map(|(_, values, _)| [values.len()]).collect();
        let entries = all.iter().zip(&lengths).map(|((name, values, has_parts), length)| HeaderEntry {
            name,
            dtype: "F64".to_owned(),
            shape: if *has_parts { &length[..] } else { &[] },
            bytes: size_of_val(*values),
        });
        out.write_all(&FILE.head(&self.summed, told, entries))?;
        for (_, values, _) in &all {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
        out.flush()
    }

    /// Reads sums.
    ///
    /// # Errors
    /// If the file is missing or damaged, or holds sums of another origin than `told`.
    pub fn read(file: &Path, told: &Value) -> Result<Self> {
        let at = |e: Error| e.at(file.display());
        let wrong = |what: &str| at(Error::new(ErrorKind::Format, what.to_owned()));
        let (opened, summed) = FILE.open(file, told)?;
        let (mut cells, mut metrics) = (BTreeMap::new(), None);
        for name in opened.names() {
            let Some(tensor) = opened.tensor(name) else { continue };
            let has_parts = match (tensor.encoding(), tensor.shape()) {
                (Encoding::F64, []) => false,
                (Encoding::F64, [_]) => true,
                _ => return Err(wrong(&format!("its tensor `{name}` is no list of sums"))),
            };
            let number = |b: &[u8; 8]| f64::from_le_bytes(*b);
            let values: Vec<f64> = tensor.bytes().as_chunks::<8>().0.iter().map(number).collect();
            if name == METRICS {
                metrics = <[f64; 2]>::try_from(values).ok();
                continue;
            }
            let point: Point = name.parse().map_err(|e| at(Error::from(e)))?;
            cells.insert(point, Cells { values, has_parts });
        }
        opened.files().try_for_each(|file| file.check_unchanged())?;
        let metrics = metrics.ok_or_else(|| wrong("its two metrics are missing"))?;
        Ok(AttributionSums { cells, metrics, summed })
    }
}
