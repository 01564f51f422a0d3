//! Every activation of every tiny model compared with transformers, and the page that states the errors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use easyroutine::arch::{Attention, AttentionGate, Bias};
use easyroutine::cache::ActivationCache;
use easyroutine::load::LoadOptions;
use easyroutine::sites::{Point, Site};
use easyroutine::{Dtype, Model, Simd, Value};

use crate::common::taps::{Edit, capture, capture_after};
use crate::common::{Reference, cases, extract, references, relative_error, tiny, tiny_with};

/// Kinds of activations in the order of the forward pass: name in the reference (and on the page), our key.
const KINDS: &[(&str, &str)] = &[
    ("resid_in", "resid_in_{}"),
    ("attn_in", "attn_in_{}"),
    ("kv_compressed", "kv_compressed_{}"),
    ("queries", "queries_L{}"),
    ("keys", "keys_L{}"),
    ("values", "values_L{}"),
    ("pattern", "pattern_L{}H"),
    ("z", "z_L{}"),
    ("attn_gate", "attn_gate_{}"),
    ("attn_raw", "attn_raw_{}"),
    ("attn_out", "attn_out_{}"),
    ("mixer_in", "mixer_in_{}"),
    ("mixer_z", "mixer_z_{}"),
    ("mixer_out", "mixer_out_{}"),
    ("resid_mid", "resid_mid_{}"),
    ("mlp_in", "mlp_in_{}"),
    ("router_logits", "router_logits_{}"),
    ("router_weights", "router_weights_{}"),
    ("mlp_hidden", "mlp_hidden_{}"),
    ("mlp_out", "mlp_out_{}"),
    ("per_layer_out", "per_layer_out_{}"),
    ("resid_out", "resid_out_{}"),
    ("last_layernorm", "last_layernorm"),
    ("final_norm_out", "final_norm_out"),
    ("logits", "logits"),
];

/// Blocked and vectorised sums round differently from torch's: 1e-5. In three models large scores amplify rounding so
/// much that the references themselves are more than 1e-5 away from f64.
fn tolerance(case: &str, name: &str) -> f64 {
    let amplified =
        ["z_2", "attn_raw_2", "pattern_2", "attn_out_2", "z_3", "pattern_3", "attn_raw_3", "attn_out_3"];
    let loud = ["stablelm", "gpt_neo", "nemotron"];
    // The norm behind a gate divides groups of small values by their size: 2.4e-5 without fused sums.
    if case == "falcon_h1" && ["mixer_z_1", "mixer_out_1"].contains(&name) {
        return 3e-5;
    }
    // A gated delta rule corrects its state by what the state holds, which amplifies rounding too.
    if ["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"].contains(&case) {
        return 2e-5;
    }
    if loud.contains(&case) && amplified.contains(&name) { 2e-5 } else { 1e-5 }
}

