//! Sums and statistics: what is added appears in the stream, and patterns are distributions.

use easyroutine::arch::{Bias, Window, Wiring};
use easyroutine::cache::ActivationCache;
use easyroutine::sites::{Point, Site};
use easyroutine::{Dtype, Model};

use super::{all_points, for_every_model, for_every_variant, two_rows};
use crate::common::taps::capture;
use crate::common::{assert_same_bits, relative_error};

fn values(cache: &ActivationCache, site: Site, layer: usize) -> &[f32] {
    cache.get(Point::layer_of(site, layer).to_string()).unwrap().values()
}

/// The layers that have attention.
fn with_attention(model: &Model) -> Vec<usize> {
    let layers = model.arch().layers.iter().enumerate();
    layers.filter(|(_, layer)| layer.attention.is_some()).map(|(l, _)| l).collect()
}

fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

#[test]
fn what_is_added_is_what_the_stream_shows() {
    for_every_variant(|name, model| {
        let cache = capture(model, &two_rows(model), all_points(model));
        let mut additive = 0;
        for (l, layer) in model.arch().layers.iter().enumerate() {
            let at = |site| values(&cache, site, l);
            if matches!(layer.wiring, Wiring::NormOnStream { .. }) {
                continue;
            }
            additive += 1;
            let has = |site| model.arch().lacks(Point::layer_of(site, l)).is_none();
            let mut stream = at(Site::ResidIn).to_vec();
            for site in [Site::AttnOut, Site::MixerOut].into_iter().filter(|site| has(*site)) {
                stream = sum(&stream, at(site));
            }
            if has(Site::ResidMid) {
                assert_same_bits(format_args!("{name}, resid_mid_{l}"), &stream, at(Site::ResidMid));
            }
            if has(Site::MlpOut) {
                stream = sum(&stream, at(Site::MlpOut));
            }
            if has(Site::PerLayerOut) {
                stream = sum(&stream, at(Site::PerLayerOut));
            }
            if layer.leaving_scale == Bias::Stored {
                // The factor is the same for all.
                let out = at(Site::ResidOut);
                let place = (0..out.len()).max_by(|a, b| out[*a].abs().total_cmp(&out[*b].abs())).unwrap();
                let factor = out[place] / stream[place];
                let scaled: Vec<f32> = stream.iter().map(|x| x * factor).collect();
                let error = relative_error(&scaled, out);
                assert!(error < 1e-6, "{name}, resid_out_{l} is off by {error:.1e}");
                continue;
            }
            assert_same_bits(format_args!("{name}, resid_out_{l}"), &stream, at(Site::ResidOut));
        }
        let on_stream = |l: &easyroutine::arch::Layer| matches!(l.wiring, Wiring::NormOnStream { .. });
        assert!(additive > 0 || model.arch().layers.iter().all(on_stream), "{name}: no layer was compared");
    });
}

#[test]
fn what_leaves_a_layer_enters_the_next() {
    for_every_variant(|name, model| {
        let cache = capture(model, &two_rows(model), all_points(model));
        let embedded = cache.get("input_embeddings").unwrap().values();
        assert_same_bits(format_args!("{name}, resid_in_0"), embedded, values(&cache, Site::ResidIn, 0));
        for l in 1..model.arch().layers.len() {
            let (left, entered) = (values(&cache, Site::ResidOut, l - 1), values(&cache, Site::ResidIn, l));
            assert_same_bits(format_args!("{name}, resid_in_{l}"), left, entered);
        }
    });
}

#[test]
fn two_names_of_one_place_hold_one_value() {
    for_every_model(|name, model| {
        let cache = capture(model, &two_rows(model), all_points(model));
        for l in with_attention(model) {
            let [ours, other] =
                [Site::AttnIn, Site::ResidInPostLayernorm].map(|site| values(&cache, site, l));
            assert_same_bits(format_args!("{name}, attn_in_{l}"), ours, other);
        }
    });
}

/// Sums that are equal in exact arithmetic differ by the rounding of a few hundred additions, or of inputs rounded to 8
/// bits.
fn rounding(model: &Model) -> f64 {
    if model.dtype() == Dtype::F32 { 2e-6 } else { 2e-2 }
}

