//! Compares activations written by another program with ours, place by place.

mod dump;
mod exact;
pub mod models;
mod places;

use std::collections::BTreeMap;
use std::path::Path;

use easyroutine_files::{Encoding, ShardedSafeTensors};
use easyroutine_kernels::Dtype;
use easyroutine_sites::{Point, Site};

use crate::cache::{Capture, Kept};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::names::Names;
use crate::positions::Selection;
use crate::stop::Stop;
use dump::{Axes, Rows};
pub use exact::{AgainstExact, Apart, Wrong};
use places::Places;

/// The comparison of a file with the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The allowed [`Compared::error`].
    pub tolerance: f64,
    /// The compared places, in the order of the pass.
    pub places: Vec<Compared>,
    /// Tensors in the file that are not compared, each with the reason.
    pub passed_over: Vec<(String, String)>,
}

/// One place, in both.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// Our name of the activation.
    pub activation: String,
    /// The tensor's name in the file.
    pub tensor: String,
    /// The largest difference over the file's largest value; infinite if two values differ and one is not finite, NaN if
    /// one is NaN.
    pub error: f64,
    /// The factor on our values that best matches those in the file; NaN if one of them is.
    pub factor: f64,
    /// What that factor leaves: the norm of the difference over the norm of the file's values; NaN as the factor.
    pub rest: f64,
    /// Row, position in the row, and index in the vector (for a pattern: the key) of the largest difference or the first
    /// NaN.
    pub at: [usize; 3],
    /// Whether both agree within the tolerance.
    pub verdict: Verdict,
    /// Both beside a run in f64, where one was asked for.
    pub exact: Option<AgainstExact>,
}

/// How two tensors compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Within the tolerance.
    Same,
    /// They agree up to a factor.
    Magnitude,
    /// They do not agree, whatever the factor.
    Direction,
    /// The file, the model's run or both hold NaN, so the other values say nothing.
    Nan,
}

impl Comparison {
    /// The first differing place in the order of the pass; with a run in f64, the first place where either side is wrong.
    pub fn first_wrong(&self) -> Option<&Compared> {
        let is_wrong = |place: &&Compared| match &place.exact {
            Some(exact) => exact.wrong != Wrong::Neither,
            None => place.verdict != Verdict::Same,
        };
        self.places.iter().find(is_wrong)
    }
}

/// The default tolerance between two programs: f32 sums in another order, through all layers; for `bf16`, products with
/// inputs rounded to 8 bits.
pub fn tolerance(model: &Model) -> f64 {
    match model.dtype() {
        Dtype::F32 => 1e-4,
        Dtype::Bf16 => 5e-2,
    }
}

/// Compares the activations in a safetensors file with the model's on the same tokens.
///
/// The file has `input_ids` (B rows by S), an `attention_mask` if rows are padded, and activations under our names,
/// TransformerLens' names, or the names of modules in transformers whose outputs they are. Padding is not compared.
///
/// # Shapes
/// In the file: B by S by the vector, in any number of axes; for all heads together B by S by H by the vector, for
/// patterns B by H by S by S. B may be omitted if it is 1.
///
/// # Errors
/// If the file cannot be read or has no `input_ids`, the model cannot run the ids, or no tensor can be compared.
pub fn compare(model: &Model, names: &Names, file: &Path, tolerance: f64) -> Result<Comparison> {
    compared(model, None, names, file, tolerance)
}

/// As [`compare`], and both beside a run in f64 of the same weights, which says who is wrong. `exact` is the model in f32:
/// `model` itself, unless that is in bf16, whose weights are rounded.
///
/// # Shapes
/// As [`compare`].
///
/// # Errors
/// Those of [`compare`] and of [`Model::forward_exact`].
pub fn compare_exact(
    model: &Model,
    exact: &Model,
    names: &Names,
    file: &Path,
    tolerance: f64,
    stop: Stop<'_>,
) -> Result<Comparison> {
    compared(model, Some((exact, stop)), names, file, tolerance)
}

