//! The laws of every decoder, checked on one model: additions show in the stream, patterns are distributions, no token
//! sees the future, and neither batches nor threads nor captures change a bit.

use easyroutine_sites::{Point, Selector, Site};

use crate::arch::{Bias, Head, Window, Wiring};
use crate::batch::Batch;
use crate::cache::ActivationCache;
use crate::error::Result;
use crate::lens::{Component, LensNorm, LensOptions, LogitLens};
use crate::model::Model;
use crate::positions::{Context, Row, Specifier};
use crate::request::Request;

/// The result of checking one law.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The law, in words.
    pub law: &'static str,
    /// The largest deviation: relative to the tensor's largest value, or, for laws about bits, the number of differing
    /// values. `None` if the law does not apply to the model.
    pub deviation: Option<f64>,
    /// The allowed deviation.
    pub allowed: f64,
    /// The place of the largest deviation.
    pub place: String,
}

impl Outcome {
    /// Whether the law holds; one that does not apply counts as holding.
    pub fn holds(&self) -> bool {
        self.deviation.is_none_or(|deviation| deviation <= self.allowed)
    }
}

/// Sums that are equal in exact arithmetic differ by the rounding of a few hundred additions: of f32 numbers, or of
/// products whose inputs were rounded to 8 bits.
fn rounding(model: &Model) -> f64 {
    match model.dtype() {
        easyroutine_kernels::Dtype::F32 => 2e-5,
        easyroutine_kernels::Dtype::Bf16 => 3e-2,
    }
}

/// Checks all laws on two rows of tokens.
///
/// # Errors
/// If the model cannot run these rows.
pub fn check(model: &mut Model, rows: [&[u32]; 2]) -> Result<Vec<Outcome>> {
    let all = run(model, &rows, &everything())?;
    let mut outcomes = additive(model, &all);
    outcomes.push(heads_sum(model, &all));
    outcomes.extend(patterns(model, &all));
    outcomes.push(causality(model, rows[0])?);
    let last = match model.arch().head {
        Head::Unembedding => "logits".to_owned(),
        Head::Score(_) => "score".to_owned(),
        Head::Nothing { .. } => last_stream(model).to_string(),
    };
    outcomes.push(same_bits("capturing changes nothing", &all, &run(model, &rows, &last)?, &[0, 1]));
    outcomes.push(row_alone(model, rows, &all)?);
    outcomes.push(threads(model, rows, &all)?);
    outcomes.push(lens(model, &all)?);
    Ok(outcomes)
}

fn everything() -> String {
    let patterns = Site::ALL
        .iter()
        .filter(|s| **s != Site::ResidInPostLayernorm)
        .map(|site| site.template().replace("{layer}", "*").replace("{head}", "*"));
    patterns.collect::<Vec<_>>().join(",")
}

/// Runs rows at all positions, keeping what the patterns select and the model has.
fn run(model: &Model, rows: &[&[u32]], patterns: &str) -> Result<ActivationCache> {
    let batch = Batch::new(rows)?;
    let of = |activations| Request { activations, positions: vec![Specifier::All], ..Request::default() };
    let has = |selector: &Selector| {
        let request = of(vec![selector.clone()]);
        request.points(model.arch()).is_ok()
    };
    let activations = Selector::parse_list(patterns)?.into_iter().filter(has).collect();
    let request = of(activations);
    let rows: Vec<Row<'_>> = rows.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect();
    request.run(model, &batch, &rows, Context::default())
}

fn values(cache: &ActivationCache, point: Point) -> Option<&[f32]> {
    cache.get(point).map(|kept| kept.values())
}

/// The largest deviation between pairs of tensors that should agree.
struct Worst {
    deviation: Option<f64>,
    place: String,
}

impl Worst {
    fn new() -> Self {
        Worst { deviation: None, place: String::new() }
    }

    fn compare(&mut self, place: impl ToString, ours: impl Iterator<Item = f64>, reference: &[f32]) {
        let largest = reference.iter().fold(f64::MIN_POSITIVE, |m, x| m.max(f64::from(x.abs())));
        let difference = |(a, b): (f64, &f32)| {
            let d = (a - f64::from(*b)).abs();
            if d.is_nan() { f64::INFINITY } else { d }
        };
        let deviation = ours.zip(reference).map(difference).fold(0.0, f64::max) / largest;
        self.note(place, deviation);
    }

