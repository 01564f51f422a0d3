//! The rows of a unit, in the store's form.

use std::collections::BTreeMap;
use std::ops::Range;

use easyroutine::cache::{ActivationCache, Kept, Key, Numbers};
use easyroutine::edit::Edits;
use easyroutine::extract::{Collect, End, Options, Progress};
use easyroutine::positions::{Context, Row};
use easyroutine::{Batch, Error, Tap};
use easyroutine_dictionaries::FeatureEdits;
use easyroutine_store::{Contents, Dtype, Kind, Tensor};
use serde_json::{Map, Value as Json};

use super::Filling;
use super::features::{self, Kept as KeptFeatures};
use crate::tensors::{self, Flat};

/// What was kept of some examples.
pub(super) struct Done {
    pub(super) cache: ActivationCache,
    pub(super) features: Option<features::Unit>,
}

/// Runs a range of examples; `None` if it was stopped.
pub(super) fn run(
    filling: &Filling<'_>,
    examples: Range<usize>,
    tell: &dyn Fn(Progress),
) -> Result<Option<Done>, Error> {
    let (model, context, positions) = (filling.model, filling.context, &filling.request.positions);
    let of_unit = &filling.examples[examples.clone()];
    // Which context a row has: its own pivots, where the example has some.
    let pivots: BTreeMap<usize, &[i64]> =
        of_unit.iter().filter_map(|one| Some((one.number, one.pivots.as_deref()?))).collect();
    let of_row = |row: &Row<'_>| Context {
        pivots: pivots.get(&row.number).copied().unwrap_or(context.pivots),
        ..context
    };
    let kept = KeptFeatures::default();
    let mut before = |_: &Batch, rows: &[Row<'_>]| -> Result<Box<dyn Tap + '_>, Error> {
        let edits = Edits::new(filling.interventions, model.arch(), rows, context)?;
        let Some(features) = filling.features else { return Ok(Box::new(edits)) };
        let (dictionaries, cpu) = (features.dictionaries, model.cpu());
        let changes = FeatureEdits::new(features.changes, dictionaries, cpu, rows, context)?;
        let capture = features.tap(cpu, rows, positions, &of_row, &kept)?;
        Ok(Box::new(((edits, changes), capture)))
    };
    let mut collect = Collect::default();
    let options = Options { progress: Some(tell), ..Options::default() };
    match filling.extraction(examples.clone(), options)?.run_after(&mut before, &mut collect)? {
        End::Stopped => Ok(None),
        End::Finished => {
            let gather = |features| features::Unit::new(&features, &kept, filling.examples, examples);
            let features = filling.features.map(gather).transpose()?;
            Ok(Some(Done { cache: collect.finish()?.1, features }))
        }
    }
}

/// The contents for the store. `is_rectangular` refers to the whole data set, so that all units have the same form.
pub(super) fn contents(cache: &ActivationCache, is_rectangular: bool) -> Contents<'_> {
    let tensors = cache.iter().map(|(key, kept)| tensor(key, kept, is_rectangular)).collect();
    let values = [
        ("mapping_index", cache.selection.mapping_index_by_row()),
        ("token_dict", cache.selection.token_dict()),
    ];
    let values = values.into_iter().map(|(key, map)| (key.to_owned(), Json::Object(map))).collect();
    Contents { tensors, values }
}

fn tensor<'a>(key: &Key, kept: &'a Kept, is_rectangular: bool) -> Tensor<'a> {
    let dtype = match kept.data {
        Numbers::F32(_) => Dtype::F32,
        Numbers::I64(_) => Dtype::I64,
    };
    let tensor = |shape: &[usize]| Tensor::new(key.to_string(), dtype, shape, tensors::bytes(&kept.data));
    match kept.shape().filter(|_| is_rectangular) {
        Some(shape) => tensor(&shape).dense(),
        None => {
            let flat = Flat::of(key, kept);
            let kind = if flat.is_pairwise { Kind::RaggedNd } else { Kind::Rows };
            tensor(&flat.shape).ragged(kind, flat.offsets)
        }
    }
}

/// `mapping_index` in the form of caches: a single list if all rows agree.
pub fn finish_values(values: &mut Map<String, Json>) {
    let Some(columns) = values.get_mut("mapping_index").and_then(Json::as_object_mut) else { return };
    for (_, rows) in columns {
        if let Some(rows) = rows.as_array_mut()
            && rows.windows(2).all(|w| w[0] == w[1])
            && !rows.is_empty()
        {
            let first = rows.swap_remove(0);
            *rows = first.as_array().cloned().unwrap_or_default();
        }
    }
}
