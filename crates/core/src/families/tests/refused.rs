//! What is refused, with errors that name it.

use serde_json::json;

use super::*;
use crate::error::ErrorKind;

/// The config of fixture `case` overlaid with `change`, without the keys in `remove`.
fn changed(case: &str, change: &Value, remove: &[&str]) -> Value {
    let mut config: Value = serde_json::from_str(&config_of(&folder("tiny").join(case))).unwrap();
    let map = config.as_object_mut().unwrap();
    for key in remove {
        map.remove(*key);
    }
    for (key, value) in change.as_object().unwrap() {
        map.insert(key.clone(), value.clone());
    }
    config
}

#[track_caller]
fn refused(case: &str, change: Value, words: &[&str]) {
    let error = read_json(&changed(case, &change, &[])).expect_err(&format!("{case} with {change}"));
    let text = format!("{error} {}", error.hint_text().unwrap_or_default());
    for word in words {
        assert!(text.contains(word), "{case} with {change}: {text:?} does not say {word:?}");
    }
}

#[track_caller]
fn accepted(case: &str, change: Value) -> Reading {
    read_json(&changed(case, &change, &[])).unwrap_or_else(|e| panic!("{case} with {change}: {e}"))
}

#[test]
fn an_unknown_key_is_refused_by_its_name() {
    refused("llama", json!({"attention_sinks": 4}), &["attention_sinks", "--allow-config-key"]);
    refused(
        "llama",
        json!({"rope_parameters": {"rope_type": "default", "bend": 2}}),
        &["rope_parameters.bend"],
    );
    refused(
        "gemma3_text",
        json!({"rope_parameters": {"full_attention": {"bend": 2}}}),
        &["rope_parameters.full_attention.bend"],
    );
    // A flat object has no meaning if tables depend on the layer type.
    refused("gemma3_text", json!({"rope_parameters": {"rope_theta": 5.0}}), &["rope_parameters.rope_theta"]);
}

#[test]
fn an_unknown_key_can_be_let_through_by_name() {
    let config =
        changed("llama", &json!({"odd": 1, "rope_parameters": {"rope_type": "default", "bend": 2}}), &[]);
    let config = Config::parse(config.to_string().as_bytes()).unwrap();
    let allowed = ["odd".to_owned(), "rope_parameters.bend".to_owned(), "never_there".to_owned()];
    let reading = read(&config, &allowed).unwrap();
    assert_eq!(reading.let_through, ["rope_parameters.bend", "odd"]);
}

#[test]
fn a_rope_that_is_not_computed_is_refused_by_its_type() {
    for case in ["llama", "mistral", "qwen2", "granite"] {
        refused(case, json!({"rope_parameters": {"rope_type": "mrope"}}), &["rope_type", "mrope", "llama3"]);
        refused(case, json!({"rope_scaling": {"type": "proportional"}}), &["type", "proportional", "yarn"]);
    }
    refused("phi3", json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), &["linear", "longrope"]);
    refused(
        "gemma3_text",
        json!({"rope_parameters": null, "rope_scaling": {"type": "linear", "factor": 8.0}}),
        &["rope_scaling", "`rope_type`"],
    );
}

