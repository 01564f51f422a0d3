//! The meaning of an empty config, by the config classes of transformers 5.23.

use serde_json::json;

use super::*;
use crate::arch::*;

fn bare(model_type: &str) -> Arch {
    read_json(&json!({"model_type": model_type})).unwrap_or_else(|e| panic!("{model_type}: {e}")).arch
}

fn with(model_type: &str, keys: Value) -> Arch {
    let mut config = json!({"model_type": model_type});
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    read_json(&config).unwrap_or_else(|e| panic!("{config}: {e}")).arch
}

fn attention_of(layer: &Layer) -> &Attention {
    layer.attention.as_ref().unwrap()
}

/// model_type, d_model, layers, heads, key/value heads, head width, vocabulary, context, tied, neurons.
type Row = (&'static str, [usize; 7], UnembedMatrix, usize);

const DEFAULTS: &[Row] = {
    use UnembedMatrix::{Own, Tied};
    &[
        ("gpt2", [768, 12, 12, 12, 64, 50257, 1024], Tied, 3072),
        ("gpt_neox", [6144, 44, 64, 64, 96, 50432, 2048], Own, 24576),
        ("gptj", [4096, 28, 16, 16, 256, 50400, 2048], Own, 16384),
        ("opt", [768, 12, 12, 12, 64, 50272, 2048], Tied, 3072),
        ("bloom", [64, 2, 8, 8, 8, 250_880, 1 << 28], Tied, 256),
        ("llama", [4096, 32, 32, 32, 128, 32000, 2048], Own, 11008),
        ("mistral", [4096, 32, 32, 8, 128, 32000, 131_072], Own, 14336),
        ("mixtral", [4096, 32, 32, 8, 128, 32000, 131_072], Own, 14336),
        ("qwen2", [4096, 32, 32, 32, 128, 151_936, 32768], Own, 22016),
        ("qwen3", [4096, 32, 32, 32, 128, 151_936, 32768], Own, 22016),
        ("qwen3_moe", [2048, 24, 32, 4, 64, 151_936, 32768], Own, 768),
        ("gemma", [3072, 28, 16, 16, 256, 256_000, 8192], Tied, 24576),
        ("gemma2", [2304, 26, 8, 4, 256, 256_000, 8192], Tied, 9216),
        ("gemma3_text", [2304, 26, 8, 4, 256, 262_208, 131_072], Tied, 9216),
        ("phi", [2048, 24, 32, 32, 64, 51200, 2048], Own, 8192),
        ("phi3", [3072, 32, 32, 32, 96, 32064, 4096], Own, 8192),
        ("olmo2", [4096, 32, 32, 32, 128, 50304, 2048], Own, 11008),
        ("stablelm", [2560, 32, 32, 32, 80, 50304, 4096], Own, 6912),
        ("starcoder2", [3072, 30, 24, 2, 128, 49152, 4096], Tied, 12288),
        ("granite", [4096, 32, 32, 32, 128, 32000, 2048], Own, 11008),
        ("qwen2_vl_text", [8192, 80, 64, 8, 128, 152_064, 32768], Own, 29568),
        ("qwen2_5_vl_text", [8192, 80, 64, 8, 128, 152_064, 32768], Own, 29568),
        ("qwen3_vl_text", [4096, 32, 32, 32, 128, 151_936, 128_000], Own, 22016),
        ("qwen3_vl_moe_text", [2048, 24, 16, 16, 128, 151_936, 128_000], Own, 1408),
        ("chameleon", [4096, 32, 32, 32, 128, 65536, 4096], Own, 11008),
        ("olmo", [4096, 32, 32, 32, 128, 50304, 2048], Own, 11008),
        ("olmo3", [4096, 32, 32, 32, 128, 50304, 2048], Own, 11008),
        ("cohere", [8192, 40, 64, 64, 128, 256_000, 8192], Tied, 22528),
        ("cohere2", [8192, 40, 64, 64, 128, 256_000, 8192], Tied, 22528),
        ("smollm3", [2048, 36, 16, 4, 128, 128_256, 32768], Tied, 11008),
        ("exaone4", [4096, 32, 32, 32, 128, 102_400, 2048], Own, 16384),
        ("glm", [4096, 40, 32, 2, 128, 151_552, 131_072], Own, 13696),
        ("glm4", [4096, 40, 32, 2, 128, 151_552, 131_072], Own, 13696),
        ("ernie4_5", [1024, 18, 16, 2, 128, 103_424, 131_072], Tied, 3072),
        ("hunyuan_v1_dense", [4096, 32, 32, 32, 128, 290_943, 2048], Own, 11008),
        ("helium", [2560, 24, 20, 20, 128, 48000, 4096], Own, 7040),
        ("arcee", [2560, 32, 32, 32, 80, 32000, 4096], Own, 18432),
        ("apertus", [4096, 32, 32, 32, 128, 131_072, 65536], Own, 14336),
        ("seed_oss", [4096, 64, 80, 8, 128, 155_136, 524_288], Own, 27648),
        ("ministral", [4096, 32, 32, 8, 128, 32000, 131_072], Own, 14336),
        ("ministral3", [4096, 34, 32, 8, 128, 131_072, 262_144], Own, 14336),
        ("nemotron", [6144, 32, 48, 48, 128, 256_000, 4096], Own, 24576),
        ("vaultgemma", [2304, 26, 8, 4, 256, 256_000, 8192], Tied, 9216),
        ("nanochat", [768, 12, 6, 6, 128, 50304, 2048], Own, 8192),
        ("falcon", [4544, 32, 71, 1, 64, 65024, 2048], Tied, 18176),
        ("mpt", [2048, 24, 16, 16, 128, 50368, 1 << 28], Tied, 8192),
        ("gpt_neo", [2048, 24, 16, 16, 128, 50257, 2048], Tied, 8192),
        ("gpt_bigcode", [768, 12, 12, 1, 64, 50257, 1024], Tied, 3072),
        ("codegen", [4096, 28, 16, 16, 256, 50400, 2048], Own, 16384),
        ("biogpt", [1024, 24, 16, 16, 64, 42384, 1024], Tied, 4096),
        ("olmoe", [2048, 16, 16, 16, 128, 50304, 4096], Own, 2048),
        ("qwen2_moe", [2048, 24, 16, 16, 128, 151_936, 32768], Own, 1408),
        ("gpt_oss", [2880, 36, 64, 8, 64, 201_088, 131_072], Own, 2880),
        ("glm4_moe_lite", [2048, 47, 20, 20, 256, 154_880, 202_752], Own, 10240),
        ("ernie4_5_moe", [2560, 28, 20, 4, 128, 103_424, 131_072], Tied, 12288),
        ("phimoe", [4096, 32, 32, 8, 128, 32064, 131_072], Own, 6400),
        ("granitemoe", [4096, 32, 32, 32, 128, 32000, 2048], Own, 11008),
        ("granitemoeshared", [4096, 32, 32, 32, 128, 32000, 2048], Own, 11008),
        ("mamba", [768, 32, 0, 0, 0, 50280, 1 << 28], Tied, 0),
        ("falcon_mamba", [768, 32, 0, 0, 0, 50280, 1 << 28], Tied, 0),
        ("falcon_h1", [4096, 32, 32, 8, 128, 128_000, 8192], Own, 14336),
        ("granitemoehybrid", [4096, 32, 32, 32, 128, 32000, 2048], Own, 11008),
        ("lfm2", [2560, 32, 32, 8, 80, 65536, 128_000], Tied, 8192),
        ("mamba2", [4096, 64, 0, 0, 0, 32768, 1 << 28], Own, 0),
        ("nemotron_h", [4096, 4, 32, 8, 128, 131_072, 4096], Own, 0),
        ("qwen3_5_text", [4096, 32, 16, 4, 256, 248_320, 32768], Own, 12288),
        ("qwen3_5_moe_text", [2048, 40, 16, 2, 256, 248_320, 32768], Own, 512),
        ("qwen3_next", [2048, 48, 16, 2, 256, 151_936, 32768], Own, 512),
        ("recurrent_gemma", [2560, 26, 10, 10, 256, 256_000, 1 << 28], Tied, 3840),
        ("minimax_m2", [3072, 62, 48, 8, 128, 200_064, 196_608], Own, 1536),
        ("deepseek_v3", [7168, 61, 128, 128, 192, 129_280, 4096], Own, 18432),
        ("gemma4_text", [2304, 30, 8, 4, 256, 262_144, 131_072], Tied, 9216),
        ("persimmon", [4096, 36, 64, 64, 64, 262_144, 16384], Own, 16384),
    ]
};

#[test]
fn sizes_of_a_config_that_says_nothing() {
    // By default one class has heads of fractional width, so its configs name `head_dim`; another does not say how many
    // experts a token goes through.
    assert_eq!(DEFAULTS.len() + 2, FAMILIES.len());
    for (model_type, sizes, matrix, neurons) in DEFAULTS {
        let a = bare(model_type);
        let got = [a.d_model, a.layers.len(), a.n_heads, a.n_kv_heads, a.d_head, a.vocabulary, a.context];
        assert_eq!(got, *sizes, "{model_type}");
        assert_eq!(a.unembed.matrix, *matrix, "{model_type}");
        assert_eq!(a.layers[0].d_mlp(), *neurons, "{model_type}");
    }
}

#[test]
fn rotary_defaults() {
    for (model_type, theta, rotary_dim) in [
        ("gpt_neox", 1e4, 24),
        ("gptj", 1e4, 64),
        ("llama", 1e4, 128),
        ("mistral", 1e4, 128),
        ("mixtral", 1e6, 128),
        ("qwen2", 1e4, 128),
        ("qwen3", 1e4, 128),
        ("qwen3_moe", 1e4, 64),
        ("gemma", 1e4, 256),
        ("gemma2", 1e4, 256),
        ("gemma3_text", 1e6, 256),
        ("phi", 1e4, 32),
        ("phi3", 1e4, 96),
        ("olmo2", 1e4, 128),
        ("stablelm", 1e4, 20),
        ("starcoder2", 1e4, 128),
        ("granite", 1e4, 128),
    ] {
        let rope = &bare(model_type).ropes[0];
        assert_eq!((rope.theta, rope.rotary_dim, &rope.scaling), (theta, rotary_dim, &RopeScaling::None));
    }
    assert_eq!(bare("gemma3_text").ropes[1].theta, 1e4);
    for model_type in ["gpt2", "opt", "bloom"] {
        assert!(bare(model_type).ropes.is_empty());
    }
}

#[test]
fn windows_of_layers() {
    use Window::{Full, Sliding};
    let of = |arch: Arch| arch.layers.iter().map(|l| attention_of(l).window).collect::<Vec<_>>();
    let three = |keys: Value| {
        let mut keys = keys;
        keys["num_hidden_layers"] = 3.into();
        keys
    };
    for (model_type, keys, windows) in [
        ("llama", json!({}), [Full, Full, Full]),
        ("mistral", json!({}), [Sliding(4096); 3]),
        ("mistral", json!({"sliding_window": null}), [Full; 3]),
        ("mixtral", json!({}), [Full; 3]),
        ("mixtral", json!({"sliding_window": 8}), [Sliding(8); 3]),
        ("phi3", json!({}), [Full; 3]),
        ("phi3", json!({"sliding_window": 8}), [Sliding(8); 3]),
        ("starcoder2", json!({"sliding_window": 8}), [Sliding(8); 3]),
        ("qwen2", json!({"sliding_window": 8}), [Full; 3]),
        ("qwen2", json!({"use_sliding_window": true}), [Full; 3]),
        (
            "qwen2",
            json!({"use_sliding_window": true, "max_window_layers": 1}),
            [Full, Sliding(4096), Sliding(4096)],
        ),
        ("qwen2", json!({"use_sliding_window": true, "max_window_layers": 0}), [Sliding(4096); 3]),
        (
            "qwen2",
            json!({"use_sliding_window": true, "sliding_window": null, "max_window_layers": 0}),
            [Full; 3],
        ),
        (
            "qwen3",
            json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 0,
                   "layer_types": ["full_attention", "sliding_attention", "attention"]}),
            [Full, Sliding(8), Full],
        ),
        ("smollm3", json!({"sliding_window": 8}), [Full; 3]),
        (
            "smollm3",
            json!({"sliding_window": 8, "use_sliding_window": true, "no_rope_layers": [1, 0, 1]}),
            [Full, Sliding(8), Full],
        ),
        (
            "smollm3",
            json!({"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "full_attention"]}),
            [Sliding(8), Full, Full],
        ),
        // What the class of transformers 5 writes.
        ("qwen2_moe", json!({"sliding_window": 0}), [Full; 3]),
        ("qwen3_moe", json!({"sliding_window": 8}), [Full; 3]),
        ("qwen3_moe", json!({"sliding_window": 8, "use_sliding_window": true}), [Sliding(8); 3]),
        ("gemma2", json!({}), [Sliding(4096), Full, Sliding(4096)]),
        ("gemma3_text", json!({}), [Sliding(4096); 3]),
        ("gemma3_text", json!({"sliding_window_pattern": 2}), [Sliding(4096), Full, Sliding(4096)]),
        (
            "gemma3_text",
            json!({"sliding_window_pattern": 2, "sliding_window": 8,
                   "layer_types": ["full_attention", "full_attention", "sliding_attention"]}),
            [Full, Full, Sliding(8)],
        ),
    ] {
        assert_eq!(of(with(model_type, three(keys.clone()))), windows, "{model_type} {keys}");
    }
}

#[test]
fn a_model_that_reads_images_has_a_head_of_its_own() {
    let read = |model_type: &str, text: Value| {
        let reading = read_json(&json!({"model_type": model_type, "text_config": text})).unwrap();
        (reading.arch.unembed.divisor, reading.arch.unembed.softcap, reading.warnings.len())
    };
    let granite = json!({"model_type": "granite", "logits_scaling": 8.0});
    assert_eq!(read("llava_next", granite), (None, None, 1));
    let capped = json!({"model_type": "gemma2", "final_logit_softcapping": 9.0});
    assert_eq!(read("llava", capped.clone()), (None, None, 1));
    assert_eq!(read("paligemma", capped), (None, Some(9.0), 0));
    assert_eq!(read("gemma3", json!({"final_logit_softcapping": 9.0})), (None, None, 1));
    assert_eq!(read("gemma4", json!({"final_logit_softcapping": 9.0})), (None, Some(9.0), 0));
    let phi = json!({"model_type": "llava", "text_config": {"model_type": "phi"}});
    assert_eq!(read_json(&phi).unwrap().arch.unembed.bias, Bias::Absent);
}

#[test]
fn gemma3_scales_its_full_layers_alone() {
    let scaling = RopeScaling::Linear { factor: 8.0 };
    for keys in [
        json!({"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        json!({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}}),
    ] {
        let arch = with("gemma3_text", keys);
        assert_eq!(arch.ropes[0].scaling, scaling);
        assert_eq!(arch.ropes[1].scaling, RopeScaling::None);
        assert_eq!((arch.ropes[0].theta, arch.ropes[1].theta), (1e6, 1e4));
        assert_eq!(arch.context, 8 * 131_072);
    }
    let arch = with("gemma3_text", json!({"rope_theta": 7.0, "rope_local_base_freq": 5.0}));
    assert_eq!((arch.ropes[0].theta, arch.ropes[1].theta), (7.0, 5.0));
}

#[test]
fn partial_rotary_factors() {
    let dim = |model_type, keys| with(model_type, keys).ropes[0].rotary_dim;
    assert_eq!(dim("gpt_neox", json!({"rotary_pct": 1.0})), 96);
    assert_eq!(dim("gpt_neox", json!({"rope_parameters": {"partial_rotary_factor": 0.5}})), 48);
    // The rope's own object takes precedence.
    let both = json!({"rope_parameters": {"partial_rotary_factor": 0.5}, "partial_rotary_factor": 1.0});
    assert_eq!(dim("phi", both), 32);
    assert_eq!(dim("phi", json!({"partial_rotary_factor": 0.4, "hidden_size": 2560})), 32);
    assert_eq!(dim("phi3", json!({"partial_rotary_factor": 0.75, "head_dim": 128})), 96);
    // An odd number is kept for the frequencies, and rounded up for the columns.
    let odd = with("glm", json!({"partial_rotary_factor": 0.25, "head_dim": 12}));
    assert_eq!((odd.ropes[0].rotary_dim, odd.ropes[0].pairs()), (3, 2));
    // The default type of these classes ignores it.
    assert_eq!(dim("llama", json!({"partial_rotary_factor": 0.5})), 128);
    assert_eq!(dim("qwen2", json!({"rope_parameters": {"partial_rotary_factor": 0.5}})), 128);
}

#[test]
fn rope_scaling_comes_before_rope_parameters() {
    let arch = with(
        "llama",
        json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0},
               "rope_scaling": {"rope_type": "linear", "type": "dynamic", "factor": 2.0}, "rope_theta": 77.0}),
    );
    assert_eq!(arch.ropes[0].theta, 77.0);
    assert_eq!(arch.ropes[0].scaling, RopeScaling::Linear { factor: 2.0 });
    let arch = with(
        "llama",
        json!({"rope_scaling": {}, "rope_parameters": {"rope_theta": 5.0}, "rope_theta": null}),
    );
    assert_eq!((arch.ropes[0].theta, &arch.ropes[0].scaling), (5.0, &RopeScaling::None));
}

