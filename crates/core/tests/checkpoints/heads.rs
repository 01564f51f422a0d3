//! Models without an unembedding: a score head, or none.

use easyroutine::Model;
use easyroutine::arch::{Head, Pooling};
use easyroutine::check::check;
use easyroutine::generate::{GenerateOptions, Sampling, generate};
use easyroutine::lens::LogitLens;
use easyroutine::load::{LoadOptions, load, open};
use easyroutine::request::Request;
use easyroutine::source::ModelFiles;
use serde_json::{Value, json};

use super::{assert_agree, expected, says};
use crate::common::draft::{Draft, Stored};
use crate::common::lora::Lora;
use crate::common::{assert_same_bits, cases, extract, fixtures, folder, relative_error, unembedding_of};

/// A tiny model as another class saves it: without its unembedding, and with other tensors in its place.
fn class(case: &str, name: &str, config: Value, head: &[(&str, &[usize])]) -> Draft {
    let mut draft = Draft::of(case);
    draft.set("architectures", json!([name]));
    draft.config.extend(config.as_object().unwrap().clone());
    draft.tensors.retain(|name, _| !["lm_head.", "embed_out."].iter().any(|head| name.starts_with(head)));
    for (number, (name, shape)) in head.iter().enumerate() {
        let size = shape.iter().product();
        let values = (0..size).map(|i| ((i * 7 + number * 3) % 11) as f32 / 11.0 - 0.4);
        draft.tensors.insert((*name).to_owned(), Stored::f32(shape, values.collect::<Vec<_>>()));
    }
    draft
}

fn width(case: &str) -> usize {
    Draft::of(case).load().unwrap().arch().d_model
}

#[test]
fn a_reward_model_has_the_streams_and_the_score_of_transformers() {
    let path = fixtures().join("checkpoints/reward-model");
    let mut model = load(&folder(path), &LoadOptions::default()).unwrap();
    let expected = expected("reward-model");
    let rows = expected["input_ids"].integers();
    let cache = extract(&model, &rows, "resid_out_*,score", "all");
    assert_agree(&cache, &expected, &["resid_out_0", "resid_out_1", "score"]);
    assert_eq!(cache.get("score").unwrap().shape(), Some(vec![1, 1]));

    let words = ["this is a LlamaForSequenceClassification: it has no unembedding"];
    says(Request::parse("logits", "all").unwrap().points(model.arch()), &words);
    says(LogitLens::from_model(&model), &words);
    let options =
        GenerateOptions { max_new_tokens: 1, sampling: Sampling::Greedy, ends: Vec::new(), seed: 0 };
    says(generate(&model, &rows, &options, (), |_| Ok(std::ops::ControlFlow::Continue(()))), &words);
    let lens = open(&folder(fixtures().join("checkpoints/reward-model")), &LoadOptions::default()).unwrap();
    says(lens.lens(&LoadOptions::default()), &words);
    for outcome in check(&mut model, [&[5, 6, 7, 200, 31], &[90, 14, 3]]).unwrap() {
        assert!(outcome.holds(), "{outcome:?}");
    }
}

#[test]
fn a_pooled_score_is_that_of_the_last_token_that_is_not_padding() {
    let d_model = width("llama");
    let head: &[(&str, &[usize])] = &[("score.weight", &[3, d_model])];
    let labels = json!({"id2label": {"0": "a", "1": "b", "2": "c"}, "pad_token_id": 0});
    let model = class("llama", "LlamaForSequenceClassification", labels.clone(), head).load().unwrap();
    let Head::Score(score) = &model.arch().head else { panic!("{:?}", model.arch().head) };
    assert_eq!((score.labels, score.pooling), (3, Pooling::LastToken { padding: Some(0) }));
    let score = |rows: &[Vec<u32>], positions: &str| {
        let cache = extract(&model, rows, "score", positions);
        let kept = cache.get("score").unwrap().clone();
        assert_eq!(kept.shape(), Some(vec![rows.len(), 3]));
        kept
    };
    let alone = score(&[vec![5, 6, 7]], "all");
    // Padding ids at the end are skipped wherever they stand, as in transformers.
    assert_same_bits("padded", score(&[vec![5, 6, 7, 0, 0]], "all").values(), alone.values());
    // Positions select nothing: there is one score per row.
    assert_same_bits("first", score(&[vec![5, 6, 7]], "0").values(), alone.values());
    let rows = [vec![9, 8], vec![5, 6, 7, 0], vec![0, 0], vec![0, 3, 4, 5, 6, 7, 8]];
    let together = score(&rows, "last");
    for (row, ids) in rows.iter().enumerate() {
        assert_same_bits(row, together.row(row), score(std::slice::from_ref(ids), "all").values());
    }
    // All padding: the first token.
    assert_same_bits("all padding", together.row(2), score(&[vec![0]], "all").values());

    // Without a padding id it is the last token.
    let mut unpadded = class("llama", "LlamaForSequenceClassification", labels, head);
    unpadded.config.remove("pad_token_id");
    let unpadded = unpadded.load().unwrap();
    let of =
        |rows: &[Vec<u32>]| extract(&unpadded, rows, "score", "all").get("score").unwrap().values().to_vec();
    assert_ne!(of(&[vec![5, 6, 7, 0]]), of(&[vec![5, 6, 7]]));
}

