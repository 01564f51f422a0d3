//! Sums of scores on disk, from which a run over a data set of pairs continues.

use std::io::Write;
use std::path::Path;

use easyroutine_files::{Encoding, HeaderEntry};
use serde_json::Value;

use super::{EdgeSums, Graph};
use crate::error::{Error, ErrorKind, Result};
use crate::summed::SumsFile;

const FILE: SumsFile =
    SumsFile { key: "easyroutine.edges", schema: "easyroutine.edge_sums/2", of: "edges", items: "pairs" };

impl EdgeSums {
    /// Writes the exact sums. `settings` describes their origin, and is compared on reading.
    ///
    /// # Errors
    /// The writer's errors.
    pub fn write(&self, settings: &Value, out: &mut impl Write) -> std::io::Result<()> {
        let shapes = [vec![self.scores.len()], vec![2]];
        let entries = [("scores", &shapes[0]), ("metrics", &shapes[1])].map(|(name, shape)| HeaderEntry {
            name,
            dtype: "F64".to_owned(),
            shape,
            bytes: shape[0] * 8,
        });
        out.write_all(&FILE.head(&self.summed, settings, entries))?;
        let bytes: Vec<u8> = self.scores.iter().chain(&self.metrics).flat_map(|x| x.to_le_bytes()).collect();
        out.write_all(&bytes)?;
        out.flush()
    }

    /// Reads sums of a graph.
    ///
    /// # Errors
    /// If the file is missing, damaged, or its sums do not have the origin `settings`.
    pub fn read(graph: &Graph, file: &Path, settings: &Value) -> Result<Self> {
        let wrong = |what: &str| Error::new(ErrorKind::Format, what.to_owned()).at(file.display());
        let (opened, summed) = FILE.open(file, settings)?;
        let doubles = |name: &str, n: usize| -> Result<Vec<f64>> {
            let tensor = opened.tensor(name).filter(|t| t.encoding() == Encoding::F64 && t.shape() == [n]);
            let tensor = tensor.ok_or_else(|| wrong("its sums are not those of this model"))?;
            let number = |b: &[u8]| b.try_into().map_or(f64::NAN, f64::from_le_bytes);
            Ok(tensor.bytes().chunks_exact(8).map(number).collect())
        };
        let scores = doubles("scores", graph.n_writers() * graph.n_readers())?;
        let metrics = doubles("metrics", 2)?;
        Ok(EdgeSums { scores, metrics: [metrics[0], metrics[1]], summed })
    }
}
