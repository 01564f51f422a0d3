//! Measures what a dictionary does to a model on a text.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use easyroutine::edit::{Edits, Intervention, Reference};
use easyroutine::positions::{Context, Row, Specifier, select};
use easyroutine::sites::{Point, Site};
use easyroutine::{Batch, Cpu, Error, Model, Result, Stop, Tap, Value as Seen, Want, log_sum_exp};
use easyroutine_kernels::Rows;
use serde_json::{Value, json};

use crate::change::{FeatureChange, FeatureOperation};
use crate::features::Features;
use crate::named::{Dictionaries, Named};
use crate::tap::FeatureEdits;

/// One prompt per paragraph.
const TEXT: &str = include_str!("measure.txt");

/// The prompts of the default text for [`measure`]: prose, code and lists.
pub fn text() -> impl Iterator<Item = &'static str> {
    TEXT.split("\n\n").map(str::trim_end)
}

/// Limit on logits kept at a time, 128 MiB.
const LOGITS: usize = 1 << 25;

/// The measurements.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measured {
    /// Tokens of the text.
    pub tokens: usize,
    /// Tokens at the counted positions.
    pub measured_tokens: usize,
    /// The measurements of each layer.
    pub layers: Vec<LayerMeasured>,
    /// Mean cross-entropy of the next token, in nats, with nothing changed.
    pub ce_clean: f64,
    /// The same with the decoded output in place of the original, in all layers of a set.
    pub ce_spliced: f64,
    /// The same with zeros in its place.
    pub ce_zero: f64,
    /// Mean KL(clean ‖ spliced) of the next token over all tokens, in nats.
    pub kl: f64,
}

impl Measured {
    /// The share of the cross-entropy that splicing keeps, (zero − spliced) / (zero − clean). `None` if zeros cost
    /// nothing.
    pub fn ce_recovered(&self) -> Option<f64> {
        let lost = self.ce_zero - self.ce_clean;
        (lost != 0.0).then(|| (self.ce_zero - self.ce_spliced) / lost)
    }

    /// As JSON, `measured` of the schema `easyroutine.dictionary_check/1`.
    pub fn to_json(&self) -> Value {
        let of_layer = |layer: &LayerMeasured| {
            json!({"l0": layer.l0, "explained_variance": layer.explained_variance, "mse": layer.mse,
                "cosine": layer.cosine, "active_features": layer.active_features})
        };
        json!({
            "tokens": self.tokens,
            "measured_tokens": self.measured_tokens,
            "layers": self.layers.iter().map(of_layer).collect::<Vec<_>>(),
            "ce_clean": self.ce_clean,
            "ce_spliced": self.ce_spliced,
            "ce_zero": self.ce_zero,
            "ce_recovered": self.ce_recovered(),
            "kl": self.kl,
        })
    }
}

/// The measurements of one layer: y is the activation where it writes, ŷ its output in the unchanged model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LayerMeasured {
    /// Mean number of active features per token.
    pub l0: f64,
    /// 1 − Σ‖y − ŷ‖² / Σ‖y − mean of y‖². `None` if y is constant.
    pub explained_variance: Option<f64>,
    /// Mean ‖y − ŷ‖² per coordinate.
    pub mse: f64,
    /// Mean cosine of y and ŷ.
    pub cosine: f64,
    /// Features active on at least one token.
    pub active_features: usize,
}

