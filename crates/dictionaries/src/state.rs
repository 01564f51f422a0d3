//! Statistics on disk: one safetensors file, identical bytes for identical numbers.

use std::path::Path;

use easyroutine::{Error, ErrorKind, Result};
use easyroutine_files::{Encoding, HeaderEntry, ShardedSafeTensors, safetensors_head};
use serde_json::{Map, Value, json};

use crate::statistics::{FeatureStatistics, Keeping, Occurrence, Statistics};

/// Names and types of the tensors, widest numbers first.
const TENSORS: [(&str, &str); 9] = [
    ("count", "I64"),
    ("sum", "I64"),
    ("bin_count", "I64"),
    ("max", "F32"),
    ("bin", "I32"),
    ("kept", "I32"),
    ("kept_value", "F32"),
    ("ids", "I32"),
    ("values", "F32"),
];

impl Statistics {
    /// The bytes of a file; `about` goes into its header.
    pub fn to_bytes(&self, about: &Map<String, Value>) -> Vec<u8> {
        let mut columns: [Vec<u8>; 9] = Default::default();
        let mut put = |column: usize, bytes: &[u8]| columns[column].extend_from_slice(bytes);
        for (number, feature) in self.features().iter().enumerate() {
            let FeatureStatistics { count, sum, max, histogram, top, drawn } = feature;
            put(0, &(*count as i64).to_le_bytes());
            put(1, &((sum >> 64) as i64).to_le_bytes());
            put(1, &(*sum as u64).to_le_bytes());
            put(3, &max.to_le_bytes());
            for (bin, count) in histogram {
                put(2, &(*count as i64).to_le_bytes());
                put(4, &(number as i32).to_le_bytes());
                put(4, &i32::from(*bin).to_le_bytes());
            }
            let drawn = drawn.iter().map(|(_, occurrence)| (occurrence, 0));
            for (kept, is_top) in top.iter().map(|kept| (kept, 1)).chain(drawn) {
                let row =
                    [number as u32, is_top, kept.prompt, kept.position, kept.start, kept.ids.len() as u32];
                row.iter().for_each(|x| put(5, &x.to_le_bytes()));
                put(6, &kept.value.to_le_bytes());
                kept.ids.iter().for_each(|id| put(7, &id.to_le_bytes()));
                kept.values.iter().for_each(|value| put(8, &value.to_le_bytes()));
            }
        }
        let keeping = self.keeping();
        let mut metadata = Map::new();
        metadata.insert("schema".to_owned(), json!("easyroutine.features.state/1"));
        let own = json!({
            "tokens": self.tokens(), "prompts": self.prompts(), "top": keeping.top, "drawn": keeping.drawn,
            "before": keeping.before, "after": keeping.after,
        });
        metadata.insert("statistics".to_owned(), json!(own.to_string()));
        metadata.insert("about".to_owned(), json!(Value::Object(about.clone()).to_string()));
        let shapes: Vec<Vec<usize>> = columns
            .iter()
            .zip(TENSORS)
            .map(|(column, (name, kind))| {
                let n = column.len() / if kind == "I64" { 8 } else { 4 };
                match name {
                    "sum" | "bin" => vec![n / 2, 2],
                    "kept" => vec![n / 6, 6],
                    _ => vec![n],
                }
            })
            .collect();
        let entries = TENSORS.iter().zip(&columns).zip(&shapes).map(|(((name, kind), column), shape)| {
            HeaderEntry { name, dtype: (*kind).to_owned(), shape, bytes: column.len() }
        });
        let mut file = safetensors_head(metadata, entries, 8);
        columns.iter().for_each(|column| file.extend_from_slice(column));
        file
    }