#[test]
fn a_rope_must_say_all_that_its_type_needs() {
    let with = |rope: Value| json!({"rope_parameters": rope});
    let lists =
        json!({"rope_type": "longrope", "short_factor": [1, 1, 1, 1, 1], "long_factor": [1, 1, 1, 1, 1, 1]});
    for (rope, words) in [
        (json!({"rope_type": "linear"}), vec!["`factor` is missing"]),
        (json!({"rope_type": "dynamic"}), vec!["`factor` is missing"]),
        (json!({"rope_type": "yarn"}), vec!["`factor` is missing"]),
        (json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}), vec!["high_freq_factor"]),
        (
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}),
            vec!["high_freq_factor", "low_freq_factor"],
        ),
        (json!({"rope_type": "longrope", "short_factor": [1, 1, 1, 1, 1, 1]}), vec!["long_factor"]),
        (lists, vec!["short_factor", "6 numbers"]),
        (json!({"rope_type": "linear", "factor": 0}), vec!["factor", "above zero"]),
        (json!({"rope_type": "linear", "factor": "2"}), vec!["factor", "number"]),
        (json!({"rope_type": "yarn", "factor": 2.0, "beta_fast": -1}), vec!["beta_fast"]),
        (json!({"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.0}), vec!["rope_theta"]),
        (json!({"rope_type": "yarn", "factor": 2.0, "truncate": null}), vec!["truncate"]),
        (json!({"rope_type": "default", "rope_theta": 0}), vec!["rope_theta"]),
        (json!({"rope_type": null}), vec!["rope_type", "null"]),
        (
            json!({"rope_type": "linear", "factor": 2, "partial_rotary_factor": 0.5}),
            vec!["partial_rotary_factor"],
        ),
    ] {
        refused("llama", with(rope), &words);
    }
    refused("llama", json!({"rope_scaling": "linear"}), &["rope_scaling", "an object"]);
}

#[test]
fn models_that_are_not_built_are_refused_by_name() {
    for (model_type, words) in [
        ("gemma3n", ["gemma3n", "several residual streams"]),
        ("diffllama", ["diffllama", "two patterns a head"]),
        ("mllama", ["mllama", "vision"]),
        ("t5", ["t5", "encoder"]),
        ("bert", ["bert", "encoder"]),
        ("rwkv", ["rwkv", "attention"]),
        ("lamma", ["lamma", "supported: gpt2, gpt_neox"]),
    ] {
        refused("llama", json!({"model_type": model_type}), &words);
    }
    refused("llama", json!({"model_type": null}), &["`model_type` is missing"]);
    refused("llama", json!({"model_type": 3}), &["model_type", "a string"]);
    let error = read_text("{\"hidden_size\": 4}").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[test]
fn quantised_weights_are_refused_by_their_method() {
    for method in ["gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors"] {
        refused("llama", json!({"quantization_config": {"quant_method": method}}), &[method, "GGUF"]);
    }
    refused("llama", json!({"quantization_config": {"load_in_4bit": true}}), &["bitsandbytes"]);
    refused("llama", json!({"quantization_config": {"quant_method": "mxfp4"}}), &["mxfp4"]);
    accepted("gpt_oss", json!({"quantization_config": {"quant_method": "mxfp4"}}));
    refused("llama", json!({"quantization": {"bits": 4}}), &["quantization"]);
    accepted("llama", json!({"quantization_config": null}));
}

#[test]
fn what_makes_a_decoder_something_else_is_refused_by_its_key() {
    for (case, change) in [
        ("llama", json!({"is_encoder_decoder": true})),
        ("llama", json!({"vision_config": {"hidden_size": 4}})),
        ("llama", json!({"text_config": {"hidden_size": 4}})),
        ("llama", json!({"is_causal": false})),
        ("llama", json!({"per_layer_config": {"0": {"hidden_act": "relu"}}})),
        ("llama", json!({"rope_interleaved": true})),
        ("gpt2", json!({"add_cross_attention": true})),
        ("gpt2", json!({"pruned_heads": {"0": [1]}})),
        ("gemma", json!({"use_bidirectional_attention": true})),
        ("gemma2", json!({"use_bidirectional_attention": true})),
        ("gemma3_text", json!({"use_bidirectional_attention": true})),
        ("mistral", json!({"attention_bias": true})),
        ("phi3", json!({"attention_bias": true})),
        ("gptj", json!({"rotary": false})),
        ("starcoder2", json!({"norm_type": "rms_norm"})),
    ] {
        let key = change.as_object().unwrap().keys().next().unwrap().clone();
        refused(case, change, &[&key]);
    }
    refused("bloom", json!({"slow_but_exact": true, "pretraining_tp": 2}), &["slow_but_exact"]);
    accepted("bloom", json!({"slow_but_exact": true}));
    accepted("llama", json!({"is_encoder_decoder": false, "is_causal": true, "pruned_heads": {}}));
}

#[test]
fn senseless_sizes_are_refused_by_their_key() {
    for (case, change) in [
        ("llama", json!({"hidden_size": 0})),
        ("llama", json!({"hidden_size": -48})),
        ("llama", json!({"hidden_size": 48.5})),
        ("llama", json!({"hidden_size": "48"})),
        ("llama", json!({"hidden_size": null})),
        ("llama", json!({"vocab_size": 1u64 << 60})),
        ("llama", json!({"num_hidden_layers": 5000})),
        ("llama", json!({"num_key_value_heads": 3})),
        ("llama", json!({"head_dim": 7})),
        ("llama", json!({"rms_norm_eps": 0})),
        ("llama", json!({"rms_norm_eps": 1e-60})),
        ("llama", json!({"rms_norm_eps": null})),
        ("llama", json!({"tie_word_embeddings": 1})),
        ("llama", json!({"hidden_act": "relu6"})),
        ("llama", json!({"hidden_act": null})),
        ("gpt2", json!({"n_head": 5})),
        ("gpt2", json!({"n_layer": 5000})),
        ("gptj", json!({"rotary_dim": 14})),
        ("gptj", json!({"rotary_dim": null})),
        ("gpt_neox", json!({"num_attention_heads": 7})),
        ("stablelm", json!({"head_dim": 16})),
        ("mixtral", json!({"num_experts_per_tok": 5})),
        ("mistral", json!({"num_key_value_heads": null})),
        ("mistral", json!({"sliding_window": 0})),
        ("qwen3", json!({"head_dim": null})),
        ("qwen3_moe", json!({"decoder_sparse_step": 0})),
        ("qwen3_moe", json!({"mlp_only_layers": [-1]})),
        ("qwen2", json!({"layer_types": ["full_attention"]})),
        ("qwen2", json!({"layer_types": ["full_attention", "full_attention", "chunked_attention"]})),
        ("gemma2", json!({"sliding_window": null})),
        ("gemma2", json!({"final_logit_softcapping": 0.0})),
        ("gemma2", json!({"query_pre_attn_scalar": 0})),
        ("granite", json!({"logits_scaling": 0})),
        ("granite", json!({"embedding_multiplier": 1e60})),
    ] {
        let key = change.as_object().unwrap().keys().next().unwrap().clone();
        let key = if key == "head_dim" && case == "llama" { "columns".to_owned() } else { key };
        refused(case, change, &[&key]);
    }
    refused(
        "qwen2",
        json!({"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}),
        &["sliding_window"],
    );
}

#[test]
fn two_names_of_one_thing_must_agree() {
    refused("gpt2", json!({"hidden_size": 64}), &["hidden_size", "n_embd"]);
    refused("bloom", json!({"n_embed": 64}), &["hidden_size", "n_embed"]);
    refused("qwen3_moe", json!({"num_experts": 8}), &["num_local_experts", "num_experts"]);
    refused("gpt_neox", json!({"partial_rotary_factor": 0.5}), &["partial_rotary_factor", "rotary_pct"]);
    refused("gpt_neox", json!({"rope_theta": 500.0}), &["rope_theta", "rotary_emb_base"]);
    refused("gemma", json!({"hidden_activation": "silu"}), &["hidden_activation", "hidden_act"]);
    accepted("gpt2", json!({"hidden_size": 48}));
}

#[test]
fn a_part_of_a_head_that_is_odd_is_refused_where_transformers_fails() {
    // 12 * 0.25 = 3 columns.
    let rope = json!({"rope_parameters": {"rope_type": "default"}});
    refused("stablelm", rope, &["partial_rotary_factor", "even", "3"]);
    // Of 16 columns 5; with 3 there is one number in YaRN's ramp, and that serves both pairs.
    let yarn = |part: f64| json!({"rope_parameters": {"rope_type": "yarn", "factor": 2, "partial_rotary_factor": part}});
    refused("glm", yarn(0.33), &["partial_rotary_factor", "even", "5"]);
    accepted("glm", yarn(0.2));
    let whole = json!({"rope_parameters": {"partial_rotary_factor": 1.0}, "head_dim": 7});
    refused("glm", whole, &["partial_rotary_factor", "from 1 to 6, not 7"]);
}

#[test]
fn a_table_by_length_is_refused_where_positions_begin_at_1() {
    let text = |rope: Value| json!({"model_type": "paligemma", "text_config": {"model_type": "gemma", "rope_parameters": rope}});
    assert!(read_json(&text(json!({"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}))).is_ok());
    let error =
        read_json(&text(json!({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}))).unwrap_err();
    assert!(error.to_string().contains("positions from 1"), "{error}");
}

#[test]
fn shared_keys_without_inputs_of_layers_are_refused_as_transformers_does_not_run_them() {
    let wanted = ["num_kv_shared_layers", "hidden_size_per_layer_input"];
    refused("gemma4_text", json!({"hidden_size_per_layer_input": 0}), &wanted);
    accepted("gemma4_text", json!({"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}));
}

#[test]
fn a_gate_that_the_class_always_has_may_be_named() {
    accepted("qwen3_5_text", json!({"attn_output_gate": true, "output_gate_type": "swish"}));
    let other = json!({"attn_output_gate": false, "output_gate_type": "sigmoid"});
    refused("qwen3_5_text", other, &["attn_output_gate", "output_gate_type"]);
    accepted("nemotron_h", json!({"norm_eps": 1e-5, "partial_rotary_factor": 1.0, "attention_head_dim": 12}));
}

#[test]
fn bytes_that_are_no_config_are_refused() {
    for text in
        ["", "[]", "null", "{\"model_type\": \"llama\"", "{\"model_type\": \"llama\", \"rms_norm_eps\": NaN}"]
    {
        assert_eq!(read_text(text).unwrap_err().kind(), ErrorKind::Config, "{text}");
    }
}

#[test]
fn a_long_value_is_cut_in_messages() {
    let error = read_json(&changed("llama", &json!({"hidden_act": "é".repeat(5000)}), &[])).unwrap_err();
    assert!(error.to_string().chars().count() < 400, "{error}");
}