/// Measures one of the dictionaries on rows of text, each of more than one token.
///
/// # Errors
/// If a row is too short to predict anything, positions select no token, the model has no logits, or the place does not
/// allow changes; and if `stop` ends it.
pub fn measure(
    model: &Model,
    dictionaries: &Dictionaries,
    number: usize,
    rows: &[Row<'_>],
    positions: &[Specifier],
    context: Context<'_>,
    stop: Stop<'_>,
) -> Result<Measured> {
    let mut measuring = Measuring::new(model, dictionaries, number, positions, context, stop)?;
    together(rows).try_for_each(|rows| measuring.add(rows))?;
    measuring.finish()
}

/// The same with the logits of at most `most` tokens at a time, on which no figure depends.
#[doc(hidden)]
#[expect(clippy::too_many_arguments, reason = "those of `measure`, and one for tests")]
pub fn measure_in_parts(
    model: &Model,
    dictionaries: &Dictionaries,
    number: usize,
    rows: &[Row<'_>],
    positions: &[Specifier],
    context: Context<'_>,
    stop: Stop<'_>,
    most: usize,
) -> Result<Measured> {
    let mut measuring = Measuring::new(model, dictionaries, number, positions, context, stop)?;
    measuring.most = most;
    together(rows).try_for_each(|rows| measuring.add(rows))?;
    measuring.finish()
}

/// [`measure`] of a text that arrives in pieces, and is not kept.
pub struct Measuring<'a> {
    model: &'a Model,
    dictionaries: &'a Dictionaries,
    number: usize,
    positions: &'a [Specifier],
    context: Context<'a>,
    stop: Stop<'a>,
    /// Tokens whose logits are kept together.
    most: usize,
    splices: Vec<FeatureChange>,
    zeros: Vec<Intervention>,
    layers: Vec<Sums>,
    next: Next,
    tokens: usize,
    measured: usize,
}

impl std::fmt::Debug for Measuring<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Measuring").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl<'a> Measuring<'a> {
    /// Tokens of the rows that [`measure`] adds together, unless one row has more.
    pub const TOGETHER: usize = 2048;

    /// Nothing measured yet.
    ///
    /// # Errors
    /// If the model has no logits, or the place does not allow changes.
    pub fn new(
        model: &'a Model,
        dictionaries: &'a Dictionaries,
        number: usize,
        positions: &'a [Specifier],
        context: Context<'a>,
        stop: Stop<'a>,
    ) -> Result<Self> {
        let vocabulary = model.unembedding()?.vocabulary();
        let named = &dictionaries.all()[number];
        Ok(Measuring {
            model,
            dictionaries,
            number,
            positions,
            context,
            stop,
            most: (LOGITS / vocabulary.max(1)).max(1),
            splices: splices(dictionaries, number, positions),
            zeros: zeros(named, positions)?,
            layers: vec![Sums::default(); named.fits.len()],
            next: Next::default(),
            tokens: 0,
            measured: 0,
        })
    }

    /// Measures rows, which run together.
    ///
    /// # Errors
    /// If a position is outside a row, or `stop` ends it.
    pub fn add(&mut self, rows: &[Row<'_>]) -> Result<()> {
        let Measuring { model, dictionaries, context, stop, .. } = *self;
        let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids).collect();
        let batch = Batch::new(&ids)?;
        let places = rows
            .iter()
            .map(|row| Ok(select(self.positions, row.prompt(), context)?.indices.into_iter().collect()))
            .collect::<Result<Vec<BTreeSet<usize>>>>()?;
        self.measured += places.iter().map(BTreeSet::len).sum::<usize>();
        self.tokens += batch.n_tokens();
        let named = &dictionaries.all()[self.number];
        for (part, range) in parts(batch.n_tokens(), self.most).enumerate() {
            let mut clean = Logits::new(&batch, range.clone(), None);
            let (held, sums) = (BTreeMap::new(), &mut self.layers[..]);
            let mut watch = Watch { named, cpu: model.cpu(), places: &places, held, sums };
            match part {
                0 => model.forward_until(&batch, &mut (&mut watch, &mut clean), stop)?,
                _ => model.forward_until(&batch, &mut clean, stop)?,
            }
            let mut spliced = Logits::new(&batch, range.clone(), Some(&clean.kept));
            let edits = FeatureEdits::new(&self.splices, dictionaries, model.cpu(), rows, context)?;
            model.forward_until(&batch, &mut (edits, &mut spliced), stop)?;
            let mut zero = Logits::new(&batch, range, None);
            let edits = Edits::new(&self.zeros, model.arch(), rows, context)?;
            model.forward_until(&batch, &mut (edits, &mut zero), stop)?;
            let next = &mut self.next;
            next.predicted += clean.predicted;
            next.tokens += clean.places.len();
            next.clean += clean.ce;
            next.spliced += spliced.ce;
            next.zero += zero.ce;
            next.kl += spliced.kl;
        }
        Ok(())
    }

    /// The figures of all rows.
    ///
    /// # Errors
    /// If every row was too short to predict anything, or positions selected no token.
    pub fn finish(self) -> Result<Measured> {
        let next = &self.next;
        if self.measured == 0 || next.predicted == 0 {
            return Err(Error::input("nothing to measure: no positions, or rows of one token"));
        }
        let mean = |sum: f64| sum / next.predicted as f64;
        Ok(Measured {
            tokens: self.tokens,
            measured_tokens: self.measured,
            layers: self.layers.iter().map(Sums::measured).collect(),
            ce_clean: mean(next.clean),
            ce_spliced: mean(next.spliced),
            ce_zero: mean(next.zero),
            kl: next.kl / next.tokens as f64,
        })
    }
}