/// The relative error of every activation in a case's references, by its name there.
fn errors(case: &str, simd: Simd) -> BTreeMap<String, f64> {
    let references = references(case);
    let model =
        tiny_with(case, &LoadOptions { simd: Some(simd), threads: Some(2), ..LoadOptions::default() });
    let rows = references["full.input_ids"].integers();
    let cache = capture(&model, &rows, model.arch().points());
    let mut errors = BTreeMap::new();
    for (name, reference) in &references {
        let Some(name) = name.strip_prefix("full.") else { continue };
        let (kind, layer) = name.rsplit_once('_').unwrap_or((name, ""));
        let mut add = |name: String, ours: &[f32], reference: &[f32]| {
            assert!(errors.insert(name, relative_error(ours, reference)).is_none());
        };
        match (name, kind) {
            ("input_ids", _) => {}
            ("logits" | "final_norm_out", _) => add(name.to_owned(), values(&cache, name), &reference.values),
            (_, "router_index") => {
                let ours = routed(whole(&cache, &format!("router_index_{layer}")), None, reference.shape[2]);
                assert_eq!(
                    ours,
                    routed(&whole_of(&reference.values), None, reference.shape[2]),
                    "{case}: {name}"
                );
            }
            // References list a token's experts in any order.
            (_, "router_weights") => {
                let k = reference.shape[2];
                let ours = whole(&cache, &format!("router_index_{layer}"));
                let theirs = whole_of(&references[&format!("full.router_index_{layer}")].values);
                let of = |index: &[i64], weights: &[f32]| -> Vec<f32> {
                    routed(index, Some(weights), k).into_iter().map(|(_, weight)| weight).collect()
                };
                let expected = of(&theirs, &reference.values);
                add(
                    name.to_owned(),
                    &of(ours, values(&cache, &format!("router_weights_{layer}"))),
                    &expected,
                );
            }
            ("final_norm_in", _) => {
                let last = format!("resid_out_{}", model.arch().layers.len() - 1);
                add(last.clone() + " (last)", values(&cache, &last), &reference.values);
                let statistics = moments(&reference.values, model.arch().d_model);
                for (part, expected) in ["mean", "variance", "second_moment"].iter().zip(statistics) {
                    let key = format!("last_layernorm.{part}");
                    add(key.replace("norm.", "norm_"), values(&cache, &key), &expected);
                }
            }
            // Gemma 4's router reports its softmax.
            (_, "router_logits") if case.starts_with("gemma4") => {
                let ours = values(&cache, &format!("router_logits_{layer}"));
                let shares = ours.chunks_exact(reference.shape[2]).flat_map(softmax);
                add(name.to_owned(), &shares.collect::<Vec<f32>>(), &reference.values);
            }
            (_, "pattern") => add(name.to_owned(), &pattern(&model, &cache, layer), &reference.values),
            (_, "z") => {
                add(name.to_owned(), values(&cache, &format!("z_L{layer}")), &reference.values);
                if mixes_other_than_values(&model) {
                    continue;
                }
                let expected = through_output(&model, layer.parse().unwrap(), reference);
                add(format!("attn_raw_{layer}"), values(&cache, &format!("attn_raw_{layer}")), &expected);
            }
            _ => {
                let (_, key) =
                    KINDS.iter().find(|(theirs, _)| *theirs == kind).unwrap_or_else(|| panic!("{name}?"));
                add(name.to_owned(), values(&cache, &key.replace("{}", layer)), &reference.values);
            }
        }
    }
    assert!(errors.len() > 15, "{case}: only {} tensors were compared", errors.len());
    errors
}

/// The experts of each token with their weights, in ascending order.
fn routed(index: &[i64], weights: Option<&[f32]>, k: usize) -> Vec<(i64, f32)> {
    let weight = |i: usize| weights.map_or(1.0, |weights| weights[i]);
    let mut pairs: Vec<(i64, f32)> = index.iter().enumerate().map(|(i, e)| (*e, weight(i))).collect();
    pairs.chunks_exact_mut(k).for_each(|of_token| of_token.sort_by_key(|(expert, _)| *expert));
    pairs
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let powers: Vec<f64> = scores.iter().map(|x| f64::from(*x).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| (power / sum) as f32).collect()
}

fn whole<'a>(cache: &'a ActivationCache, key: &str) -> &'a [i64] {
    match &cache.get(key).unwrap_or_else(|| panic!("no {key}")).data {
        easyroutine::cache::Numbers::I64(whole) => whole,
        easyroutine::cache::Numbers::F32(_) => panic!("{key} are whole numbers"),
    }
}

fn whole_of(values: &[f32]) -> Vec<i64> {
    values.iter().map(|x| *x as i64).collect()
}

/// Whether the only token of a row mixes anything but its own value: a sink, a gate or a norm of values takes part.
fn mixes_other_than_values(model: &Model) -> bool {
    let is_apart =
        |a: &Attention| a.sinks == Bias::Stored || a.gate == AttentionGate::Sigmoid || a.v_norm.is_some();
    model.arch().layers.iter().flat_map(|layer| &layer.attention).any(is_apart)
}

fn values<'a>(cache: &'a ActivationCache, key: &str) -> &'a [f32] {
    cache.get(key).unwrap_or_else(|| panic!("no {key}")).values()
}