    fn note(&mut self, place: impl ToString, deviation: f64) {
        if self.deviation.is_none_or(|largest| deviation > largest) {
            (self.deviation, self.place) = (Some(deviation), place.to_string());
        }
    }

    fn outcome(self, law: &'static str, allowed: f64) -> Outcome {
        Outcome { law, deviation: self.deviation, allowed, place: self.place }
    }
}

/// What a layer adds appears in the stream, to the bit where the stream is a plain sum.
fn additive(model: &Model, cache: &ActivationCache) -> Vec<Outcome> {
    let (mut middle, mut end, mut handed_on) = (Worst::new(), Worst::new(), Worst::new());
    let arch = model.arch();
    for (l, layer) in arch.layers.iter().enumerate() {
        let at = |site| values(cache, Point::layer_of(site, l)).unwrap_or(&[]);
        let (resid_in, attn_out, mlp_out) = (at(Site::ResidIn), at(Site::AttnOut), at(Site::MlpOut));
        if !matches!(layer.wiring, Wiring::NormOnStream { .. }) {
            // A missing part adds nothing.
            let added = |stream: Vec<f32>, part: &[f32]| match part.is_empty() {
                true => stream,
                false => stream.iter().zip(part).map(|(x, a)| x + a).collect(),
            };
            let mid = added(added(resid_in.to_vec(), attn_out), at(Site::MixerOut));
            if !at(Site::ResidMid).is_empty() {
                let mid = mid.iter().map(|x| f64::from(*x));
                middle.compare(format!("layer {l}"), mid, at(Site::ResidMid));
            }
            let out = added(added(mid, mlp_out), at(Site::PerLayerOut));
            let factor = model.leaving_scale(l);
            let out = out.into_iter().map(|x| f64::from(x * factor));
            end.compare(format!("layer {l}"), out, at(Site::ResidOut));
        }
        if l + 1 < arch.layers.len() {
            let next = values(cache, Point::layer_of(Site::ResidIn, l + 1)).unwrap_or(&[]);
            handed_on.compare(format!("layer {l}"), at(Site::ResidOut).iter().map(|x| f64::from(*x)), next);
        }
    }
    vec![
        middle.outcome("resid_in + attn_out or mixer_out = resid_mid", 0.0),
        end.outcome("resid_in + all that the layer adds = resid_out", 0.0),
        handed_on.outcome("resid_out of a layer = resid_in of the next", 0.0),
    ]
}

/// The heads' outputs and the bias add up to attention's output.
fn heads_sum(model: &Model, cache: &ActivationCache) -> Outcome {
    let mut worst = Worst::new();
    let arch = model.arch();
    for l in 0..arch.layers.len() {
        let Some(raw) = values(cache, Point::layer_of(Site::AttnRaw, l)) else { continue };
        let mut sum: Vec<f64> = vec![0.0; raw.len()];
        for head in 0..arch.n_heads {
            let part = values(cache, Point::head_of(Site::HeadOut, l, head)).unwrap_or(&[]);
            sum.iter_mut().zip(part).for_each(|(s, x)| *s += f64::from(*x));
        }
        if let Some(bias) = model.attention_bias(l) {
            sum.iter_mut().zip(bias.iter().cycle()).for_each(|(s, b)| *s += f64::from(*b));
        }
        worst.compare(format!("layer {l}"), sum.into_iter(), raw);
    }
    worst.outcome("sum of head_out + bias = attn_raw", rounding(model))
}