/// Sums over the predictions of the next token.
#[derive(Default)]
struct Next {
    predicted: usize,
    tokens: usize,
    clean: f64,
    spliced: f64,
    zero: f64,
    kl: f64,
}

fn splices(dictionaries: &Dictionaries, number: usize, positions: &[Specifier]) -> Vec<FeatureChange> {
    let n = dictionaries.all()[number].fits.len();
    let splice = |layer: usize| FeatureChange {
        key: dictionaries.key(number, layer),
        feature: None,
        positions: positions.to_vec(),
        operation: FeatureOperation::Splice,
    };
    (0..n).map(splice).collect()
}

/// Zeros where the layers write.
fn zeros(named: &Named, positions: &[Specifier]) -> Result<Vec<Intervention>> {
    let quoted: Vec<String> = positions.iter().map(|position| format!("\"{position}\"")).collect();
    let points: BTreeSet<Point> = named.fits.iter().map(|fit| fit.writes).collect();
    let zero = |point: Point| {
        let text = format!("{point}@{}=0", quoted.join(","));
        text.parse::<Intervention<Reference>>()?.load()
    };
    points.into_iter().map(zero).collect()
}

/// Groups of rows that run together.
fn together<'r, 't>(rows: &'r [Row<'t>]) -> impl Iterator<Item = &'r [Row<'t>]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut length = 0;
        let n = rest
            .iter()
            .take_while(|row| {
                length += row.ids.len();
                length <= Measuring::TOGETHER
            })
            .count();
        let (these, others) = rest.split_at(n.max(1).min(rest.len()));
        rest = others;
        (!these.is_empty()).then_some(these)
    })
}

/// Ranges of tokens whose logits are kept together.
fn parts(n: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(most).map(move |start| start..n.min(start + most))
}

/// Cross-entropies of a range of a batch's tokens, and their divergence from an earlier run.
struct Logits<'a> {
    /// Row, position, and the token that follows.
    places: Vec<(usize, usize, Option<u32>)>,
    before: Option<&'a [f32]>,
    kept: Vec<f32>,
    predicted: usize,
    ce: f64,
    kl: f64,
}

impl<'a> Logits<'a> {
    fn new(batch: &Batch, range: Range<usize>, before: Option<&'a [f32]>) -> Logits<'a> {
        let mut places = Vec::with_capacity(range.len());
        for row in 0..batch.n_rows() {
            let span = batch.span(row);
            let here = span.start.max(range.start)..span.end.min(range.end);
            places.extend(here.map(|token| {
                let position = token - span.start;
                (row, position, batch.row(row).get(position + 1).copied())
            }));
        }
        Logits { places, before, kept: Vec::new(), predicted: 0, ce: 0.0, kl: 0.0 }
    }
}

impl Tap for Logits<'_> {
    fn wants(&self, point: Point) -> Want {
        if point == Point::model(Site::Logits) { Want::Read } else { Want::Nothing }
    }

    fn tokens(&self, _: Point, batch: &Batch) -> Option<Vec<usize>> {
        // The pass may go on with the ends of rows alone, where tokens have other indices.
        Some(self.places.iter().filter_map(|(row, position, _)| batch.token(*row, *position)).collect())
    }

    fn at(&mut self, _: Point, value: &mut Seen<'_>) -> Result<()> {
        for (number, (row, position, next)) in self.places.iter().enumerate() {
            let Some(logits) = value.vector(*row, *position) else { continue };
            let sum = log_sum_exp(logits);
            if let Some(logit) = next.and_then(|id| logits.get(id as usize)) {
                self.predicted += 1;
                self.ce += sum - f64::from(*logit);
            }
            match self.before {
                None => self.kept.extend_from_slice(logits),
                Some(before) => {
                    let clean = &before[number * logits.len()..][..logits.len()];
                    self.kl += divergence(clean, logits, sum);
                }
            }
        }
        Ok(())
    }
}