#[test]
fn the_parts_of_the_heads_and_the_bias_are_the_output_of_attention() {
    for_every_variant(|name, model| {
        let cache = capture(model, &two_rows(model), all_points(model));
        for l in with_attention(model) {
            let raw = values(&cache, Site::AttnRaw, l);
            let mut sum = vec![0.0; raw.len()];
            for head in 0..model.arch().n_heads {
                let part = cache.get(format!("head_out_L{l}H{head}")).unwrap().values();
                sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
            }
            if let Some(bias) = model.attention_bias(l) {
                sum.iter_mut().zip(bias.iter().cycle()).for_each(|(sum, b)| *sum += b);
            }
            let error = relative_error(&sum, raw);
            assert!(error < rounding(model), "{name}, layer {l}: the heads' sum is off by {error:.1e}");
        }
    });
}

#[test]
fn patterns_are_distributions_over_what_a_query_may_see() {
    for_every_variant(|name, model| {
        let rows = two_rows(model);
        let cache = capture(model, &rows, all_points(model));
        let mut windows = 0;
        for (l, layer) in model.arch().layers.iter().enumerate() {
            let Some(attention) = &layer.attention else { continue };
            let window = match attention.window {
                Window::Full => usize::MAX,
                Window::Sliding(n) => n,
            };
            windows += usize::from(window < rows[0].len());
            let has_sink = attention.sinks == Bias::Stored;
            for head in 0..model.arch().n_heads {
                let kept = cache.get(format!("pattern_L{l}H{head}")).unwrap();
                for (row, ids) in rows.iter().enumerate() {
                    assert_eq!(kept.row_shapes[row], [ids.len(), ids.len()]);
                    for (query, weights) in kept.row(row).chunks_exact(ids.len()).enumerate() {
                        let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
                        assert!(
                            (sum - 1.0).abs() < 2e-6 || (has_sink && sum > 0.0 && sum < 1.0),
                            "{name}, layer {l}, head {head}: a row sums to {sum}"
                        );
                        for (key, weight) in weights.iter().enumerate() {
                            let hidden = key > query || query - key >= window;
                            assert!(
                                !hidden || weight.to_bits() == 0,
                                "{name}: {query} sees {key} with {weight}"
                            );
                            assert!(*weight >= 0.0, "{name}: {query} sees {key} with {weight}");
                        }
                    }
                }
            }
        }
        let slides = name.starts_with("mistral") || name.starts_with("gemma2") || name.starts_with("gemma3");
        assert!(windows > 0 || !slides, "{name}: no window was shorter than the row");
    });
}

#[test]
fn last_layernorm_holds_the_statistics_of_what_enters_the_final_norm() {
    for_every_model(|name, model| {
        let cache = capture(model, &two_rows(model), all_points(model));
        let statistic = |part: &str| cache.get(format!("last_layernorm.{part}"));
        if model.arch().final_norm.is_none() {
            assert!(statistic("mean").is_none(), "{name}");
            return;
        }
        let stream = values(&cache, Site::ResidOut, model.arch().layers.len() - 1);
        let (mut means, mut variances, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
        for vector in stream.chunks_exact(model.arch().d_model) {
            let vector: Vec<f64> = vector.iter().map(|x| f64::from(*x)).collect();
            let average =
                |f: &dyn Fn(f64) -> f64| vector.iter().map(|x| f(*x)).sum::<f64>() / vector.len() as f64;
            let mean = average(&|x| x);
            means.push(mean as f32);
            variances.push(average(&|x| (x - mean) * (x - mean)) as f32);
            seconds.push(average(&|x| x * x) as f32);
        }
        for (part, expected) in [("mean", means), ("variance", variances), ("second_moment", seconds)] {
            let error = relative_error(statistic(part).unwrap().values(), &expected);
            // Both are sums in f64; they differ only in the last rounding.
            assert!(error < 2e-7, "{name}: {part} is off by {error:.1e}");
        }
    });
}
