//! Routers and experts: their outputs add up, and a choice can be forced or forbidden exactly.

use easyroutine::arch::{Bias, ExpertWeights, Layer, Mlp, Wiring};
use easyroutine::cache::{ActivationCache, Numbers};
use easyroutine::edit::{Edits, Intervention, Reference};
use easyroutine::positions::{Context, Row};
use easyroutine::sites::Point;
use easyroutine::{Batch, Dtype, Model};

use super::{all_points, for_every_model, for_every_variant, two_rows};
use crate::common::draft::{Draft, Stored};
use crate::common::taps::{capture, capturing};
use crate::common::{assert_same_bits, cases, tiny};

/// The layers with experts, how many there are and how many each token uses.
fn routed(model: &Model) -> impl Iterator<Item = (usize, &Layer, usize, usize)> {
    model.arch().layers.iter().enumerate().filter_map(|(l, layer)| match layer.mlp {
        Some(Mlp::Experts { count, top_k, .. }) => Some((l, layer, count, top_k)),
        _ => None,
    })
}

/// Whether the stream takes the sum of the experts unchanged.
fn adds_as_it_gives(layer: &Layer) -> bool {
    let is_plain = matches!(layer.wiring, Wiring::Sequential { mlp, .. } if mlp.post.is_none());
    is_plain && layer.factors.mlp.is_none()
}

fn values<'a>(cache: &'a ActivationCache, key: &str) -> &'a [f32] {
    cache.get(key).unwrap_or_else(|| panic!("no {key}")).values()
}

fn chosen(cache: &ActivationCache, layer: usize, k: usize) -> Vec<Vec<i64>> {
    match &cache.get(format!("router_index_{layer}")).unwrap().data {
        Numbers::I64(index) => index.chunks_exact(k).map(<[i64]>::to_vec).collect(),
        Numbers::F32(_) => panic!("numbers of experts are whole"),
    }
}

/// Runs two rows under changes in text form.
fn under(model: &Model, points: Vec<Point>, specs: &[String]) -> ActivationCache {
    let rows = two_rows(model);
    let written: Vec<Intervention> =
        specs.iter().map(|spec| spec.parse::<Intervention<Reference>>().unwrap().load().unwrap()).collect();
    let of_rows: Vec<Row<'_>> = rows.iter().enumerate().map(|(n, ids)| Row::of(n, ids)).collect();
    let edits = Edits::new(&written, model.arch(), &of_rows, Context::default()).unwrap();
    let batch = Batch::new(&rows).unwrap();
    let mut taps = (edits, capturing(&rows, points));
    model.forward(&batch, &mut taps).unwrap();
    taps.1.finish(&batch)
}

#[test]
fn a_layer_adds_what_its_experts_give_times_their_weights() {
    for_every_variant(|name, model| {
        let cache = capture(model, &two_rows(model), all_points(model));
        for (l, layer, count, k) in routed(model) {
            // A compressed sum goes through a projection first.
            if !adds_as_it_gives(layer) || layer.experts_latent().is_some() {
                continue;
            }
            let index = chosen(&cache, l, k);
            let weights: Vec<&[f32]> =
                values(&cache, &format!("router_weights_{l}")).chunks_exact(k).collect();
            let out = values(&cache, &format!("mlp_out_{l}"));
            let d_model = model.arch().d_model;
            let mut sum = vec![0.0_f32; out.len()];
            for expert in 0..count {
                let given = values(&cache, &format!("expert_out_{l}E{expert}"));
                for (token, given) in given.chunks_exact(d_model).enumerate() {
                    match index[token].iter().position(|chosen| *chosen == expert as i64) {
                        Some(place) => (sum[token * d_model..].iter_mut().zip(given))
                            .for_each(|(sum, x)| *sum += x * weights[token][place]),
                        None => assert!(given.iter().all(|x| x.to_bits() == 0), "{name}: {token}"),
                    }
                }
            }
            if let Some(shared) = cache.get(format!("shared_out_{l}")) {
                sum.iter_mut().zip(shared.values()).for_each(|(sum, x)| *sum += x);
            }
            assert_same_bits(format_args!("{name}, mlp_out_{l}"), &sum, out);
        }
    });
    let layers = cases("tiny").into_iter().map(|case| routed(&tiny(&case)).count());
    assert!(layers.sum::<usize>() > 10, "few layers have experts");
}

/// The layer and the expert that a tensor belongs to, if experts are stored one by one.
fn of_expert(name: &str) -> Option<(usize, i64)> {
    let number = |mark: &str| name.split_once(mark)?.1.split_once('.')?.0.parse::<u32>().ok();
    Some((number(".layers.")? as usize, i64::from(number(".experts.")?)))
}

