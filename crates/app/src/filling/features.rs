//! Features in runs of a store: sparse, an entry for each that is not zero.
//!
//! Of each key two tensors, whose rows are the examples, end to end: `KEY.indices` has the place among the positions that are
//! kept of the example and the feature, `KEY.values` the feature's value, in the order of the indices.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use easyroutine::extract::Example;
use easyroutine::positions::{Context, Row, Selection, Specifier};
use easyroutine::{Cpu, Error};
use easyroutine_dictionaries::{Dictionaries, FeatureCapture, FeatureChange, SparseFeatures};
use easyroutine_store::{Dtype, Kind, Tensor};
use serde_json::{Map, Value, json};

/// Features that are kept beside the activations of a run, and changes of features under which it is made.
#[derive(Debug, Clone, Copy)]
pub struct Features<'a> {
    /// The dictionaries, fitted to the model.
    pub dictionaries: &'a Dictionaries,
    /// `features_NAME`, of a set `features_NAME_3` or `features_NAME_*`.
    pub keys: &'a [String],
    /// Changes of features.
    pub changes: &'a [FeatureChange],
    /// Which they are by their names: path, place and what else the caller knows of each.
    pub record: &'a Map<String, Value>,
}

/// What batches gave, by key: of each example the place and the value of each feature that is not zero.
pub(super) type Kept = Rc<RefCell<BTreeMap<String, BTreeMap<i32, Entries>>>>;

/// The features of one example.
#[derive(Debug, Default)]
pub(super) struct Entries {
    indices: Vec<[i32; 2]>,
    values: Vec<f32>,
}

impl<'a> Features<'a> {
    /// One key a layer, in the order of dictionaries and layers.
    ///
    /// # Errors
    /// No such dictionary or layer.
    pub fn each_key(&self) -> Result<Vec<String>, Error> {
        let found = self.dictionaries.each_layer(self.keys.iter().map(String::as_str))?;
        Ok(found.into_iter().map(|(dictionary, layer)| self.dictionaries.key(dictionary, layer)).collect())
    }

    /// A tap that keeps the features of the rows of a batch.
    pub(super) fn tap(
        &self,
        cpu: &Cpu,
        rows: &[Row<'_>],
        positions: &[Specifier],
        context: &dyn Fn(&Row<'_>) -> Context<'a>,
        kept: &Kept,
    ) -> Result<FeatureCapture<'a>, Error> {
        let select = |row: &Row<'_>| {
            let selection = Selection::of(positions, &[*row], context(row))?;
            Ok(selection.rows.into_iter().next().map(|row| row.indices).unwrap_or_default())
        };
        let selected = rows.iter().map(select).collect::<Result<Vec<_>, Error>>()?;
        let numbers = rows.iter().map(|row| row.number).collect();
        let kept = Rc::clone(kept);
        let give = move |key: String, sparse: SparseFeatures| {
            let mut kept = kept.borrow_mut();
            let of_key = kept.entry(key).or_default();
            for ([row, position, feature], value) in sparse.indices.into_iter().zip(sparse.values) {
                let entries = of_key.entry(row).or_default();
                entries.indices.push([position, feature]);
                entries.values.push(value);
            }
        };
        let capture = FeatureCapture::new(self.keys, self.dictionaries, cpu, selected)?;
        Ok(capture.numbered(numbers).giving(give))
    }

    /// What the numbers of a run depend on, for its plan: keys, changes, and each dictionary by its content.
    ///
    /// # Errors
    /// As [`Features::each_key`]; files of a dictionary that changed.
    pub(super) fn identity(&self) -> Result<Vec<(&'static str, Value)>, Error> {
        Ok(vec![
            ("features", json!(self.each_key()?)),
            ("feature_changes", self.written()),
            ("dictionaries", self.digests()?.into()),
        ])
    }

    /// The same as a reader of the run wants it, with what the caller knows of each dictionary.
    ///
    /// # Errors
    /// As [`Features::identity`].
    pub(super) fn described(&self) -> Result<Vec<(&'static str, Value)>, Error> {
        let mut dictionaries = self.digests()?;
        for (name, entry) in &mut dictionaries {
            let known = self.record.get(name).and_then(Value::as_object).into_iter().flatten();
            let known = known.filter(|(_, value)| !value.is_null());
            let mut fields: Map<String, Value> = known.map(|(k, v)| (k.clone(), v.clone())).collect();
            fields.insert("digest".to_owned(), entry.take());
            *entry = fields.into();
        }
        let mut said = vec![("dictionaries", dictionaries.into())];
        let mut sizes = Map::new();
        for key in self.each_key()? {
            let (dictionary, layers) = self.dictionaries.layers(&key)?;
            let within = &self.dictionaries.all()[dictionary].dictionary;
            let layer = within.layer(layers.first().copied().unwrap_or(0))?;
            sizes.insert(key, json!(layer.n_features()));
        }
        if !sizes.is_empty() {
            said.push(("features", sizes.into()));
        }
        if !self.changes.is_empty() {
            said.push(("feature_changes", self.written()));
        }
        Ok(said)
    }

    fn written(&self) -> Value {
        self.changes.iter().map(ToString::to_string).collect()
    }

    fn digests(&self) -> Result<Map<String, Value>, Error> {
        let all = self.dictionaries.all().iter();
        all.map(|named| Ok((named.name.clone(), json!(named.dictionary.digest()?)))).collect()
    }
}

/// The features of a unit as tensors that borrow from it.
pub(super) struct Unit {
    keys: Vec<OfKey>,
}

struct OfKey {
    key: String,
    offsets: Vec<i64>,
    indices: Vec<u8>,
    values: Vec<u8>,
}

impl Unit {
    /// Takes what was kept of some examples. That of others stays.
    ///
    /// # Errors
    /// As [`Features::each_key`].
    pub(super) fn new(features: &Features<'_>, kept: &Kept, examples: &[Example]) -> Result<Unit, Error> {
        let mut all = kept.borrow_mut();
        let mut keys = Vec::new();
        for key in features.each_key()? {
            let mut nothing = BTreeMap::new();
            let of_key = all.get_mut(&key).unwrap_or(&mut nothing);
            let mut found = OfKey { key, offsets: vec![0], indices: Vec::new(), values: Vec::new() };
            let mut end = 0;
            for example in examples {
                let Entries { indices, values } = of_key.remove(&(example.number as i32)).unwrap_or_default();
                end += values.len() as i64;
                found.offsets.push(end);
                found.indices.extend(indices.iter().flatten().flat_map(|x| x.to_le_bytes()));
                found.values.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            }
            keys.push(found);
        }
        Ok(Unit { keys })
    }

    pub(super) fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.keys.iter().flat_map(|OfKey { key, offsets, indices, values }| {
            let n = values.len() / size_of::<f32>();
            let ragged = |name: &str, dtype, shape: &[usize], bytes| {
                Tensor::new(format!("{key}.{name}"), dtype, shape, bytes).ragged(Kind::Rows, offsets.clone())
            };
            [
                ragged("indices", Dtype::I32, &[n, 2], &indices[..]),
                ragged("values", Dtype::F32, &[n], &values[..]),
            ]
        })
    }
}