/// Rows of a pattern sum to 1, and are 0 where a query must not look.
fn patterns(model: &Model, cache: &ActivationCache) -> Vec<Outcome> {
    let (mut sums, mut masked) = (Worst::new(), Worst::new());
    for (l, layer) in model.arch().layers.iter().enumerate() {
        let Some(attention) = &layer.attention else { continue };
        let window = match attention.window {
            Window::Full => usize::MAX,
            Window::Sliding(n) => n,
        };
        let has_sink = attention.sinks == Bias::Stored;
        for head in 0..model.arch().n_heads {
            let point = Point::head_of(Site::Pattern, l, head);
            let Some(kept) = cache.get(point) else { continue };
            for (row, shape) in kept.row_shapes.iter().enumerate() {
                for (query, weights) in kept.row(row).chunks_exact(shape[1]).enumerate() {
                    let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
                    // A sink takes a share that no key gets.
                    let least = if has_sink { sum.min(1.0) } else { 1.0 };
                    sums.note(point, if sum.is_nan() { f64::INFINITY } else { (sum - least).abs() });
                    let hidden = |key: usize| key > query || query - key >= window;
                    let seen =
                        weights.iter().enumerate().filter(|(key, w)| hidden(*key) && **w != 0.0).count();
                    masked.note(point, seen as f64);
                }
            }
        }
    }
    vec![
        // The softmax is computed in f32, whatever the dtype of products.
        sums.outcome("rows of a pattern sum to 1", 1e-5),
        masked.outcome("patterns are 0 above the diagonal and outside the window", 0.0),
    ]
}

/// Changing the last token changes nothing before it.
fn causality(model: &Model, row: &[u32]) -> Result<Outcome> {
    let mut other = row.to_vec();
    if let Some(last) = other.last_mut() {
        *last = if *last == 0 { 1 } else { *last - 1 };
    }
    let (before, after) = (run(model, &[row], "resid_out_*")?, run(model, &[&other], "resid_out_*")?);
    let mut worst = Worst::new();
    for (key, kept) in before.iter() {
        let changed = after.get(key).map_or(&[][..], |k| k.values());
        let width = model.arch().d_model;
        let past = kept.values().len() - width;
        let differing =
            kept.values()[..past].iter().zip(changed).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        worst.note(key, differing as f64);
    }
    Ok(worst.outcome("changing a token changes nothing before it", 0.0))
}

/// Values under common keys that differ in a bit; rows of `theirs` correspond to `rows` of `ours`.
fn same_bits(law: &'static str, ours: &ActivationCache, theirs: &ActivationCache, rows: &[usize]) -> Outcome {
    let mut worst = Worst::new();
    for (key, kept) in theirs.iter() {
        let Some(whole) = ours.get(key) else { continue };
        for (their_row, our_row) in rows.iter().enumerate() {
            let pairs = whole.row(*our_row).iter().zip(kept.row(their_row));
            worst.note(key, pairs.filter(|(a, b)| a.to_bits() != b.to_bits()).count() as f64);
        }
    }
    worst.outcome(law, 0.0)
}

fn row_alone(model: &Model, rows: [&[u32]; 2], all: &ActivationCache) -> Result<Outcome> {
    let law = "a row alone = the row in a batch, to the bit";
    let outcomes = [0, 1]
        .map(|row| run(model, &[rows[row]], &everything()).map(|alone| same_bits(law, all, &alone, &[row])));
    let [first, second] = outcomes;
    let (first, second) = (first?, second?);
    Ok(if second.deviation > first.deviation { second } else { first })
}

fn threads(model: &mut Model, rows: [&[u32]; 2], all: &ActivationCache) -> Result<Outcome> {
    let own = model.cpu().threads();
    let other = if own == 1 { 3 } else { 1 };
    model.set_threads(other);
    let result = run(model, &rows, &everything());
    model.set_threads(own);
    Ok(same_bits("any number of threads, to the bit", all, &result?, &[0, 1]))
}

/// The stream that leaves the last block.
fn last_stream(model: &Model) -> Point {
    Point::layer_of(Component::RESID_OUT.site(), model.arch().layers.len() - 1)
}

/// The lens of the final layer is the model's own prediction, if it has one.
fn lens(model: &Model, all: &ActivationCache) -> Result<Outcome> {
    let mut worst = Worst::new();
    let law = "lens of the final layer = logits";
    if model.arch().lacks_unembedding().is_some() {
        return Ok(worst.outcome(law, 0.0));
    }
    let key = last_stream(model).to_string();
    let options = LensOptions { norm: LensNorm::Own, ..LensOptions::default() };
    let read = LogitLens::from_model(model)?.compute(all, &key, &options)?;
    let logits = values(all, Point::model(Site::Logits)).unwrap_or(&[]);
    for (key, kept) in &read {
        worst.compare(key, kept.values().iter().map(|x| f64::from(*x)), logits);
    }
    Ok(worst.outcome(law, 0.0))
}