#[test]
fn a_token_reads_the_weights_of_its_own_experts_alone() {
    for case in ["deepseek_v3", "mixtral", "nemotron_h", "nemotron_h_latent", "olmoe", "qwen3_moe"] {
        let (clean, row) = (tiny(case), vec![vec![7_u32]]);
        let expected = capture(&clean, &row, all_points(&clean));
        let used: Vec<(usize, Vec<i64>)> =
            routed(&clean).map(|(l, .., k)| (l, chosen(&expected, l, k).concat())).collect();
        let is_unused = |(layer, expert): (usize, i64)| {
            used.iter().any(|(l, experts)| *l == layer && !experts.contains(&expert))
        };
        let mut draft = Draft::of(case);
        let mut unused = draft.tensors.iter_mut().filter(|(name, _)| of_expert(name).is_some_and(is_unused));
        let spoilt = unused.by_ref().map(|(_, tensor)| tensor.bytes.fill(0xff)).count();
        assert!(spoilt > 0, "{case}: every expert is used");
        let model = draft.load().unwrap();
        // The third run lays weights out for products.
        for run in 0..4 {
            let found = capture(&model, &row, all_points(&model));
            for layer in 0..clean.arch().layers.len() {
                let key = format!("resid_out_{layer}");
                assert_same_bits(
                    format_args!("{case}, {key}, run {run}"),
                    values(&found, &key),
                    values(&expected, &key),
                );
            }
            let logits = [&found, &expected].map(|cache| values(cache, "logits"));
            assert_same_bits(format_args!("{case}, logits, run {run}"), logits[0], logits[1]);
        }
    }
}

#[test]
fn experts_in_one_tensor_are_those_stored_one_by_one() {
    let (clean, case) = (tiny("qwen3_5_moe_text"), "qwen3_5_moe_text");
    let mut draft = Draft::of(case);
    for layer in 0..clean.arch().layers.len() {
        let stem = format!("model.layers.{layer}.mlp.experts");
        let mut all: [Vec<f32>; 2] = Default::default();
        let mut take =
            |name: String| draft.tensors.remove(&name).unwrap_or_else(|| panic!("no {name}")).values();
        for expert in 0..5 {
            let [gate, up, down] =
                ["gate", "up", "down"].map(|part| take(format!("{stem}.{expert}.{part}_proj.weight")));
            all[0].extend(gate.into_iter().chain(up));
            all[1].extend(down);
        }
        let [gate_up, down] = all;
        draft.tensors.insert(format!("{stem}.gate_up_proj"), Stored::f32(&[5, 48, 32], gate_up));
        draft.tensors.insert(format!("{stem}.down_proj"), Stored::f32(&[5, 32, 24], down));
    }
    let logits = [clean, draft.load().unwrap()]
        .map(|model| values(&capture(&model, &two_rows(&model), all_points(&model)), "logits").to_vec());
    assert_same_bits(case, &logits[0], &logits[1]);
}

#[test]
fn an_expert_that_is_knocked_out_is_not_chosen_and_has_no_effect() {
    for_every_model(|name, model| {
        for (l, _, _, k) in routed(model) {
            let clean = capture(model, &two_rows(model), all_points(model));
            let expert = chosen(&clean, l, k)[3][0];
            let key = format!("router_logits_{l}[{expert}]@all=-inf");
            let knocked = under(model, all_points(model), std::slice::from_ref(&key));
            assert!(!chosen(&knocked, l, k).concat().contains(&expert), "{name}, layer {l}");
            assert_ne!(values(&clean, "logits"), values(&knocked, "logits"), "{name}, layer {l}");
            assert!(values(&knocked, "logits").iter().all(|x| x.is_finite()), "{name}, layer {l}");
            let spoilt = format!("expert_out_{l}E{expert}@all=1e30");
            let spoilt = under(model, all_points(model), &[key, spoilt]);
            assert_same_bits(
                format_args!("{name}, layer {l}"),
                values(&knocked, "logits"),
                values(&spoilt, "logits"),
            );
        }
    });
}

#[test]
fn an_expert_that_is_forced_is_chosen_first_by_every_token() {
    for_every_model(|name, model| {
        for (l, layer, count, k) in routed(model) {
            let Some(Mlp::Experts { router, .. }) = layer.mlp else { continue };
            for expert in [0, count - 1] {
                let forced =
                    under(model, all_points(model), &[format!("router_logits_{l}[{expert}]@all=inf")]);
                let weights = values(&forced, &format!("router_weights_{l}")).chunks_exact(k);
                for (index, weights) in chosen(&forced, l, k).iter().zip(weights) {
                    assert_eq!(index[0], expert as i64, "{name}, layer {l}");
                    let is_softmax = router
                        == easyroutine::arch::Router {
                            scale: router.scale,
                            groups: router.groups,
                            ..easyroutine::arch::Router::softmax(router.weights)
                        };
                    // A softmax gives all its weight to an infinite score.
                    if is_softmax {
                        assert_eq!(weights[0], router.scale, "{name}, layer {l}");
                        assert!(weights[1..].iter().all(|x| *x == 0.0), "{name}, layer {l}");
                    }
                    assert!(weights.iter().all(|x| x.is_finite()), "{name}, layer {l}: {weights:?}");
                }
            }
        }
    });
}

