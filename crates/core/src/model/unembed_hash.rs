//! The hash by which the tuned-lens package knows an unembedding matrix.
//!
//! It is the SHA-256 of `numpy.array_str(W, precision=1)` (tuned-lens, `nn/unembed.py`: `unembedding_hash`; numpy,
//! `_core/arrayprint.py`). Of a matrix of more than 1,000 numbers that text shows three rows and columns at each edge.

use sha2::{Digest as _, Sha256};

use super::Unembedding;
use crate::error::Result;

/// Matrices with more numbers are shown by their edges.
const LARGEST_WHOLE: usize = 1000;
/// Rows or columns shown at each edge.
const EDGE: usize = 3;
/// What stands before a row's numbers where they go on in a further line.
const INDENT: &str = "  ";
/// Where such a line ends: 75 less the two brackets that may follow.
const WIDTH: usize = 73;

impl Unembedding {
    /// The `unembed_hash` of tuned lenses, in 64 hexadecimal digits: of the matrix as it is stored, before the map to
    /// the embedding's width and without an adapter's update.
    ///
    /// # Errors
    /// If a file of the model was written to before all its weights were packed.
    pub fn tuned_lens_hash(&self) -> Result<String> {
        let matrix = &self.matrix.matrix;
        self.files.during(|| {
            let text = array_text(matrix.outputs(), matrix.inputs(), |n, row| matrix.read_row(n, row));
            Ok(Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect())
        })
    }
}

/// `numpy.array_str(matrix, precision=1)`.
///
/// # Shapes
/// `read_row` fills a row of `columns` numbers.
fn array_text(rows: usize, columns: usize, read_row: impl Fn(usize, &mut [f32])) -> String {
    let is_whole = rows.saturating_mul(columns) <= LARGEST_WHOLE;
    let is_cut = |len: usize| !is_whole && len > 2 * EDGE;
    let shown = |len: usize| match is_cut(len) {
        true => (0..EDGE).chain(len - EDGE..len),
        false => (0..len).chain(0..0),
    };
    let mut row = vec![0.0; columns];
    let mut numbers = Vec::new();
    for n in shown(rows) {
        read_row(n, &mut row);
        numbers.extend(shown(columns).map(|column| row[column]));
    }
    let words = words(&numbers);
    let mut lines: Vec<String> =
        words.chunks(shown(columns).count().max(1)).map(|words| row_text(words, is_cut(columns))).collect();
    if is_cut(rows) {
        lines.insert(EDGE, "...".to_owned());
    }
    format!("[{}]", lines.join("\n "))
}

/// One row, in as many lines as it needs.
fn row_text(words: &[String], is_cut: bool) -> String {
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    if is_cut {
        words.insert(EDGE, "...");
    }
    let (mut text, mut line) = (String::new(), INDENT.to_owned());
    for (n, word) in words.iter().enumerate() {
        if line.len() > INDENT.len() && line.len() + word.len() > WIDTH {
            text += line.trim_end();
            text.push('\n');
            line = INDENT.to_owned();
        }
        line += word;
        if n + 1 < words.len() {
            line.push(' ');
        }
    }
    text += &line;
    format!("[{}]", &text[INDENT.len()..])
}

/// Numbers in one notation and of one width.
fn words(numbers: &[f32]) -> Vec<String> {
    let finite = || numbers.iter().copied().filter(|x| x.is_finite());
    let sizes = || finite().map(f32::abs).filter(|x| *x > 0.0);
    let (least, most) = (sizes().fold(f32::INFINITY, f32::min), sizes().fold(0.0, f32::max));
    // Since version 2.3 numpy has 1e6 for the first of these limits. No unembedding has weights between the two.
    let is_scientific = most > 0.0 && (most >= 1e8 || least < 1e-4 || most / least > 1000.0);
    let digits = usize::from(is_scientific && finite().any(has_tenths));
    let mut words: Vec<String> = numbers
        .iter()
        .map(|x| match () {
            () if x.is_nan() => "nan".to_owned(),
            () if x.is_infinite() => x.to_string(),
            () if is_scientific => scientific(*x, digits),
            () => positional(*x),
        })
        .collect();
    // The points stand below each other.
    if !is_scientific && words.iter().any(|word| word.contains('.') && !word.ends_with('.')) {
        words.iter_mut().filter(|word| word.ends_with('.')).for_each(|word| word.push(' '));
    }
    let width = words.iter().map(String::len).max().unwrap_or(0);
    words.into_iter().map(|word| format!("{word:>width$}")).collect()
}

/// At most one digit after the point, and no zero there.
fn positional(x: f32) -> String {
    let tenths = format!("{x:.1}");
    tenths.strip_suffix('0').map(str::to_owned).unwrap_or(tenths)
}

/// Whether `1.5e-05` has such a digit: none after the shortest digits that tell a number from its neighbours.
fn has_tenths(x: f32) -> bool {
    format!("{x:e}").contains('.') && !format!("{x:.1e}").contains(".0e")
}

fn scientific(x: f32, digits: usize) -> String {
    let text = format!("{x:.digits$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let point = if digits.contains('.') { "" } else { "." };
    format!("{digits}{point}e{:+03}", exponent.parse::<i32>().unwrap_or(0))
}