#[test]
fn every_family_has_its_heads() {
    for case in cases("tiny") {
        let draft = Draft::of(&case);
        let plain = draft.load().unwrap();
        let width = plain.arch().embed.width.min(plain.arch().d_model);
        let name = draft.config["architectures"][0].as_str().unwrap();
        let stem = name.trim_end_matches("ForCausalLM").trim_end_matches("LMHeadModel");
        let rows = [vec![1, 2, 3, 9, 4], vec![5, 6]];
        let stream = |model: &Model| extract(model, &rows, "resid_out_*", "all");
        let expected = stream(&plain);
        let heads: &[(&str, &str, usize, bool)] = &[
            ("ForSequenceClassification", "score", 2, false),
            ("ForTokenClassification", "score", 4, true),
            ("ForTokenClassification", "classifier", 4, true),
            ("ForQuestionAnswering", "qa_outputs", 2, true),
        ];
        for (end, module, labels, bias) in heads {
            let [weight, offset] = ["weight", "bias"].map(|part| format!("{module}.{part}"));
            let mut tensors: Vec<(&str, Vec<usize>)> = vec![(&weight, vec![*labels, width])];
            if *bias {
                tensors.push((&offset, vec![*labels]));
            }
            let tensors: Vec<(&str, &[usize])> = tensors.iter().map(|(n, s)| (*n, s.as_slice())).collect();
            let config = json!({"num_labels": labels, "id2label": null, "pad_token_id": null});
            let draft = class(&case, &format!("{stem}{end}"), config, &tensors);
            let model = draft.load().unwrap_or_else(|e| panic!("{case} {end}: {e}"));
            assert!(model.warnings().is_empty(), "{case}: {:?}", model.warnings());
            for (key, kept) in stream(&model).iter() {
                assert_same_bits(
                    format!("{case} {end} {key}"),
                    kept.values(),
                    expected.get(key).unwrap().values(),
                );
            }
            let cache = extract(&model, &rows, "score", "all");
            let kept = cache.get("score").unwrap();
            let shapes =
                if *bias { vec![vec![5, *labels], vec![2, *labels]] } else { vec![vec![*labels]; 2] };
            assert_eq!(kept.row_shapes, shapes, "{case} {end}");

            // The score is the logits of a model whose unembedding begins with these rows.
            let rows_of = |name: &str| draft.tensors[name].values();
            let mut with_logits = Draft::of(&case);
            with_logits.set("tie_word_embeddings", false);
            for (name, unembedding) in [(&weight, "weight"), (&offset, "bias")] {
                let own = ["lm_head", "embed_out"].map(|head| format!("{head}.{unembedding}"));
                let own = own.into_iter().find(|name| with_logits.tensors.contains_key(name));
                let size = plain.arch().vocabulary * if unembedding == "weight" { width } else { 1 };
                let shape =
                    [&[plain.arch().vocabulary], &[width][..usize::from(unembedding == "weight")]].concat();
                let mut values = if draft.tensors.contains_key(name) { rows_of(name) } else { Vec::new() };
                values.resize(size, 0.0);
                match (own, unembedding) {
                    (Some(own), _) => drop(with_logits.tensors.insert(own, Stored::f32(&shape, values))),
                    (None, "weight") => {
                        with_logits
                            .tensors
                            .insert(unembedding_of(&case).to_owned(), Stored::f32(&shape, values));
                    }
                    _ => {}
                }
            }
            let model = with_logits.load().unwrap();
            let (arch, reference) = (model.arch(), extract(&model, &rows, "logits", "all"));
            if arch.unembed.softcap.is_some() || arch.unembed.divisor.is_some() {
                continue;
            }
            let has_bias = arch.unembed.bias == easyroutine::arch::Bias::Stored;
            let biases = if *bias && !has_bias { rows_of(&offset) } else { vec![0.0; *labels] };
            let logits = reference.get("logits").unwrap();
            for (row, shape) in logits.row_shapes.iter().enumerate() {
                let of_token = |token: usize| {
                    let logits = &logits.row(row)[token * shape[1]..][..*labels];
                    logits.iter().zip(&biases).map(|(x, b)| x + b).collect::<Vec<f32>>()
                };
                let tokens = if *bias { 0..shape[0] } else { shape[0] - 1..shape[0] };
                let expected: Vec<f32> = tokens.flat_map(of_token).collect();
                let error = relative_error(kept.row(row), &expected);
                assert!(error < 1e-5, "{case} {end}: {error:.1e}");
            }
        }
    }
}