#[test]
fn original_context_of_a_rope() {
    let llama3 =
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    let original = |keys: Value| match with("llama", keys).ropes[0].scaling {
        RopeScaling::Llama3 { original, .. } => original,
        ref other => panic!("{other:?}"),
    };
    assert_eq!(original(json!({"rope_scaling": llama3})), 2048);
    let mut named = llama3.clone();
    named["original_max_position_embeddings"] = 512.into();
    assert_eq!(original(json!({"rope_scaling": named})), 512);
    assert_eq!(original(json!({"rope_scaling": named, "original_max_position_embeddings": 256})), 256);
}

#[test]
fn yarn_by_every_key() {
    let yarn = |keys: Value| {
        let mut rope = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024});
        rope.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        match with("qwen2", json!({"rope_scaling": rope})).ropes[0].scaling {
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original, attention_factor, bounds } => {
                (factor, beta_fast, beta_slow, original, attention_factor, bounds)
            }
            ref other => panic!("{other:?}"),
        }
    };
    let usual = 0.1 * 4.0_f64.ln() + 1.0;
    let whole = RampBounds::Whole;
    assert_eq!(yarn(json!({})), (4.0, 32.0, 1.0, 1024, usual, whole));
    let zero = json!({"beta_fast": 0, "beta_slow": null, "mscale": 0, "mscale_all_dim": 1.0, "attention_factor": null});
    assert_eq!(yarn(zero), (4.0, 32.0, 1.0, 1024, usual, whole));
    let scales = json!({"mscale": 2.0, "mscale_all_dim": 0.5, "truncate": false});
    let ratio = (0.2 * 4.0_f64.ln() + 1.0) / (0.05 * 4.0_f64.ln() + 1.0);
    assert_eq!(yarn(scales), (4.0, 32.0, 1.0, 1024, ratio, RampBounds::Exact));
    assert_eq!(yarn(json!({"attention_factor": 1.25, "mscale": 2.0})).4, 1.25);
    assert_eq!(yarn(json!({"factor": null})).0, 32.0, "the context over the original one");
}

