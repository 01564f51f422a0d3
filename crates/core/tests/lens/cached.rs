//! With the statistics of the model's own final norm the lens is linear: it shows what each part adds to the logits.

use easyroutine::arch::{Bias, NormKind, Wiring};
use easyroutine::cache::Kept;
use easyroutine::lens::{Direction, LensNorm, LogitLens};
use easyroutine::sites::Point;
use easyroutine::{Model, Value};

use super::{along, captured, for_every_model, last_stream, read, rows, uncapped};
use crate::common::taps::{Edit, capture_after};
use crate::common::{has, those_of};

const IDS: [u32; 4] = [0, 7, 100, 319];

/// Logits of a stream of zeros: the biases of final norm and unembedding.
fn bias(model: &Model) -> Vec<f64> {
    let zero = |_: Point, value: &mut Value<'_>| value.vector_mut(0, 0).unwrap().fill(0.0);
    let edit = Edit { at: [last_stream(model)].into(), change: zero };
    let cache = capture_after(model, &[vec![1]], ["logits".parse().unwrap()], edit);
    cache.get("logits").unwrap().values().iter().map(|x| uncapped(model, *x)).collect()
}

#[test]
fn all_parts_and_the_bias_sum_to_the_logits_before_the_softcap() {
    for_every_model(|name, model| {
        // A norm on the stream, or a factor on a block's output: the stream is not a plain sum of its parts. Direct
        // attribution carries such factors along.
        let is_no_sum = |l: &easyroutine::arch::Layer| {
            matches!(l.wiring, Wiring::NormOnStream { .. }) || l.leaving_scale == Bias::Stored
        };
        if model.arch().layers.iter().any(is_no_sum) {
            return;
        }
        let cache = captured(model, &rows(model));
        let (lens, bias) = (LogitLens::from_model(model).unwrap(), bias(model));
        let logits = cache.get("logits").unwrap().values();
        let largest = logits.iter().fold(0.0, |m: f64, x| m.max(f64::from(x.abs())));
        for id in IDS {
            let options = along(vec![Direction::Token(id)], LensNorm::Cached);
            let mut sum = vec![bias[id as usize]; logits.len() / model.arch().vocabulary];
            let mut parts = 0;
            for pattern in those_of(model, "input_embeddings,attn_out_*,mixer_out_*,mlp_out_*").split(',') {
                for (_, part) in lens.compute(&cache, pattern, &options).unwrap() {
                    parts += 1;
                    sum.iter_mut().zip(part.values()).for_each(|(sum, x)| *sum += f64::from(*x));
                }
            }
            let of_layer = |layer: &easyroutine::arch::Layer| {
                let has = [layer.attention.is_some(), layer.recurrence.is_some(), layer.mlp.is_some()];
                has.into_iter().filter(|has| *has).count()
            };
            assert_eq!(parts, 1 + model.arch().layers.iter().map(of_layer).sum::<usize>());
            for (sum, logits) in sum.iter().zip(logits.chunks_exact(model.arch().vocabulary)) {
                let expected = uncapped(model, logits[id as usize]);
                let error = (sum - expected).abs() / largest;
                assert!(error < 1e-5, "{name}, id {id}: the parts sum to {sum}, the logit is {expected}");
            }
        }
        let biased = bias.iter().any(|b| *b != 0.0);
        let norm = model.arch().final_norm.map(|norm| norm.kind);
        let has_bias = norm.is_some_and(|norm| matches!(norm, NormKind::Layer | NormKind::LayerOffset))
            || model.arch().unembed.bias == Bias::Stored;
        assert_eq!(biased, has_bias, "{name}");
    });
}