fn compared(
    model: &Model,
    exact: Option<(&Model, Stop<'_>)>,
    names: &Names,
    file: &Path,
    tolerance: f64,
) -> Result<Comparison> {
    let dump = ShardedSafeTensors::open(file)?;
    let rows = Rows::read(&dump).map_err(|error| error.at(file.display()))?;
    let places = Places::new(model.arch(), names);
    let mut passed_over = Vec::new();
    let mut asked: BTreeMap<&str, Vec<Point>> = BTreeMap::new();
    for name in dump.names().filter(|name| !dump::KEYS.contains(name)) {
        let points = match dump.tensor(name).map(|tensor| tensor.encoding()) {
            Some(Encoding::F64 | Encoding::F32 | Encoding::F16 | Encoding::Bf16) => places.of(name),
            _ => Err("it holds no floating point numbers".to_owned()),
        };
        match points {
            Ok(points) => drop(asked.insert(name, points)),
            Err(reason) => passed_over.push((name.to_owned(), reason)),
        }
    }
    let batch = rows.batch()?;
    let selection = Selection::all((0..batch.n_rows()).map(|row| batch.length(row)));
    let mut capture = Capture::new(asked.values().flatten().copied().collect(), selection);
    model.forward(&batch, &mut capture)?;
    let cache = capture.finish(&batch);
    let exact = match exact {
        Some((model, stop)) => Some(exact::run(model, &batch, asked.values().flatten().copied(), stop)?),
        None => None,
    };
    let mut found: Vec<(Point, Compared)> = Vec::new();
    for (name, points) in asked {
        let Some(tensor) = dump.tensor(name) else { continue };
        let kept: Option<Vec<&Kept>> = points.iter().map(|point| cache.get(*point)).collect();
        let Some(kept) = kept else {
            passed_over.push((name.to_owned(), "the run does not reach it".to_owned()));
            continue;
        };
        let axes = match Axes::of(tensor.shape(), &rows, points[0].site(), &kept) {
            Ok(axes) => axes,
            Err(reason) => {
                passed_over.push((name.to_owned(), reason));
                continue;
            }
        };
        let values = tensor.read_all()?;
        for (number, (point, kept)) in points.iter().zip(kept).enumerate() {
            let ours = |row: usize, i: usize| f64::from(kept.row(row)[i]);
            let theirs = |row: usize, position: usize, column: usize| {
                let column = column + axes.shift(&rows, row);
                f64::from(values[axes.place(row, rows.first(row) + position, number, column)])
            };
            let one = difference(*point, kept, |[row, position, column], i| {
                (ours(row, i), theirs(row, position, column))
            });
            let beside = exact.as_ref().and_then(|exact| exact.get(point)).map(|exact| {
                let file = difference(*point, kept, |[row, position, column], i| {
                    (theirs(row, position, column), exact[row][i])
                });
                let ours = difference(*point, kept, |[row, ..], i| (ours(row, i), exact[row][i]));
                AgainstExact::of(&file, &ours, tolerance)
            });
            let (activation, tensor) = (point.to_string(), name.to_owned());
            let one = one.judged(activation, tensor, tolerance);
            found.push((*point, Compared { exact: beside, ..one }));
        }
        tensor.drop_pages();
    }
    if found.is_empty() {
        let reasons: Vec<String> =
            passed_over.iter().take(5).map(|(name, why)| format!("`{name}`: {why}")).collect();
        return Err(Error::new(
            ErrorKind::Format,
            format!("{}: nothing of it can be compared: {}", file.display(), reasons.join("; ")),
        )
        .hint(
            "tensors bear our names (`resid_out_5`), TransformerLens' or those of modules in transformers",
        ));
    }
    found.sort_by_key(|(point, _)| in_pass(*point));
    Ok(Comparison {
        tolerance,
        places: found.into_iter().map(|(_, compared)| compared).collect(),
        passed_over,
    })
}

/// The order of a point: the embedding, block after block, then the rest.
fn in_pass(point: Point) -> (usize, usize, usize) {
    let site = Site::ALL.iter().position(|site| *site == point.site()).unwrap_or(usize::MAX);
    let layer = match (point.layer(), point.site()) {
        (Some(layer), _) => layer + 1,
        (None, Site::InputEmbeddings) => 0,
        (None, _) => usize::MAX,
    };
    (layer, site, point.head().unwrap_or(0))
}

/// Sums over all values of one place.
#[derive(Default)]
struct Difference {
    largest: f64,
    of_file: f64,
    at: [usize; 3],
    nan: Option<[usize; 3]>,
    /// Ours times ours, ours times theirs, theirs times theirs.
    products: [f64; 3],
}

/// Sums over pairs of values, each of a row, a position and a column, and of a place among the row's values.
fn difference(point: Point, kept: &Kept, both: impl Fn([usize; 3], usize) -> (f64, f64)) -> Difference {
    let mut sums = Difference::default();
    for (row, shape) in kept.row_shapes.iter().enumerate() {
        let width = shape.iter().skip(1).product::<usize>();
        for i in 0..kept.row(row).len() {
            let (position, column) = (i / width.max(1), i % width.max(1));
            if point.site() == Site::Scores && column > position {
                // Programs write different numbers at hidden cells.
                continue;
            }
            let at = [row, position, column];
            let (ours, theirs) = both(at, i);
            sums.add(ours, theirs, at);
        }
    }
    sums
}

impl Difference {
    fn add(&mut self, ours: f64, theirs: f64, at: [usize; 3]) {
        if ours.is_nan() || theirs.is_nan() {
            self.nan.get_or_insert(at);
        }
        let are_finite = ours.is_finite() && theirs.is_finite();
        let apart = match (ours == theirs, are_finite) {
            (true, _) => 0.0,
            (false, true) => (ours - theirs).abs(),
            (false, false) => f64::INFINITY,
        };
        if apart > self.largest {
            (self.largest, self.at) = (apart, at);
        }
        if are_finite {
            self.of_file = self.of_file.max(theirs.abs());
            self.products[0] += ours * ours;
            self.products[1] += ours * theirs;
            self.products[2] += theirs * theirs;
        }
    }

    fn judged(self, activation: String, tensor: String, tolerance: f64) -> Compared {
        if let Some(at) = self.nan {
            let (error, factor, rest, verdict) = (f64::NAN, f64::NAN, f64::NAN, Verdict::Nan);
            return Compared { activation, tensor, error, factor, rest, at, verdict, exact: None };
        }
        let over = |a: f64, b: f64| if a == 0.0 { 0.0 } else { a / b };
        let error = over(self.largest, self.of_file);
        let [ours, both, theirs] = self.products;
        let factor = if ours == 0.0 { 1.0 } else { both / ours };
        // |theirs - factor ours|², which rounding may make negative.
        let rest = over((theirs - factor * both).max(0.0).sqrt(), theirs.sqrt());
        let verdict = match error {
            error if error <= tolerance => Verdict::Same,
            error if error.is_finite() && rest <= tolerance => Verdict::Magnitude,
            _ => Verdict::Direction,
        };
        Compared { activation, tensor, error, factor, rest, at: self.at, verdict, exact: None }
    }
}
