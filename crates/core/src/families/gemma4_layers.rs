//! Layers of Gemma 4 by type: heads, windows, rotary tables, the source of their keys, and names.

use super::parts::{layer_windows, window};
use super::rope::nested_rope;
use super::rope_by_type::{FULL, SLIDING};
use super::sizes::Sizes;
use super::stored;
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

/// Properties that vary by layer.
pub(super) struct Kind {
    pub(super) window: Window,
    pub(super) heads: Heads,
    pub(super) values: ValuesFrom,
    pub(super) keys_of: Option<usize>,
}

impl Kind {
    /// Its rotary table.
    pub(super) fn rope(&self) -> usize {
        if self.window == Window::Full { FULL } else { SLIDING }
    }

    /// A layer's names, with those of its additional input and its attention projections.
    pub(super) fn named(&self, layer: LayerNames, bias: Bias) -> LayerNames {
        let [q, k] = ["self_attn.q_proj", "self_attn.k_proj"].map(|name| Linear::new(name, bias));
        let qkv = match (self.keys_of, self.values) {
            // Checkpoints may hold tensors that these layers do not read.
            (Some(_), _) => QkvNames::Queries {
                q,
                unread: &["self_attn.k_proj", "self_attn.v_proj", "self_attn.k_norm", "self_attn.v_norm"],
            },
            (None, ValuesFrom::Keys) => QkvNames::KeysAreValues { q, k },
            (None, ValuesFrom::Projection) => layer.qkv,
        };
        let per_layer = PerLayerNames {
            gate: "per_layer_input_gate",
            project: "per_layer_projection",
            norm: "post_per_layer_input_norm",
        };
        LayerNames { qkv, per_layer: Some(per_layer), leaving_scale: Some("layer_scalar"), ..layer }
    }
}

/// A size; 0 if the model does without.
pub(super) fn switched(config: &Config, key: &str, default: usize) -> Result<Option<usize>> {
    match config.raw(key).and_then(serde_json::Value::as_u64) {
        Some(0) => Ok(None),
        None if !config.has(key) => Ok(Some(default).filter(|size| *size > 0)),
        _ => config.size(key).map(Some),
    }
}

/// All layers. The last is always full, whatever the config says.
pub(super) fn kinds(config: &Config, sizes: &Sizes) -> Result<Vec<Kind>> {
    match config.raw("use_bidirectional_attention") {
        None | Some(serde_json::Value::Null) => {}
        // Only image tokens attend to one another.
        Some(value) if value == "vision" => {}
        Some(_) => return Err(config.unsupported("use_bidirectional_attention", "null, vision")),
    }
    let n = sizes.n_layers;
    let mut windows = layer_windows(config, n, window(config, Some(512))?, |l| !(l + 1).is_multiple_of(6))?;
    windows[n - 1] = Window::Full;
    let of_keys = config.flag_or("attention_k_eq_v", false)?;
    let own = n - switched(config, "num_kv_shared_layers", 0)?.unwrap_or(0).min(n);
    let heads = heads(config, sizes, &windows, of_keys)?;
    let mut kinds = Vec::with_capacity(n);
    for (l, (window, heads)) in windows.iter().zip(heads).enumerate() {
        let keys_of = match l < own {
            true => None,
            false => match windows[..own].iter().rposition(|other| other == window) {
                Some(of) => Some(of),
                None => {
                    let wanted = "fewer layers, so that each type has one with keys of its own";
                    return Err(config.wrong("num_kv_shared_layers", wanted));
                }
            },
        };
        let values = match of_keys && *window == Window::Full {
            true => ValuesFrom::Keys,
            false => ValuesFrom::Projection,
        };
        kinds.push(Kind { window: *window, heads, values, keys_of });
    }
    Ok(kinds)
}