#[test]
fn longrope_of_phi3() {
    let list = vec![1.5; 48];
    let factor = |keys: Value| {
        let mut config = json!({"rope_scaling": {"type": "su", "short_factor": list, "long_factor": list},
                                "max_position_embeddings": 131_072});
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        match with("phi3", config).ropes[0].scaling {
            RopeScaling::LongRope { original, attention_factor, .. } => (original, attention_factor),
            ref other => panic!("{other:?}"),
        }
    };
    let formula = |factor: f64, original: f64| (1.0 + factor.ln() / original.ln()).sqrt();
    assert_eq!(factor(json!({})), (4096, formula(32.0, 4096.0)));
    assert_eq!(factor(json!({"original_max_position_embeddings": 8192})), (8192, formula(16.0, 8192.0)));
    assert_eq!(factor(json!({"max_position_embeddings": 4096})), (4096, 1.0));
    let given = json!({"type": "yarn", "short_factor": list, "long_factor": list, "attention_factor": 1.19,
                       "original_max_position_embeddings": 64});
    assert_eq!(
        factor(json!({"rope_scaling": given})),
        (4096, 1.19),
        "the object's own original context is not read"
    );
    let given = json!({"type": "longrope", "short_factor": list, "long_factor": list, "factor": 8.0});
    assert_eq!(factor(json!({"rope_scaling": given})), (4096, formula(8.0, 4096.0)));
}

