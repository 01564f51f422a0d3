//! `-a features_NAME`: sparse features in addition to activations.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use easyroutine::cache::Numbers;
use easyroutine::extract::Example;
use easyroutine::positions::{Context, Row, Selection};
use easyroutine::request::Request;
use easyroutine_dictionaries::{Dictionaries, FeatureCapture, SparseFeatures};

use crate::args::Extract;
use crate::changes::Given;
use crate::failure::Failure;
use crate::session::Session;
use crate::tensors::{Data, Stored};

/// Kept features by key; one piece per batch, whose rows have data set numbers.
type Kept = Rc<RefCell<BTreeMap<String, Vec<SparseFeatures>>>>;

/// The features to keep of a data set.
pub(super) struct Wanted<'a> {
    keys: &'a [String],
    dictionaries: &'a Dictionaries,
    session: &'a Session,
    request: &'a Request,
    context: Context<'a>,
    examples: &'a [Example],
    kept: Kept,
}

/// Refuses flags that cannot be combined with features.
///
/// # Errors
/// If a feature key has no dictionary, or means are requested.
pub(super) fn check(keys: &[String], given: &Given, extract: &Extract) -> Result<(), Failure> {
    if keys.is_empty() {
        return Ok(());
    }
    if given.dictionaries.is_empty() {
        return Err(Failure::usage(format!("-a {}: no dictionary is given", keys.join(",")))
            .hint("name one: --dict NAME=PATH; its features are features_NAME"));
    }
    if extract.avg {
        return Err(Failure::usage("--avg: features are kept of each token, and have no mean"));
    }
    Ok(())
}

impl<'a> Wanted<'a> {
    pub(super) fn new(
        keys: &'a [String],
        given: &'a Given,
        session: &'a Session,
        request: &'a Request,
        examples: &'a [Example],
        context: Context<'a>,
    ) -> Result<Wanted<'a>, Failure> {
        let dictionaries = given.dictionaries.fitted(session)?;
        let wanted =
            Wanted { keys, dictionaries, session, request, context, examples, kept: Kept::default() };
        // Report a wrong key before the run.
        wanted.tap(&[])?;
        Ok(wanted)
    }

    /// The tap that keeps the features of a batch.
    pub(super) fn tap(&self, rows: &[Row<'_>]) -> easyroutine::Result<FeatureCapture<'a>> {
        let context = |row: &Row<'_>| {
            // An example's number is its index here (`rows::examples`).
            let pivots = self.examples.get(row.number).and_then(|example| example.pivots.as_deref());
            Context { pivots: pivots.unwrap_or(self.context.pivots), ..self.context }
        };
        let select = |row: &Row<'_>| {
            let selection = Selection::of(&self.request.positions, &[*row], context(row))?;
            Ok(selection.rows.into_iter().next().map(|row| row.indices).unwrap_or_default())
        };
        let positions = rows.iter().map(select).collect::<easyroutine::Result<Vec<_>>>()?;
        let numbers = rows.iter().map(|row| row.number).collect();
        let kept = Rc::clone(&self.kept);
        let capture = FeatureCapture::new(self.keys, self.dictionaries, self.session.model.cpu(), positions)?;
        Ok(capture
            .numbered(numbers)
            .giving(move |key, sparse| kept.borrow_mut().entry(key).or_default().push(sparse)))
    }

    /// Three tensors per key, for rows with these numbers: `KEY.indices` (row, position, feature), `KEY.values`,
    /// `KEY.shape`.
    pub(super) fn finish(&self, numbers: &[usize]) -> Vec<Stored<'static>> {
        let places: BTreeMap<i32, i32> =
            numbers.iter().enumerate().map(|(place, number)| (*number as i32, place as i32)).collect();
        let mut tensors = Vec::new();
        for (key, pieces) in self.kept.take() {
            let mut entries: Vec<([i32; 3], f32)> = Vec::new();
            let mut shape = [numbers.len() as i64, 0, 0];
            for piece in pieces {
                shape = [shape[0], shape[1].max(piece.shape[1]), piece.shape[2]];
                let entry = |([row, position, feature], value): ([i32; 3], f32)| {
                    // Rows of a batch that was stopped halfway are not written.
                    Some(([*places.get(&row)?, position, feature], value))
                };
                entries.extend(piece.indices.into_iter().zip(piece.values).filter_map(entry));
            }
            entries.sort_by_key(|(place, _)| *place);
            let n = entries.len();
            let indices = entries.iter().flat_map(|(place, _)| *place).collect();
            let values = entries.iter().map(|(_, value)| *value).collect();
            let stored = |part: &str, shape: Vec<usize>, numbers: Data<'static>| Stored {
                name: format!("{key}.{part}"),
                shape,
                numbers,
            };
            tensors.push(stored("indices", vec![n, 3], Data::Places(indices)));
            tensors.push(stored("values", vec![n], Numbers::F32(values).into()));
            tensors.push(stored("shape", vec![3], Numbers::I64(shape.to_vec()).into()));
        }
        tensors
    }
}