#[test]
fn without_any_expert_left_only_the_shared_ones_give_something() {
    for_every_model(|name, model| {
        for (l, layer, _, k) in routed(model) {
            let cache = under(model, all_points(model), &[format!("router_logits_{l}@all=-inf")]);
            assert!(chosen(&cache, l, k).concat().iter().all(|expert| *expert == -1), "{name}, layer {l}");
            assert!(values(&cache, &format!("router_weights_{l}")).iter().all(|x| *x == 0.0));
            // A projection after a compressed sum has a bias.
            if adds_as_it_gives(layer)
                && layer.experts_latent().is_none()
                && let Some(shared) = cache.get(format!("shared_out_{l}"))
                && model.dtype() == Dtype::F32
            {
                let out = values(&cache, &format!("mlp_out_{l}"));
                assert_same_bits(format_args!("{name}, mlp_out_{l}"), shared.values(), out);
            }
        }
    });
}

#[test]
fn to_remove_all_experts_is_to_remove_what_they_add_together() {
    for_every_model(|name, model| {
        for (l, layer, ..) in routed(model) {
            let removed = under(model, all_points(model), &[format!("expert_out_{l}@all=0")]);
            // No factor lets anything through.
            let closed = under(model, all_points(model), &[format!("router_weights_{l}@all=0")]);
            assert_same_bits(
                format_args!("{name}, layer {l}"),
                values(&removed, "logits"),
                values(&closed, "logits"),
            );
            // The shared experts are left; a projection after a compressed sum has a bias.
            if adds_as_it_gives(layer) && layer.experts_latent().is_none() && model.dtype() == Dtype::F32 {
                let out = values(&removed, &format!("mlp_out_{l}"));
                match removed.get(format!("shared_out_{l}")) {
                    Some(shared) => {
                        assert_same_bits(format_args!("{name}, mlp_out_{l}"), shared.values(), out);
                    }
                    None => assert!(out.iter().all(|x| *x == 0.0), "{name}, mlp_out_{l}"),
                }
            }
        }
    });
}

#[test]
fn weights_of_renormalised_routers_sum_to_their_scale() {
    for_every_variant(|name, model| {
        let cache = capture(model, &two_rows(model), all_points(model));
        for (l, layer, _, k) in routed(model) {
            let Some(Mlp::Experts { router, .. }) = layer.mlp else { continue };
            let index = chosen(&cache, l, k);
            for mut of_token in index {
                of_token.sort_unstable();
                of_token.dedup();
                assert_eq!(of_token.len(), k, "{name}: a token goes through an expert twice");
            }
            let ExpertWeights::Renormalised { .. } = router.weights else { continue };
            if router.factors == Bias::Stored {
                continue;
            }
            for weights in values(&cache, &format!("router_weights_{l}")).chunks_exact(k) {
                let sum: f32 = weights.iter().sum();
                assert!((sum - router.scale).abs() < 1e-6 * router.scale, "{name}, layer {l}: {sum}");
            }
        }
    });
}

#[test]
fn keys_and_queries_are_changed_where_the_scores_are_taken_of_them() {
    for_every_model(|name, model| {
        if model.arch().layers[1].attention.is_none() {
            return;
        }
        let points = || all_points(model);
        let clean = under(model, points(), &[]);
        // Identical keys give each query the same score for all of them.
        let alike = under(model, points(), &["rotated_keys_L1@all=0".to_owned()]);
        let twice = under(model, points(), &["rotated_queries_L1@all*0".to_owned()]);
        for head in 0..model.arch().n_heads {
            let key = format!("scores_L1H{head}");
            assert_same_bits(format_args!("{name}, {key}"), values(&alike, &key), values(&twice, &key));
            assert_ne!(values(&alike, &key), values(&clean, &key), "{name}, {key}");
        }
        // Also if each query head has its own key, but not if these differ.
        let own = ["head_keys_L1H0@3*1".to_owned(), "rotated_keys_L1@all*0.5".to_owned()];
        let both = under(model, points(), &own);
        let one = under(model, points(), &own[1..]);
        assert_same_bits(name, values(&both, "logits"), values(&one, "logits"));
    });
}