#[test]
fn a_bare_decoder_has_everything_but_logits() {
    for (case, name, prefix) in [("mistral", "MistralModel", "model."), ("qwen2", "Qwen2Model", "model.")] {
        let mut draft = class(case, name, json!({}), &[]);
        draft.tensors =
            draft.tensors.into_iter().map(|(n, t)| (n.trim_start_matches(prefix).to_owned(), t)).collect();
        let mut model = draft.load().unwrap();
        let rows = [vec![1, 2, 3, 9, 4]];
        let stream = |model: &Model| extract(model, &rows, "resid_out_*,pattern_L*H*,last_layernorm", "all");
        let expected = stream(&Draft::of(case).load().unwrap());
        for (key, kept) in stream(&model).iter() {
            assert_same_bits(key, kept.values(), expected.get(key).unwrap().values());
        }
        let no_unembedding = format!("this is a {name}: it has no unembedding");
        says(Request::parse("logits", "all").unwrap().points(model.arch()), &[&no_unembedding]);
        says(LogitLens::from_model(&model), &[&no_unembedding]);
        says(Request::parse("score", "all").unwrap().points(model.arch()), &["it has no head"]);
        assert!(check(&mut model, [&[5, 6, 7], &[9, 4]]).unwrap().iter().all(|outcome| outcome.holds()));

        // A stored unembedding of a class that has none is skipped with a warning.
        let mut stored = draft.clone();
        let matrix = stored.tensors["embed_tokens.weight"].clone();
        stored.tensors.insert("lm_head.weight".to_owned(), matrix);
        let warnings = stored.load().unwrap().warnings().join("\n");
        assert!(
            warnings.contains("`lm_head.weight` is skipped") && warnings.contains("ForCausalLM"),
            "{warnings}"
        );
    }
}

#[test]
fn a_head_may_call_the_base_model_otherwise() {
    let d_model = width("qwen2");
    let head: &[(&str, &[usize])] = &[("qa_outputs.weight", &[2, d_model]), ("qa_outputs.bias", &[2])];
    let mut draft = class("qwen2", "Qwen2ForQuestionAnswering", json!({}), head);
    let rows = [vec![1, 2, 3]];
    let score = |draft: &Draft| {
        let model = draft.load().unwrap();
        extract(&model, &rows, "score", "all").get("score").unwrap().values().to_vec()
    };
    let expected = score(&draft);
    draft.tensors =
        draft.tensors.into_iter().map(|(n, t)| (n.replacen("model.", "transformer.", 1), t)).collect();
    assert_same_bits("transformer.", &score(&draft), &expected);
}

#[test]
fn classes_that_contradict_or_are_not_built_are_spoken_of() {
    let with = |key: &str, value: Value| {
        let mut draft = Draft::of("llama");
        draft.set(key, value);
        draft
    };
    let warnings = |draft: &Draft| draft.open().unwrap().warnings.join("\n");
    let other = warnings(&with("architectures", json!(["MistralForCausalLM"])));
    assert!(other.contains("MistralForCausalLM") && other.contains("`model_type` llama"), "{other}");
    for same in
        [json!(["LLaMAForCausalLM"]), json!(["TFLlamaForCausalLM"]), json!(null), json!(["MyOwnForCausalLM"])]
    {
        assert_eq!(warnings(&with("architectures", same)), "");
    }
    let custom = warnings(&with("auto_map", json!({"AutoModelForCausalLM": "code.Mine"})));
    assert!(custom.contains("auto_map") && custom.contains("not run"), "{custom}");
    let odd = with("architectures", json!(["LlamaForRewardModel"]));
    says(odd.open(), &["LlamaForRewardModel", "not built", "--allow-config-key architectures"]);
    let written = odd.write();
    let allowed_keys = vec!["architectures".to_owned()];
    let model =
        load(&folder(written.path()), &LoadOptions { allowed_keys, ..LoadOptions::default() }).unwrap();
    let [warning] = model.warnings() else { panic!("{:?}", model.warnings()) };
    assert!(warning.contains("`architectures` was let through"), "{warning}");
}

#[test]
fn an_adapter_may_bring_the_head() {
    let draft = Draft::of("llama");
    let d_model = width("llama");
    let mut lora = Lora::on(&draft, &["model.layers.0.self_attn.q_proj"], false);
    lora.set("task_type", "SEQ_CLS")
        .set("modules_to_save", json!(["score"]))
        .add("score.weight", &[1, d_model]);
    let written = draft.write();
    lora.write_into(written.path());
    let files = ModelFiles { adapter: Some(written.path().to_owned()), ..folder(written.path()) };
    let model = load(&files, &LoadOptions::default()).unwrap();
    let rows = [vec![1, 2, 3]];
    let score = extract(&model, &rows, "score", "all").get("score").unwrap().clone();
    assert_eq!(score.shape(), Some(vec![1, 1]));

    let weight = lora.tensors["base_model.model.score.weight"].clone();
    let mut merged = lora.merged(&draft, 2.0, false);
    merged
        .set("architectures", json!(["LlamaForSequenceClassification"]))
        .set("id2label", json!({"0": "good"}));
    merged.tensors.remove("lm_head.weight").unwrap();
    merged.tensors.insert("score.weight".to_owned(), weight);
    let expected = extract(&merged.load().unwrap(), &rows, "score", "all");
    assert!(relative_error(score.values(), expected.get("score").unwrap().values()) < 1e-5);
}
