//! Metadata and tensor names of GGUF files.

use serde_json::json;

use super::*;
use crate::arch::*;
use crate::families::gguf::{Header, Tensors, config, tensor_names};
use crate::names::{RowOrder, StoredValues};

/// Metadata of `SmolLM2-135M-Instruct.Q4_1.gguf`.
fn smollm2() -> Value {
    json!({
        "general.architecture": "llama", "general.type": "model", "general.file_type": 3,
        "llama.block_count": 30, "llama.context_length": 8192, "llama.embedding_length": 576,
        "llama.feed_forward_length": 1536, "llama.attention.head_count": 9, "llama.attention.head_count_kv": 3,
        "llama.rope.freq_base": 100_000.0, "llama.attention.layer_norm_rms_epsilon": f64::from(1e-5_f32),
        "llama.vocab_size": 49152, "llama.rope.dimension_count": 64,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    })
}

/// Metadata of `gemma-3-270m-q4_k_m.gguf`.
fn gemma3() -> Value {
    json!({
        "general.architecture": "gemma3", "general.type": "model",
        "gemma3.context_length": 32768, "gemma3.embedding_length": 640, "gemma3.block_count": 18,
        "gemma3.feed_forward_length": 2048, "gemma3.attention.head_count": 4, "gemma3.attention.head_count_kv": 1,
        "gemma3.attention.layer_norm_rms_epsilon": f64::from(1e-6_f32), "gemma3.attention.key_length": 256,
        "gemma3.attention.value_length": 256, "gemma3.rope.freq_base": 1_000_000.0,
        "gemma3.attention.sliding_window": 512,
    })
}

fn config_with(metadata: &Value, vocabulary: usize, divisors: Option<&[f32]>) -> Result<Map<String, Value>> {
    let tensors: Tensors = [("token_embd.weight".to_owned(), vec![vocabulary, 8])].into();
    let metadata = metadata.as_object().unwrap();
    let header = Header { metadata, tensors: &tensors, rope_divisors: divisors, rope_factors: None };
    Ok(config(&header, &[])?.0)
}

fn arch_of(metadata: &Value, vocabulary: usize) -> Arch {
    let map = config_with(metadata, vocabulary, None).unwrap();
    read(&Config::from_map("config.json", map), &[]).unwrap().arch
}

#[track_caller]
fn refused(mut metadata: Value, change: &Value, word: &str) {
    metadata.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let error = config_with(&metadata, 100, None).expect_err(&change.to_string());
    assert!(error.to_string().contains(word), "{error}");
}

#[test]
fn metadata_of_smollm2_is_its_config() {
    // The relevant part of config.json of HuggingFaceTB/SmolLM2-135M-Instruct.
    let hub = json!({
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "rope_theta": 100_000, "tie_word_embeddings": true, "vocab_size": 49152,
    });
    assert_eq!(arch_of(&smollm2(), 49152), read_json(&hub).unwrap().arch);
    let map = config_with(&smollm2(), 49152, None).unwrap();
    assert_eq!(map["rms_norm_eps"], 1e-5, "f32 in the file, the shortest decimal here");
    assert_eq!((&map["bos_token_id"], &map["eos_token_id"]), (&json!(1), &json!(2)));
}

#[test]
fn metadata_of_gemma3_is_its_config() {
    // The relevant part of config.json of google/gemma-3-270m.
    let hub = json!({
        "model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0, "rope_local_base_freq": 10000.0, "sliding_window": 512,
        "query_pre_attn_scalar": 256, "_sliding_window_pattern": 6, "vocab_size": 262_144,
    });
    assert_eq!(arch_of(&gemma3(), 262_144), read_json(&hub).unwrap().arch);
}

#[test]
fn the_27b_models_scale_queries_by_another_number() {
    let mut metadata = gemma3();
    metadata["gemma3.block_count"] = 62.into();
    metadata["gemma3.embedding_length"] = 5376.into();
    metadata["gemma3.attention.head_count"] = 32.into();
    metadata["gemma3.attention.head_count_kv"] = 16.into();
    metadata["gemma3.attention.key_length"] = 128.into();
    metadata["gemma3.attention.value_length"] = 128.into();
    assert_eq!(
        arch_of(&metadata, 100).layers[0].attention.as_ref().unwrap().scale,
        168_f64.powf(-0.5) as f32
    );
}

