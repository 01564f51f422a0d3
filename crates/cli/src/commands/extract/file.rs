//! The file written by `extract`: activations, and the tokens that they belong to.

use std::borrow::Cow;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use easyroutine::cache::{ActivationCache, Key, Numbers};
use easyroutine::sites::{Point, Site};
use easyroutine_app::reports::dtype_name;
use easyroutine_app::tensors::Flat;
use serde_json::{Map, Value, json};

use crate::args::{Changes, Extract};
use crate::failure::Failure;
use crate::output;
use crate::session::Session;
use crate::tensors::{self, Data, Stored};

/// Largest table of positions kept in the header, where people can read it. Readers limit headers, so the tables of a
/// large data set are tensors.
const HEADER_TABLE: usize = 1 << 20;

/// The rows of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done<'a> {
    /// Their numbers in the data set.
    pub(super) rows: &'a [usize],
    /// How many rows were requested.
    pub(super) asked: usize,
    /// Whether the numbers have gaps.
    pub(super) are_numbered: bool,
}

/// Writes all activations: rows first if every row has the same T, else flat with offsets. Row numbers are written if
/// some are missing.
pub(super) fn write(
    file: &Path,
    cache: &ActivationCache,
    done: Done<'_>,
    session: &Session,
    extract: &Extract,
    chat: Option<&Value>,
    features: Vec<Stored<'static>>,
) -> Result<(), Failure> {
    let mut tensors = features;
    let is_rectangular = cache.is_rectangular();
    for (key, kept) in cache.iter() {
        let (name, numbers) = (key.to_string(), Data::from(Cow::Borrowed(&kept.data)));
        // A mean over examples belongs to no row, so no row can make it ragged.
        let is_of_rows = kept.row_shapes.len() == cache.n_rows();
        let is_pooled = *key == Key::Point(Point::model(Site::Score))
            && kept.row_shapes.first().is_some_and(|shape| shape.len() == 1);
        match kept.shape().filter(|_| is_rectangular || !is_of_rows || is_pooled) {
            Some(shape) => tensors.push(Stored { name, shape, numbers }),
            None => {
                let Flat { shape, offsets, .. } = Flat::of(key, kept);
                tensors.push(Stored { name, shape, numbers });
                tensors.push(whole_numbers(format!("{key}.offsets"), offsets));
            }
        }
    }
    let mut metadata = vec![
        ("schema", "easyroutine.extract/1".to_owned()),
        ("model", session.files.name.clone()),
        ("model_type", session.model_type.to_owned()),
        ("commit", session.files.commit.clone().unwrap_or_default()),
        ("model_digest", session.identity.digest()?.to_owned()),
        ("dtype", dtype_name(session.model.dtype()).to_owned()),
    ];
    if let Some(adapter) = session.files.adapter_name() {
        metadata.push(("adapter", adapter));
    }
    let Changes { intervene, seed, dictionaries } = &extract.changes;
    if !dictionaries.dict.is_empty() {
        metadata.push(("dictionaries", json!(dictionaries.dict).to_string()));
        for (name, values) in [("place", &dictionaries.place), ("norm_factor", &dictionaries.norm_factor)] {
            if !values.is_empty() {
                metadata.push((name, json!(values).to_string()));
            }
        }
    }
    if !intervene.is_empty() {
        metadata.push(("interventions", json!(intervene).to_string()));
    }
    if *seed != 0 {
        metadata.push(("seed", seed.to_string()));
    }
    if let Some(chat) = chat {
        metadata.push(("chat", chat.to_string()));
    }
    if let Some(count) = extract.generate {
        metadata.push(("generate", count.to_string()));
    }
    let tables = [
        ("mapping_index", Some(cache.mapping_index())),
        ("token_dict", Some(cache.token_dict())),
        ("mapping_index_rows", cache.mapping_index_rows()),
        ("token_dict_rows", cache.pattern_rows.as_ref().map(|rows| rows.token_dict())),
    ];
    for (name, table) in tables {
        let Some(table) = table else { continue };
        let text = Value::Object(table.clone()).to_string();
        if text.len() <= HEADER_TABLE {
            metadata.push((name, text));
        } else {
            tensors.extend(table_as_tensors(name, &table));
        }
    }
    let Done { rows, asked, are_numbered } = done;
    if rows.len() < asked {
        metadata.push(("interrupted", format!("{} of {asked} rows", rows.len())));
    }
    if rows.len() < asked || are_numbered {
        tensors.push(whole_numbers("rows".to_owned(), rows.iter().map(|row| *row as i64).collect()));
    }
    output::replace(file, |at| tensors::write(&mut BufWriter::new(File::create(at)?), &metadata, tensors))
}

/// A table of positions as tensors: for each specifier `NAME/SPECIFIER`, the indices of all rows concatenated, with
/// offsets if there is one list per row.
fn table_as_tensors(name: &str, table: &Map<String, Value>) -> Vec<Stored<'static>> {
    let mut tensors = Vec::new();
    let index = |value: &Value| value.as_i64().unwrap_or_default();
    for (specifier, value) in table {
        let lists = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut indices = Vec::new();
        let mut offsets = vec![0i64];
        for list in lists {
            match list.as_array() {
                Some(of_row) => indices.extend(of_row.iter().map(index)),
                None => indices.push(index(list)),
            }
            offsets.push(indices.len() as i64);
        }
        if lists.first().is_some_and(Value::is_array) {
            tensors.push(whole_numbers(format!("{name}/{specifier}.offsets"), offsets));
        }
        tensors.push(whole_numbers(format!("{name}/{specifier}"), indices));
    }
    tensors
}

fn whole_numbers(name: String, numbers: Vec<i64>) -> Stored<'static> {
    Stored { name, shape: vec![numbers.len()], numbers: Numbers::I64(numbers).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_too_large_for_a_header_is_tensors() {
        let table = json!({"last": [[3], [5]], "[0,2]": [0, 1]});
        let tensors = table_as_tensors("token_dict", table.as_object().unwrap());
        let kept = |tensor: &Stored<'static>| match &tensor.numbers {
            Data::Kept(numbers) => (tensor.name.clone(), numbers.clone().into_owned()),
            Data::Places(_) => panic!("tables are whole numbers"),
        };
        let shown: Vec<(String, Numbers)> = tensors.iter().map(kept).collect();
        let expected = [
            ("token_dict/last.offsets".to_owned(), Numbers::I64(vec![0, 1, 2])),
            ("token_dict/last".to_owned(), Numbers::I64(vec![3, 5])),
            ("token_dict/[0,2]".to_owned(), Numbers::I64(vec![0, 1])),
        ];
        assert_eq!(shown, expected);
    }
}