#[test]
fn particular_switches() {
    let gpt2 = with(
        "gpt2",
        json!({"scale_attn_by_inverse_layer_idx": true, "scale_attn_weights": false, "n_inner": 100, "n_layer": 3}),
    );
    let scales: Vec<f32> = gpt2.layers.iter().map(|l| attention_of(l).scale).collect();
    assert_eq!(scales, [1.0, 0.5, 1.0 / 3.0]);
    assert_eq!(gpt2.layers[0].mlp, Some(Mlp::Plain { d_mlp: 100, act: Activation::GeluTanh }));

    let layer = |arch: Arch| arch.layers[0].clone();
    let norm = Norm { kind: NormKind::Layer, eps: 1e-5 };
    let neox = layer(with("gpt_neox", json!({"use_parallel_residual": false, "hidden_act": "gelu_fast"})));
    assert!(matches!(neox.wiring, Wiring::Sequential { .. }));
    assert!(matches!(neox.mlp, Some(Mlp::Plain { act: Activation::GeluTanh, .. })));
    assert_eq!(layer(bare("gpt_neox")).wiring, Wiring::Parallel { attention: norm, mlp: Some(norm) });
    assert_eq!(layer(bare("phi")).wiring, Wiring::Parallel { attention: norm, mlp: None });
    assert_eq!(
        attention_of(&layer(with("phi", json!({"qk_layernorm": true})))).qk_norm,
        QkNorm::PerHead(norm)
    );

    let stable = layer(with("stablelm", json!({"qk_layernorm": true, "use_parallel_residual": true})));
    assert_eq!(stable.wiring, Wiring::Parallel { attention: norm, mlp: None });
    let own = Norm { kind: NormKind::LayerNoBias, eps: 1e-5 };
    assert_eq!(attention_of(&stable).qk_norm, QkNorm::PerHeadOwnWeights(own));

    let opt = with("opt", json!({"_remove_final_layer_norm": true, "layer_norm_elementwise_affine": false}));
    assert_eq!(opt.final_norm, None);
    let bare_norm = Norm { kind: NormKind::LayerNoParams, eps: 1e-5 };
    assert_eq!(layer(opt).wiring, parts::pre_norm(bare_norm));
    assert_eq!(bare("opt").embed.positions, Some(LearnedPositions { offset: 2, rows: 2050 }));

    let gemma = bare("gemma");
    assert_eq!(gemma.embed.scale, Some(3072_f32.sqrt()));
    let gelu = |name: &str| layer(with("gemma", json!({"hidden_act": name}))).mlp;
    assert_eq!(gelu("gelu"), gelu("gelu_pytorch_tanh"));
    let gemma2 = bare("gemma2");
    assert_eq!((attention_of(&gemma2.layers[0]).softcap, gemma2.unembed.softcap), (Some(50.0), Some(30.0)));
    assert_eq!(attention_of(&gemma2.layers[0]).scale, 1.0 / 16.0);
    let none = with("gemma2", json!({"attn_logit_softcapping": null, "final_logit_softcapping": null}));
    assert_eq!((attention_of(&none.layers[0]).softcap, none.unembed.softcap), (None, None));
    // The class has the key, but its attention does not apply it.
    assert_eq!(
        attention_of(&layer(with("gemma3_text", json!({"attn_logit_softcapping": 50.0})))).softcap,
        None
    );

    let granite = bare("granite");
    assert_eq!((granite.embed.scale, granite.unembed.divisor), (None, None));
    assert_eq!((attention_of(&granite.layers[0]).scale, granite.layers[0].factors.mlp), (1.0, None));
}

