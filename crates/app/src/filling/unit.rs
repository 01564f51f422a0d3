//! The rows of a unit, in the store's form.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use easyroutine::cache::{ActivationCache, Kept, Key, Numbers, RunningMean};
use easyroutine::edit::Edits;
use easyroutine::extract::{Collect, End, Options, Progress, Sink};
use easyroutine::positions::{Context, Row};
use easyroutine::{Batch, Error, ErrorKind, Tap};
use easyroutine_dictionaries::FeatureEdits;
use easyroutine_store::{Contents, Dtype, Kind, Tensor};
use serde_json::{Map, Value as Json};

use super::features::{self, Kept as KeptFeatures};
use super::{Filling, Units as OpenUnits, fields};
use crate::tensors::{self, Flat};

/// Runs consecutive units into a sink that adds each to the store.
pub(super) fn run(
    filling: &Filling<'_>,
    units: &mut Units<'_, '_>,
    tell: &dyn Fn(Progress),
) -> Result<End, Error> {
    let (Some(first), Some(last)) = (units.units.first(), units.units.last()) else {
        return Ok(End::Finished);
    };
    let start = units.open.examples(*first).start;
    let ends: Vec<usize> = units.units.iter().map(|unit| units.open.examples(*unit).end - start).collect();
    let examples = start..units.open.examples(*last).end;
    let (model, context, positions) = (filling.model, filling.context, &filling.request.positions);
    // Which context a row has: its own pivots, where the example has some.
    let pivots: BTreeMap<usize, &[i64]> = filling.examples[examples.clone()]
        .iter()
        .filter_map(|one| Some((one.number, one.pivots.as_deref()?)))
        .collect();
    let of_row = |row: &Row<'_>| Context {
        pivots: pivots.get(&row.number).copied().unwrap_or(context.pivots),
        ..context
    };
    let kept = Rc::clone(&units.features);
    let mut before = |_: &Batch, rows: &[Row<'_>]| -> Result<Box<dyn Tap + '_>, Error> {
        let edits = Edits::new(filling.interventions, model.arch(), rows, context)?;
        let Some(features) = filling.features else { return Ok(Box::new(edits)) };
        let (dictionaries, cpu) = (features.dictionaries, model.cpu());
        let changes = FeatureEdits::new(features.changes, dictionaries, cpu, rows, context)?;
        let capture = features.tap(cpu, rows, positions, &of_row, &kept)?;
        Ok(Box::new(((edits, changes), capture)))
    };
    let options = Options { progress: Some(tell), ends: Some(&ends), ..Options::default() };
    filling.extraction(examples, options)?.run_after(&mut before, units)
}

/// Units that follow each other, on their way into a run.
pub(super) struct Units<'a, 'b> {
    filling: &'a Filling<'b>,
    open: &'a OpenUnits,
    units: &'a [usize],
    done: usize,
    collect: Collect,
    /// Features of the units that are not in the store yet.
    features: KeptFeatures,
    on_nan: &'a mut Option<&'b dyn Fn()>,
    failure: Option<easyroutine_store::Error>,
}

impl<'a, 'b> Units<'a, 'b> {
    pub(super) fn new(
        filling: &'a Filling<'b>,
        open: &'a OpenUnits,
        units: &'a [usize],
        on_nan: &'a mut Option<&'b dyn Fn()>,
    ) -> Self {
        let (collect, features) = (Collect::default(), KeptFeatures::default());
        Units { filling, open, units, done: 0, collect, features, on_nan, failure: None }
    }

    /// What went wrong in the store, if that ended the run.
    pub(super) fn failure(self) -> Option<easyroutine_store::Error> {
        self.failure
    }
}

impl Sink for Units<'_, '_> {
    fn rows(&mut self, numbers: &[usize], cache: ActivationCache) -> Result<(), Error> {
        self.collect.rows(numbers, cache)
    }

    fn window(&mut self, _: Range<usize>) -> Result<(), Error> {
        let unit = self.units[self.done];
        self.done += 1;
        let cache = std::mem::take(&mut self.collect).finish()?.1;
        if let Some(tell) = self.on_nan.take_if(|_| cache.has_nan()) {
            tell();
        }
        let Filling { examples, fields, features, .. } = self.filling;
        let range = self.open.examples(unit);
        let gather = |features| features::Unit::new(features, &self.features, &examples[range.clone()]);
        let features = features.as_ref().map(gather).transpose()?;
        let mut contents = contents(&cache, self.open.is_rectangular);
        contents.tensors.extend(features.iter().flat_map(features::Unit::tensors));
        contents.values.extend(fields::of_rows(fields, range));
        self.open.run.put(unit, &contents).map_err(|error| {
            let text = Error::new(ErrorKind::Io, error.to_string());
            self.failure = Some(error);
            text
        })
    }

    fn means(&mut self, _: &RunningMean) -> Result<(), Error> {
        Ok(())
    }
}

/// The contents for the store. `is_rectangular` refers to the whole data set, so that all units have the same form.
fn contents(cache: &ActivationCache, is_rectangular: bool) -> Contents<'_> {
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