/// KL(p ‖ q) of two rows of logits; `sum` is the logarithm of Σ exp(q).
fn divergence(p: &[f32], q: &[f32], sum: f64) -> f64 {
    let own = log_sum_exp(p);
    let term = |(p, q): (&f32, &f32)| {
        let log = f64::from(*p) - own;
        // A token that the model never gives adds nothing; 0 times infinity would be NaN.
        if log == f64::NEG_INFINITY { 0.0 } else { log.exp() * (log - (f64::from(*q) - sum)) }
    };
    p.iter().zip(q).map(term).sum()
}

/// Encodes and decodes in a run without changing it.
struct Watch<'a> {
    named: &'a Named,
    cpu: &'a Cpu,
    places: &'a [BTreeSet<usize>],
    held: BTreeMap<usize, (Vec<f32>, Features)>,
    sums: &'a mut [Sums],
}

/// Sums over the tokens of a layer.
#[derive(Debug, Clone, Default)]
struct Sums {
    tokens: usize,
    active: usize,
    seen: BTreeSet<u32>,
    sum: Vec<f64>,
    squares: f64,
    missed: f64,
    cosine: f64,
}

impl Watch<'_> {
    fn vectors(&self, value: &Seen<'_>) -> Vec<f32> {
        let places = self.places.iter().enumerate();
        let all = places.flat_map(|(row, places)| places.iter().map(move |at| (row, *at)));
        all.filter_map(|(row, at)| value.vector(row, at)).flatten().copied().collect()
    }
}

impl Tap for Watch<'_> {
    fn wants(&self, point: Point) -> Want {
        let is_there = self.named.fits.iter().any(|fit| fit.reads == point || fit.writes == point);
        if is_there { Want::Read } else { Want::Nothing }
    }

    fn at(&mut self, point: Point, value: &mut Seen<'_>) -> Result<()> {
        let vectors = self.vectors(value);
        let dictionary = &self.named.dictionary;
        for (layer, fit) in self.named.fits.iter().enumerate() {
            if fit.reads == point {
                let coder = dictionary.layer(layer)?;
                let n = vectors.len() / coder.d_in().max(1);
                let features = coder.encode(self.cpu, Rows::dense(&vectors, n, coder.d_in()))?;
                self.sums[layer].take_features(&features);
                self.held.insert(layer, (vectors.clone(), features));
            }
            if fit.writes == point {
                let lacks = || Error::input("a layer writes before it reads");
                let features: Option<Vec<&Features>> =
                    dictionary.sources(layer).map(|source| Some(&self.held.get(&source)?.1)).collect();
                let (features, held) =
                    (features.ok_or_else(lacks)?, self.held.get(&layer).ok_or_else(lacks)?);
                let coder = dictionary.layer(layer)?;
                let n = held.0.len() / coder.d_in().max(1);
                let decoded =
                    dictionary.decode(self.cpu, layer, &features, Rows::dense(&held.0, n, coder.d_in()))?;
                self.sums[layer].take(&vectors, &decoded, coder.d_out());
            }
        }
        dictionary.check_unchanged()
    }
}

impl Sums {
    fn take_features(&mut self, features: &Features) {
        self.tokens += features.len();
        self.active += features.n_active();
        for token in 0..features.len() {
            self.seen.extend(features.token(token).0);
        }
    }

    fn take(&mut self, y: &[f32], decoded: &[f32], width: usize) {
        self.sum.resize(width, 0.0);
        for (y, decoded) in y.chunks_exact(width).zip(decoded.chunks_exact(width)) {
            let (mut own, mut other, mut both) = (0.0, 0.0, 0.0);
            for ((y, d), sum) in y.iter().zip(decoded).zip(&mut self.sum) {
                let (y, d) = (f64::from(*y), f64::from(*d));
                *sum += y;
                (own, other, both) = (own + y * y, other + d * d, both + y * d);
                self.missed += (y - d) * (y - d);
            }
            self.squares += own;
            let length = (own * other).sqrt();
            self.cosine += if length > 0.0 { both / length } else { 0.0 };
        }
    }

    fn measured(&self) -> LayerMeasured {
        let n = self.tokens.max(1) as f64;
        let about_zero: f64 = self.sum.iter().map(|sum| sum * sum / n).sum();
        let spread = self.squares - about_zero;
        LayerMeasured {
            l0: self.active as f64 / n,
            explained_variance: (spread > 1e-12 * self.squares).then(|| 1.0 - self.missed / spread),
            mse: self.missed / (n * self.sum.len().max(1) as f64),
            cosine: self.cosine / n,
            active_features: self.seen.len(),
        }
    }
}