#[test]
fn experts_of_qwen3_moe_stand_where_the_config_puts_them() {
    let experts = |keys: Value| {
        let arch = with("qwen3_moe", keys);
        arch.layers.iter().map(|l| matches!(l.mlp, Some(Mlp::Experts { .. }))).collect::<Vec<_>>()
    };
    let layers = |mut keys: Value| {
        keys["num_hidden_layers"] = 4.into();
        keys
    };
    assert_eq!(experts(layers(json!({}))), [true; 4]);
    assert_eq!(experts(layers(json!({"mlp_only_layers": [1, 99]}))), [true, false, true, true]);
    assert_eq!(experts(layers(json!({"decoder_sparse_step": 2}))), [false, true, false, true]);
    assert_eq!(
        experts(layers(json!({"decoder_sparse_step": 2, "mlp_only_layers": [1]}))),
        [false, false, false, true]
    );
    let weights = |keys| match with("qwen3_moe", keys).layers[0].mlp {
        Some(Mlp::Experts { router, count, top_k, .. }) => (router.weights, count, top_k),
        other => panic!("{other:?}"),
    };
    assert_eq!(weights(json!({})), (ExpertWeights::AsTheyAre, 128, 8));
    assert_eq!(
        weights(json!({"norm_topk_prob": true, "num_local_experts": 16})),
        (parts::RENORMALISED, 16, 8)
    );
    assert_eq!(
        weights(json!({"num_experts": 16, "num_experts_per_tok": 2})),
        (ExpertWeights::AsTheyAre, 16, 2)
    );
}

#[test]
fn absent_and_null_heads() {
    let heads = |model_type, keys| {
        let arch = with(model_type, keys);
        (arch.n_kv_heads, arch.d_head)
    };
    assert_eq!(heads("qwen2", json!({"num_attention_heads": 64, "num_key_value_heads": null})), (64, 64));
    assert_eq!(heads("qwen2", json!({"num_attention_heads": 64, "head_dim": null})), (32, 64));
    assert_eq!(heads("llama", json!({"num_attention_heads": 64, "num_key_value_heads": null})), (64, 64));
    assert_eq!(heads("mixtral", json!({"head_dim": null})), (8, 128));
    assert_eq!(
        heads("qwen3", json!({"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8})),
        (8, 128)
    );
    assert_eq!(heads("qwen3_moe", json!({"head_dim": 128})), (4, 128));
}