/// Heads of each layer: from `per_layer_config` of transformers 5, else from the keys on the hub.
fn heads(config: &Config, sizes: &Sizes, windows: &[Window], of_keys: bool) -> Result<Vec<Heads>> {
    let global =
        [config.optional_size("global_head_dim")?, config.optional_size("num_global_key_value_heads")?];
    let listed = config.object("per_layer_config")?;
    let mut all: Vec<Heads> = Vec::with_capacity(windows.len());
    for (l, window) in windows.iter().enumerate() {
        let own = match &listed {
            Some(listed) => match listed.object(&l.to_string())? {
                Some(of) => [of.optional_size("head_dim")?, of.optional_size("num_key_value_heads")?],
                None => [None, None],
            },
            None if *window == Window::Full => {
                [Some(global[0].unwrap_or(512)), global[1].filter(|_| of_keys)]
            }
            None => [None, None],
        };
        let [d_head, n_kv] = [own[0].unwrap_or(sizes.d_head), own[1].unwrap_or(sizes.n_kv_heads)];
        if !sizes.n_heads.is_multiple_of(n_kv) {
            let wanted = format!("{} query heads to be a multiple of {n_kv} key heads", sizes.n_heads);
            return Err(config.wrong("num_global_key_value_heads", &wanted));
        }
        let heads = Heads { n: sizes.n_heads, n_kv, d_head, d_value: d_head };
        let same = windows[..l].iter().position(|other| other == window);
        if same.is_some_and(|same| all[same] != heads) {
            return Err(config.unsupported("per_layer_config", "the same heads in all layers of a type"));
        }
        all.push(heads);
    }
    Ok(all)
}

/// The rotary tables of full and sliding layers.
pub(super) fn ropes(config: &Config, sizes: &Sizes, kinds: &[Kind]) -> Result<Vec<Rope>> {
    let parameters = config.object("rope_parameters")?;
    let absent = [
        r#"{"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}"#,
        r#"{"rope_type": "default", "rope_theta": 10000.0}"#,
    ];
    let mut ropes = Vec::with_capacity(2);
    for (table, (key, absent)) in ["full_attention", "sliding_attention"].into_iter().zip(absent).enumerate()
    {
        let given = parameters.as_ref().map_or(Ok(None), |object| object.object(key))?;
        let object = match given {
            Some(object) => object,
            None => Config::parse_as("config.json", absent.as_bytes())?,
        };
        let of_type = kinds.iter().find(|kind| kind.rope() == table);
        let d_head = of_type.map_or(sizes.d_head, |kind| kind.heads.d_head);
        let sizes = Sizes { d_head, ..*sizes };
        ropes.push(if object.raw("rope_type").is_some_and(|kind| kind == "proportional") {
            proportional(&object, d_head)?
        } else {
            nested_rope(&object, &sizes, 10_000.0)?
        });
    }
    Ok(ropes)
}

/// Only the first pairs of a head rotate, though the table spans the whole head (modeling_rope_utils.py,
/// `_compute_proportional_rope_parameters`).
fn proportional(object: &Config, d_head: usize) -> Result<Rope> {
    let part = object.positive_or("partial_rotary_factor", 1.0)?;
    if part > 1.0 || !d_head.is_multiple_of(2) {
        return Err(object.wrong("partial_rotary_factor", "at most 1, of a head of even width"));
    }
    if object.optional_positive("factor")?.is_some_and(|factor| factor != 1.0) {
        return Err(object.unsupported("factor", "1"));
    }
    Ok(Rope {
        theta: object.positive_or("rope_theta", 10_000.0)?,
        first: 0,
        rotary_dim: d_head,
        pairing: Pairing::Halves,
        turn: Turn::Forward,
        scaling: RopeScaling::Proportional { pairs: (part * d_head as f64 / 2.0) as usize },
    })
}

/// Names of experts that read the stream next to the MLP.
pub(super) fn experts() -> MlpNames {
    let beside = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"];
    MlpNames::Experts {
        router: Linear::new("router.proj", Bias::Absent),
        correction: None,
        apart: Some(&ApartNames {
            router_scale: "router.scale",
            factors: "router.per_expert_scale",
            experts: "pre_feedforward_layernorm_2",
            experts_post: "post_feedforward_layernorm_2",
            shared_post: "post_feedforward_layernorm_1",
        }),
        experts: ExpertNames::Stacked { gate_up: "experts.gate_up_proj", down: "experts.down_proj" },
        latent: None,
        shared: Some(stored::shared(beside, Bias::Absent, None)),
    }
}