/// All heads of a layer as the reference stores them: `[B, H, S, S]`.
fn pattern(model: &Model, cache: &ActivationCache, layer: &str) -> Vec<f32> {
    let heads: Vec<_> = (0..model.arch().n_heads)
        .map(|head| cache.get(format!("pattern_L{layer}H{head}")).unwrap())
        .collect();
    let rows = 0..heads[0].row_shapes.len();
    rows.flat_map(|row| heads.iter().flat_map(move |kept| kept.row(row))).copied().collect()
}

/// Mixed values through the output projection and its bias. A row of one token mixes only its own value, so each
/// token's mixed values replace the values of such a row.
fn through_output(model: &Model, layer: usize, mixed: &Reference) -> Vec<f32> {
    let heads = model.arch().heads(layer);
    let vectors: Vec<&[f32]> = mixed.values.chunks_exact(heads.mixed()).collect();
    let rows = vec![vec![1]; vectors.len()];
    let put = |point: Point, value: &mut Value<'_>| {
        let head = point.head().unwrap();
        for (row, vector) in vectors.iter().enumerate() {
            value.vector_mut(row, 0).unwrap().copy_from_slice(&vector[heads.of_value(head)]);
        }
    };
    let at = (0..model.arch().n_heads).map(|head| Point::head_of(Site::HeadValues, layer, head)).collect();
    let raw = Point::layer_of(Site::AttnRaw, layer);
    values(&capture_after(model, &rows, [raw], Edit { at, change: put }), &raw.to_string()).to_vec()
}

/// Mean, variance and second moment of each vector.
fn moments(values: &[f32], width: usize) -> [Vec<f32>; 3] {
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    for vector in values.chunks_exact(width) {
        let average =
            |f: &dyn Fn(f64) -> f64| vector.iter().map(|x| f(f64::from(*x))).sum::<f64>() / width as f64;
        let mean = average(&|x| x);
        all[0].push(mean as f32);
        all[1].push(average(&|x| (x - mean).powi(2)) as f32);
        all[2].push(average(&|x| x * x) as f32);
    }
    all
}