#[test]
fn rope_scaling_keys() {
    let mut metadata = smollm2();
    metadata["llama.rope.scaling.type"] = "linear".into();
    metadata["llama.rope.scaling.factor"] = 4.0.into();
    assert_eq!(arch_of(&metadata, 100).ropes[0].scaling, RopeScaling::Linear { factor: 4.0 });
    metadata["llama.rope.scaling.type"] = "yarn".into();
    metadata["llama.rope.scaling.original_context_length"] = 2048.into();
    metadata["llama.rope.scaling.finetuned"] = true.into();
    assert!(matches!(
        arch_of(&metadata, 100).ropes[0].scaling,
        RopeScaling::Yarn { factor: 4.0, original: 2048, .. }
    ));
    refused(metadata.clone(), &json!({"llama.rope.scaling.type": "longrope"}), "longrope");
    refused(metadata.clone(), &json!({"llama.rope.scaling.attn_factor": 2.0}), "attn_factor");
    refused(metadata, &json!({"llama.rope.scaling.yarn_ext_factor": 0.5}), "yarn_ext_factor");
    refused(smollm2(), &json!({"llama.rope.scaling.factor": 2.0}), "rope.scaling.factor");
}

#[test]
fn divisors_of_frequencies_are_kept_exactly() {
    let divisors: Vec<f32> = (0..32).map(|i| 1.0 + i as f32 / 3.0).collect();
    let map = config_with(&smollm2(), 100, Some(&divisors)).unwrap();
    let arch = read(&Config::from_map("config.json", map), &[]).unwrap().arch;
    let RopeScaling::LongRope { short, long, attention_factor, .. } = &arch.ropes[0].scaling else {
        panic!("{:?}", arch.ropes)
    };
    assert_eq!(short.iter().map(|d| *d as f32).collect::<Vec<_>>(), divisors);
    assert_eq!((short, *attention_factor), (long, 1.0));
    assert!(config_with(&gemma3(), 100, Some(&divisors)).is_err());
}

#[test]
fn keys_that_are_not_understood_are_refused() {
    refused(smollm2(), &json!({"llama.attention.clamp_kqv": 8.0}), "attention.clamp_kqv");
    refused(smollm2(), &json!({"llama.expert_count": 8}), "`expert_used_count` is missing");
    refused(smollm2(), &json!({"llama.attention.head_count_kv": [3, 1]}), "head_count_kv");
    refused(smollm2(), &json!({"llama.attention.head_count_kv": "3"}), "head_count_kv");
    refused(
        smollm2(),
        &json!({"llama.rope.dimension_count": 32, "llama.attention.key_length": 64}),
        "dimension_count",
    );
    refused(smollm2(), &json!({"llama.block_count": 0}), "block_count");
    refused(smollm2(), &json!({"general.architecture": "rwkv6"}), "rwkv6");
    refused(smollm2(), &json!({"general.architecture": 5}), "general.architecture");
    refused(smollm2(), &json!({"general.type": "adapter"}), "general.type");
    refused(gemma3(), &json!({"gemma3.attention.sliding_window_pattern": ["a"]}), "sliding_window_pattern");
    let mut short = smollm2();
    short.as_object_mut().unwrap().remove("llama.embedding_length");
    refused(short, &json!({}), "`embedding_length` is missing");
    let mut whole = smollm2();
    whole["llama.attention.head_count_kv"] = json!([3, 3, 3]);
    whole["mradermacher.quantized_by"] = "someone".into();
    assert_eq!(arch_of(&whole, 49152), arch_of(&smollm2(), 49152));
}

#[test]
fn every_tensor_of_the_checkpoint_has_a_name_in_the_file() {
    let layer = [
        "attn_norm",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
        "ffn_norm",
    ];
    let gemma = ["attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm"];
    for (metadata, more) in [(smollm2(), &[][..]), (gemma3(), &gemma[..])] {
        let map = config_with(&metadata, 100, None).unwrap();
        let reading = read(&Config::from_map("config.json", map), &[]).unwrap();
        let arch = &reading.arch;
        let modules: Vec<&str> = layer.iter().chain(more).copied().collect();
        let mut stored = vec!["token_embd.weight".to_owned(), "output_norm.weight".to_owned()];
        for l in 0..arch.layers.len() {
            stored.extend(modules.iter().map(|module| format!("blk.{l}.{module}.weight")));
        }
        let architecture = metadata["general.architecture"].as_str().unwrap();
        let shapes = stored.into_iter().map(|name| (name, vec![arch.d_head, 8])).collect();
        let names = tensor_names(architecture, arch, &shapes).unwrap().tensors;
        let mut ours: Vec<String> = names.into_iter().map(|(ours, _)| ours).collect();
        ours.sort();
        let expected: Vec<String> = expected(arch, &reading.names).into_keys().collect();
        assert_eq!(ours, expected, "{architecture}");
    }
}

