//! Changing what the model computes: interventions as plain data, and the tap that applies them.
//!
//! An [`Intervention`] says which activation is changed, in which part, and how. [`Edits`] are interventions checked
//! against a model and its rows. As a tap before a capture, `(edits, capture)`, their effects show in the captured
//! values.

mod apply;
mod back;
mod check;
mod places;
mod spec;
mod tensor;

use easyroutine_sites::{Selector, Slice, nearest};

use crate::error::{Error, Result};
use crate::positions::Specifier;

pub(crate) use check::RowAction;
pub use check::{Edits, check_access};
pub use spec::{Reference, activation};
pub use tensor::Tensor;

/// One change to what a model computes. `V` is the type of given values: numbers, or, before they are read, the
/// [`Reference`] that names them.
#[derive(Debug, Clone, PartialEq)]
pub struct Intervention<V = Tensor> {
    /// The activations.
    pub activation: Selector,
    /// The changed entries of their vectors; empty means all. Written after the activation: `router_logits_1[3]`.
    pub entries: Vec<Slice>,
    /// The changed part of each.
    pub part: Part,
    /// The change to that part.
    pub operation: Operation<V>,
}

impl<V> Intervention<V> {
    /// What it changes, as written before the `@`: `mlp_hidden_5[12,40:50]`.
    pub fn key(&self) -> String {
        let entry = |slice: &Slice| match slice.single() {
            Some(number) => number.to_string(),
            None => slice.to_string(),
        };
        match self.entries.as_slice() {
            [] => self.activation.to_string(),
            some => {
                format!("{}[{}]", self.activation, some.iter().map(entry).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl Intervention {
    /// Whether its effect on a row depends on the row's index in a batch: such rows cannot run in other batches.
    pub fn speaks_of_rows(&self) -> bool {
        match &self.operation {
            Operation::Resample { .. } => true,
            Operation::Replace(values) => values.shape().len() > 2 && values.shape()[0] > 1,
            _ => false,
        }
    }
}

/// The part of an activation that changes.
///
/// Positions refer to the prompt, also during generation; `all` includes generated tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Whole vectors at positions, for any activation except scores and patterns.
    Full(Vec<Specifier>),
    /// Of a pattern: from every query to these keys.
    Columns(Vec<Specifier>, Softmax),
    /// Of a pattern: from these queries to every key.
    Rows(Vec<Specifier>, Softmax),
    /// Of a pattern: from these queries to these keys.
    Grid {
        /// The queries.
        rows: Vec<Specifier>,
        /// The keys.
        columns: Vec<Specifier>,
        /// When the change happens.
        softmax: Softmax,
    },
    /// Of a pattern: from these queries to every key except their own, which is removed.
    KeepSelf(Vec<Specifier>, Softmax),
}

/// When a pattern is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Softmax {
    /// Changes the scores. A factor of 0 means minus infinity there: an exact knock-out, after which the rest of the
    /// row sums to 1. A row left without any key becomes zeros.
    Before,
    /// Changes the weights, without normalising again.
    After,
    /// Changes the weights, then divides the changed rows by their sums.
    AfterRescaled,
}

/// The change to a part. Keys that the model hides stay hidden under any change.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation<V = Tensor> {
    /// Multiplies by a factor; 0 is an ablation.
    Scale(f32),
    /// Sets every value to this number. Minus infinity knocks out scores, and is allowed only there.
    Set(f32),
    /// Replaces the part; values broadcast to the slice `[B, T, ...]`, or for patterns to the slice or `[B, S, S]`.
    Replace(V),
    /// Puts the mean of these vectors, over all axes except the last, at every position.
    Mean(V),
    /// Adds values times a factor: steering.
    Add {
        /// The factor.
        factor: f32,
        /// The values.
        values: V,
    },
    /// Takes the values at the same places of another row of the batch.
    Resample {
        /// That row.
        row: usize,
    },
}

/// Names of the parts outside Rust.
const TYPES: [&str; 8] = [
    "full",
    "columns",
    "rows",
    "grid",
    "columns_pre_softmax",
    "rows_pre_softmax",
    "grid_pre_softmax",
    "keep-self-attn",
];

impl Part {
    /// The part for a type's name: `full`, `columns`, `rows`, `grid`, `columns_pre_softmax`, `rows_pre_softmax`,
    /// `grid_pre_softmax`, `keep-self-attn`. `columns` are the keys of a grid, and only a grid has them. `rescaled`
    /// says whether rows changed after the softmax are divided by their sums.
    ///
    /// # Errors
    /// If the name is unknown (the error gives the nearest), keys are given without a grid or a grid without keys, or
    /// rescaling is requested before the softmax.
    pub fn of_type(
        name: &str,
        positions: Vec<Specifier>,
        columns: Option<Vec<Specifier>>,
        rescaled: Rescaled,
    ) -> Result<Part> {
        if name.starts_with("block-img-") {
            return Err(Error::input(format!("type `{name}` is for vision models, which are not built")));
        }
        if !TYPES.contains(&name) {
            let shown: String = name.chars().take(60).flat_map(char::escape_debug).collect();
            let error = Error::input(match nearest(name, TYPES) {
                Some(near) => format!("no type of intervention `{shown}`; did you mean `{near}`?"),
                None => format!("no type of intervention `{shown}`"),
            });
            return Err(error.hint(format!("types are: {}", TYPES.join(", "))));
        }
        let softmax = match (name.ends_with("_pre_softmax"), rescaled) {
            (false, Rescaled::No) => Softmax::After,
            (false, Rescaled::Yes) => Softmax::AfterRescaled,
            (true, Rescaled::No) => Softmax::Before,
            (true, Rescaled::Yes) => {
                return Err(Error::input(format!(
                    "type `{name}` changes scores, and the softmax that follows makes each row sum to 1: \
                     rescaling is for changes after it"
                )));
            }
        };
        match (name.trim_end_matches("_pre_softmax"), columns) {
            ("grid", Some(columns)) => Ok(Part::Grid { rows: positions, columns, softmax }),
            ("grid", None) => Err(Error::input("a grid needs two lists of positions: queries and keys")),
            (_, Some(_)) => {
                Err(Error::input(format!("type `{name}` takes one list of positions; a grid takes two")))
            }
            ("full", None) if rescaled == Rescaled::Yes => {
                Err(Error::input("rescaling is for rows of attention patterns"))
            }
            ("full", None) => Ok(Part::Full(positions)),
            ("columns", None) => Ok(Part::Columns(positions, softmax)),
            ("rows", None) => Ok(Part::Rows(positions, softmax)),
            (_, None) => Ok(Part::KeepSelf(positions, softmax)),
        }
    }

    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        let before = |softmax: &Softmax| usize::from(*softmax == Softmax::Before);
        match self {
            Part::Full(_) => TYPES[0],
            Part::Columns(_, softmax) => [TYPES[1], TYPES[4]][before(softmax)],
            Part::Rows(_, softmax) => [TYPES[2], TYPES[5]][before(softmax)],
            Part::Grid { softmax, .. } => [TYPES[3], TYPES[6]][before(softmax)],
            Part::KeepSelf(..) => TYPES[7],
        }
    }

    /// When a pattern is changed; `None` for anything else.
    pub fn softmax(&self) -> Option<Softmax> {
        match self {
            Part::Full(_) => None,
            Part::Columns(_, softmax) | Part::Rows(_, softmax) | Part::KeepSelf(_, softmax) => Some(*softmax),
            Part::Grid { softmax, .. } => Some(*softmax),
        }
    }
}

/// Whether rows changed after the softmax are divided by their sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rescaled {
    /// They stay as changed.
    #[default]
    No,
    /// They sum to 1 again.
    Yes,
}

impl<V> Operation<V> {
    /// The same with other values.
    fn map<W>(self, read: impl FnOnce(V) -> Result<W>) -> Result<Operation<W>> {
        Ok(match self {
            Operation::Scale(factor) => Operation::Scale(factor),
            Operation::Set(number) => Operation::Set(number),
            Operation::Replace(values) => Operation::Replace(read(values)?),
            Operation::Mean(values) => Operation::Mean(read(values)?),
            Operation::Add { factor, values } => Operation::Add { factor, values: read(values)? },
            Operation::Resample { row } => Operation::Resample { row },
        })
    }
}