#[test]
fn the_heads_sum_to_what_attention_adds_where_nothing_stands_between() {
    for_every_model(|name, model| {
        let cache = captured(model, &rows(model));
        let lens = LogitLens::from_model(model).unwrap();
        let options = along(vec![Direction::Pair(7, 100)], LensNorm::Cached);
        let one = |key: &str| read(&lens, &cache, key, &options);
        if model.arch().final_norm.is_none() || !has(model, "head_out_L0H0") {
            return;
        }
        let heads = lens.compute(&cache, "head_out_L0H*", &options).unwrap();
        let whole = one("attn_raw_0");
        let mut sum = vec![0.0; whole.values().len()];
        for (_, head) in &heads {
            sum.iter_mut().zip(head.values()).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        // The bias of the output projection is the same at every position, except for the norm's scale.
        let scale: Vec<f64> = scales(model, &cache).collect();
        let rest: Vec<f64> = whole
            .values()
            .iter()
            .zip(&sum)
            .zip(&scale)
            .map(|((w, s), scale)| (f64::from(*w) - s) / scale)
            .collect();
        let size =
            whole.values().iter().zip(&scale).fold(1.0, |m: f64, (x, s)| m.max(f64::from(x.abs()) / s));
        for x in &rest {
            assert!((x - rest[0]).abs() < 1e-5 * size, "{name}: {x} and {}", rest[0]);
        }
        if model.attention_bias(0).is_none() {
            assert!(rest[0].abs() < 1e-5 * size, "{name}: {}", rest[0]);
        }
    });
}

/// The factor of the final norm for each vector.
fn scales<'a>(
    model: &Model,
    cache: &'a easyroutine::cache::ActivationCache,
) -> impl Iterator<Item = f64> + 'a {
    let norm = model.arch().final_norm.unwrap();
    let part = if norm.kind.is_layer_norm() { "variance" } else { "second_moment" };
    let spread = cache.get(format!("last_layernorm.{part}")).unwrap();
    spread.values().iter().map(move |x| 1.0 / (f64::from(*x) + f64::from(norm.eps)).sqrt())
}

/// The factor of the norm with a vector's own statistics.
fn own_scales(model: &Model, vectors: &Kept) -> Vec<f64> {
    let norm = model.arch().final_norm.unwrap();
    let width = model.arch().d_model as f64;
    let of = |vector: &[f32]| {
        let vector: Vec<f64> = vector.iter().map(|x| f64::from(*x)).collect();
        let mean = if norm.kind.is_layer_norm() { vector.iter().sum::<f64>() / width } else { 0.0 };
        let spread = vector.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / width;
        1.0 / (spread + f64::from(norm.eps)).sqrt()
    };
    vectors.values().chunks_exact(model.arch().d_model).map(of).collect()
}

#[test]
fn a_part_reads_as_the_classic_lens_but_for_scale_and_bias() {
    for_every_model(|name, model| {
        if model.arch().final_norm.is_none() {
            return;
        }
        let cache = captured(model, &rows(model));
        let (lens, bias) = (LogitLens::from_model(model).unwrap(), bias(model));
        let keys = ["input_embeddings", "attn_out_1", "mlp_out_0", "head_out_L1H2", "projected_key_L0H1"];
        for key in keys.into_iter().filter(|key| has(model, key)) {
            let (own, cached_scale) = (own_scales(model, cache.get(key).unwrap()), scales(model, &cache));
            let of = |norm, id| read(&lens, &cache, key, &along(vec![Direction::Token(id)], norm));
            let ratios: Vec<f64> = cached_scale.zip(own).map(|(cached, own)| cached / own).collect();
            for id in IDS {
                let (classic, cached) = (of(LensNorm::Own, id), of(LensNorm::Cached, id));
                for ((classic, cached), ratio) in classic.values().iter().zip(cached.values()).zip(&ratios) {
                    let expected = (f64::from(*classic) - bias[id as usize]) * ratio;
                    let size = ratio * f64::from(classic.abs()).max(bias[id as usize].abs()).max(1.0);
                    let error = (expected - f64::from(*cached)).abs() / size;
                    assert!(error < 1e-5, "{name}, {key}, id {id}: {cached}, expected {expected}");
                }
            }
        }
    });
}