    /// Reads what [`Statistics::to_bytes`] wrote, with its header's metadata.
    ///
    /// # Errors
    /// If the file does not exist, or is not such a file.
    pub fn open(path: &Path) -> Result<(Statistics, Map<String, Value>)> {
        let wrong = |what: &str| Error::new(ErrorKind::Format, format!("{}: {what}", path.display()));
        let file = ShardedSafeTensors::open(path)?;
        let header = |key: &str| {
            let text = file.metadata().get(key)?;
            serde_json::from_str::<Map<String, Value>>(text).ok()
        };
        let own = header("statistics").ok_or_else(|| wrong("holds no statistics of features"))?;
        let about = header("about").ok_or_else(|| wrong("does not say what it is of"))?;
        let size = |key: &str| {
            let size =
                own.get(key).and_then(Value::as_u64).ok_or_else(|| wrong(&format!("`{key}` is missing")))?;
            if matches!(key, "tokens" | "prompts") || size < 1 << 20 {
                Ok(size)
            } else {
                Err(wrong("keeps too much"))
            }
        };
        let keeping = Keeping {
            top: size("top")? as usize,
            drawn: size("drawn")? as usize,
            before: size("before")? as usize,
            after: size("after")? as usize,
        };
        let column = |number: usize| {
            let (name, kind) = TENSORS[number];
            let tensor = file.tensor(name).ok_or_else(|| wrong(&format!("no tensor `{name}`")))?;
            let encoding = match kind {
                "I64" => Encoding::I64,
                "I32" => Encoding::I32,
                _ => Encoding::F32,
            };
            if tensor.encoding() == encoding {
                Ok(tensor.bytes())
            } else {
                Err(wrong(&format!("`{name}` is of another type")))
            }
        };
        let longs = |number: usize| -> Result<Vec<u64>> {
            Ok(column(number)?.as_chunks::<8>().0.iter().map(|x| u64::from_le_bytes(*x)).collect())
        };
        let words = |number: usize| -> Result<Vec<u32>> {
            Ok(column(number)?.as_chunks::<4>().0.iter().map(|x| u32::from_le_bytes(*x)).collect())
        };
        let (counts, sums, bin_counts) = (longs(0)?, longs(1)?, longs(2)?);
        let (maxima, bins, kept, kept_values) = (words(3)?, words(4)?, words(5)?, words(6)?);
        let (ids, values) = (words(7)?, words(8)?);
        let n = counts.len();
        let fits = sums.len() == 2 * n
            && maxima.len() == n
            && bins.len() == 2 * bin_counts.len()
            && kept.len() == 6 * kept_values.len()
            && ids.len() == values.len();
        if !fits {
            return Err(wrong("its tensors do not fit together"));
        }
        let mut features = vec![FeatureStatistics::default(); n];
        for (i, feature) in features.iter_mut().enumerate() {
            let sum = u128::from(sums[2 * i]) << 64 | u128::from(sums[2 * i + 1]);
            feature.set(counts[i], sum, f32::from_bits(maxima[i]));
        }
        for (bin, count) in bins.as_chunks::<2>().0.iter().zip(bin_counts) {
            let feature = features.get_mut(bin[0] as usize).ok_or_else(|| wrong("a bin of no feature"))?;
            if !u16::try_from(bin[1]).is_ok_and(|bin| feature.set_bin(bin, count)) {
                return Err(wrong("no such bin"));
            }
        }
        let mut at = 0usize;
        for (row, value) in kept.as_chunks::<6>().0.iter().zip(kept_values) {
            let [number, is_top, prompt, position, start, length] = *row;
            let end = at.checked_add(length as usize).filter(|end| *end <= ids.len());
            let end = end.ok_or_else(|| wrong("an example reaches beyond the tokens"))?;
            let feature =
                features.get_mut(number as usize).ok_or_else(|| wrong("an example of no feature"))?;
            let value = f32::from_bits(value);
            let values = values[at..end].iter().map(|x| f32::from_bits(*x)).collect();
            let occurrence =
                Occurrence { value, prompt, position, start, ids: ids[at..end].to_vec(), values };
            feature.put(number, occurrence, is_top == 1);
            at = end;
        }
        Ok((Statistics::restored(keeping, size("tokens")?, size("prompts")?, features), about))
    }
}
