//! The rows of a unit, in the store's form.

use std::ops::Range;

use easyroutine::Error;
use easyroutine::cache::{ActivationCache, Kept, Key, Numbers};
use easyroutine::extract::{Collect, End, Options, Progress};
use easyroutine_store::{Contents, Dtype, Kind, Tensor};
use serde_json::{Map, Value as Json};

use super::{Filling, edits_of_batches};
use crate::tensors::{self, Flat};

/// Runs a range of examples; `None` if it was stopped.
pub(super) fn run(
    filling: &Filling<'_>,
    examples: Range<usize>,
    tell: &dyn Fn(Progress),
) -> Result<Option<ActivationCache>, Error> {
    let mut edits = edits_of_batches(filling.interventions, filling.model.arch(), filling.context);
    let mut collect = Collect::default();
    let options = Options { progress: Some(tell), ..Options::default() };
    match filling.extraction(examples, options)?.run_after(&mut edits, &mut collect)? {
        End::Finished => Ok(Some(collect.finish()?.1)),
        End::Stopped => Ok(None),
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