#[test]
fn every_activation_is_that_of_transformers_on_every_set_of_instructions() {
    let mut failures = Vec::new();
    for case in cases("tiny") {
        for simd in Simd::available() {
            for (name, error) in errors(&case, simd) {
                if error.is_nan() || error > tolerance(&case, &name) {
                    failures.push(format!("{case} on {simd}: {name} differs by {error:.2e}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn padding_on_either_side_changes_nothing() {
    for case in cases("tiny") {
        let references = references(&case);
        let model = tiny(&case);
        for side in ["left", "right"] {
            let ids = references[&format!("{side}.input_ids")].integers();
            let mask: Vec<Vec<u8>> = references[&format!("{side}.attention_mask")]
                .integers()
                .iter()
                .map(|row| row.iter().map(|m| *m as u8).collect())
                .collect();
            let batch = easyroutine::Batch::from_padded(&ids, &mask).unwrap();
            let rows: Vec<Vec<u32>> = (0..batch.n_rows()).map(|r| batch.row(r).to_vec()).collect();
            let cache = extract(&model, &rows, "logits", "all");
            for row in 0..rows.len() {
                let alone = &references[&format!("{side}.row{row}_alone_logits")];
                let error = relative_error(cache.get("logits").unwrap().row(row), &alone.values);
                assert!(
                    error < tolerance(&case, "logits"),
                    "{case}: {side}-padded row {row} differs by {error:.2e}"
                );
            }
        }
    }
}

/// The largest error of each kind in a case, and the effect of bfloat16 on its logits.
fn measured(case: &str) -> Vec<Option<f64>> {
    let mut largest: BTreeMap<&str, f64> = BTreeMap::new();
    for simd in Simd::available() {
        for (name, error) in errors(case, simd) {
            let of_kind = |(kind, _): &&(&'static str, &str)| {
                name.strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
            };
            let (kind, _) = KINDS.iter().find(of_kind).unwrap_or_else(|| panic!("{name} is of no kind"));
            let worst = largest.entry(kind).or_default();
            *worst = worst.max(error);
        }
    }
    KINDS.iter().map(|(kind, _)| largest.get(kind).copied()).chain([Some(bf16_error(case))]).collect()
}

/// The largest error of the logits when the inputs of matrix products are rounded to bfloat16.
fn bf16_error(case: &str) -> f64 {
    let references = references(case);
    let rows = references["full.input_ids"].integers();
    let of = |simd| {
        let options =
            LoadOptions { dtype: Dtype::Bf16, simd: Some(simd), threads: Some(2), ..LoadOptions::default() };
        let cache = extract(&tiny_with(case, &options), &rows, "logits", "all");
        relative_error(values(&cache, "logits"), &references["full.logits"].values)
    };
    Simd::available().into_iter().map(of).fold(0.0, f64::max)
}

const PAGE: &str = "docs/ACCURACY.md";

/// Rounded up to one digit, as the page states errors.
fn stated(error: f64) -> String {
    if error == 0.0 {
        return "0".to_owned();
    }
    let power = error.log10().floor();
    let digit = (error / 10f64.powf(power)).ceil();
    let (digit, power) = if digit >= 10.0 { (1.0, power + 1.0) } else { (digit, power) };
    format!("{digit}e{power}")
}

fn page(table: &BTreeMap<String, Vec<Option<f64>>>) -> String {
    let mut text = String::from(
        "# Accuracy\n\n\
         The largest difference from transformers (float32, eager attention) over the largest value of the tensor, for every \
         tiny model of `fixtures/tiny` and every kind of activation, over all layers and all sets of instructions of the \
         processor. Rounded up to one digit; \"-\" where the model has no such place or the references do not hold it.\n\n\
         `attn_raw` is compared with the references' mixed values put through the output projection. `bf16 logits` are those \
         of `--dtype bf16`, which rounds the inputs of matrix products to 8 bits; these models have random weights, loud \
         enough that a wrong detail shows, and so does rounding.\n\n\
         A test writes this page (`EASYROUTINE_BLESS=1 cargo test -p easyroutine --test core golden::`) and fails where an error \
         is more than twice what stands here.\n\n| model |",
    );
    let columns: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).chain(["bf16 logits"]).collect();
    columns.iter().for_each(|column| text += &format!(" {column} |"));
    text += "\n|---|";
    columns.iter().for_each(|_| text += "--:|");
    text += "\n";
    for (case, errors) in table {
        text += &format!("| {case} |");
        errors.iter().for_each(|e| text += &format!(" {} |", e.map_or("-".to_owned(), stated)));
        text += "\n";
    }
    text
}

#[test]
fn the_page_of_errors_states_what_is_measured() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(PAGE);
    let table: BTreeMap<String, Vec<Option<f64>>> =
        cases("tiny").into_iter().map(|case| (case.clone(), measured(&case))).collect();
    if std::env::var_os("EASYROUTINE_BLESS").is_some() {
        std::fs::write(&path, page(&table)).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let frame = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| !line.starts_with("| ") || line.starts_with("| model"))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(
        frame(&text),
        frame(&page(&table)),
        "{PAGE} is not as the test writes it: EASYROUTINE_BLESS=1"
    );
    let mut listed = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| model")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let measured =
            table.get(cells[0]).unwrap_or_else(|| panic!("{PAGE}: `{}` is not a tiny model", cells[0]));
        assert_eq!(cells.len(), measured.len() + 1, "{PAGE}: {line}");
        for ((error, cell), column) in measured.iter().zip(&cells[1..]).zip(0..) {
            let kind = KINDS.get(column).map_or("bf16 logits", |(kind, _)| kind);
            match (error, cell.parse::<f64>()) {
                (None, _) => assert_eq!(*cell, "-", "{PAGE}: {} has no {kind}", cells[0]),
                (Some(error), Ok(stated)) => {
                    // An error of exactly 0 means a copy: it stays 0.
                    assert!(
                        *error <= 2.0 * stated,
                        "{}: {kind} differs by {error:.1e}, {PAGE} says {cell}",
                        cells[0]
                    );
                }
                (Some(error), Err(_)) => {
                    panic!("{PAGE}: {}, {kind}: `{cell}` should be {error:.0e}", cells[0])
                }
            }
        }
        assert!(listed.insert(cells[0]), "{PAGE}: {} stands twice", cells[0]);
    }
    assert_eq!(listed.len(), table.len(), "{PAGE} lacks a model; EASYROUTINE_BLESS=1 writes it");
}