#[test]
fn what_files_store_differently() {
    let stored = |architecture: &str, metadata: Value, name: &str| {
        let arch = arch_of(&metadata, 100);
        let shapes = [(name.to_owned(), vec![arch.d_head, 8])].into();
        tensor_names(architecture, &arch, &shapes).map(|places| places.tensors[0].1.clone())
    };
    let llama = |name: &str| stored("llama", smollm2(), name);
    assert_eq!(llama("blk.0.attn_q.weight").unwrap().order, RowOrder::Interleaved { d_head: 64 });
    assert_eq!(llama("blk.29.attn_k.weight").unwrap().order, RowOrder::Interleaved { d_head: 64 });
    assert_eq!(llama("blk.0.attn_v.weight").unwrap().order, RowOrder::AsStored);
    assert_eq!(llama("blk.0.attn_norm.weight").unwrap().values, StoredValues::Same);
    let gemma = |name: &str| stored("gemma3", gemma3(), name);
    for norm in ["output_norm", "blk.3.attn_q_norm", "blk.3.post_ffw_norm", "blk.3.ffn_norm"] {
        assert_eq!(gemma(&format!("{norm}.weight")).unwrap().values, StoredValues::PlusOne, "{norm}");
    }
    assert_eq!(gemma("blk.3.attn_q.weight").unwrap().order, RowOrder::AsStored);
    for name in [
        "blk.30.attn_q.weight",
        "blk.00.attn_q.weight",
        "blk.0.ssm_a",
        "blk.x.attn_q.weight",
        "v.blk.0.attn_q.weight",
        "attn_q.weight",
        "",
    ] {
        let error = llama(name).expect_err(name);
        assert!(error.to_string().contains("no place"), "{error}");
    }
    let arch = arch_of(&smollm2(), 100);
    let no_weights = ["rope_freqs.weight", "blk.0.attn_rot_embd.weight"];
    let no_weights = no_weights.map(|name| (name.to_owned(), vec![32])).into();
    assert!(tensor_names("llama", &arch, &no_weights).unwrap().tensors.is_empty());
}

#[test]
fn tensors_that_do_not_make_up_one_of_the_checkpoint_are_refused() {
    let arch = arch_of(&smollm2(), 100);
    let places = |architecture: &str, shapes: &[(&str, &[usize])]| {
        let shapes = shapes.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect();
        tensor_names(architecture, &arch, &shapes)
    };
    let refused = |architecture: &str, shapes: &[(&str, &[usize])], word: &str| {
        let error = places(architecture, shapes).expect_err(word).to_string();
        assert!(error.contains(word), "{error}");
    };
    let gate: (&str, &[usize]) = ("blk.0.ffn_gate.weight", &[4, 8]);
    let whole = places("granitehybrid", &[gate, ("blk.0.ffn_up.weight", &[4, 8])]).unwrap().tensors;
    assert_eq!(
        (whole.len(), &whole[0].1.order, &whole[0].1.shape),
        (1, &RowOrder::InTurn(4), &Some(vec![8, 8]))
    );
    let half = "`blk.0.ffn_gate.weight` do not make up `model.layers.0.shared_mlp.input_linear.weight`";
    refused("granitehybrid", &[gate], half);
    refused("granitehybrid", &[gate, ("blk.0.ffn_up.weight", &[5, 8])], "do not make up");
    refused("llama", &[("blk.0.attn_q.weight", &[63, 8])], "do not make up");
    refused("llama", &[("blk.0.ffn_gate_exps.weight", &[5000, 4, 8])], "do not make up");
    refused("llama", &[("blk.0.ffn_gate_exps.weight", &[8])], "do not make up");
    refused("bloom", &[("blk.0.attn_qkv.weight", &[100, 8])], "do not make up");
    refused("mamba", &[("blk.0.ssm_conv1d.weight", &[8])], "do not make up");
    refused(
        "deepseek2",
        &[("blk.0.attn_k_b.weight", &[2, 3, 4]), ("blk.0.attn_v_b.weight", &[2, 5, 6])],
        "do not make up",
    );
    refused(
        "qwen3next",
        &[("blk.0.attn_qkv.weight", &[8, 8]), ("blk.0.attn_gate.weight", &[4, 8])],
        "do not make up",
    );
    refused("llama", &[("blk.0.x.weight", &[8]), ("y", &[8])], "`blk.0.x.weight`, `y` have no place");
}
