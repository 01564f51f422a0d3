//! Adapters in memory, and the models that result from merging them by hand.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::draft::{Draft, Stored, serialized};

/// peft's prefix for a module's name.
const PREFIX: &str = "base_model.model.";

/// An adapter folder in memory.
#[derive(Debug, Clone)]
pub(crate) struct Lora {
    pub(crate) config: Map<String, Value>,
    pub(crate) tensors: BTreeMap<String, Stored>,
}

impl Lora {
    /// A LoRA of rank 3 and alpha 6 on these modules of a model, with numbers of the size of trained ones. Tables get
    /// embedding tensors.
    pub(crate) fn on(draft: &Draft, modules: &[&str], in_out: bool) -> Self {
        let config = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": modules});
        let mut lora = Lora { config: config.as_object().unwrap().clone(), tensors: BTreeMap::new() };
        for module in modules {
            let &[first, second] = draft.tensors[&format!("{module}.weight")].shape.as_slice() else {
                panic!("{module} is not a matrix")
            };
            if is_embedding(module) {
                lora.add(&format!("{module}.lora_embedding_A"), &[3, first]);
                lora.add(&format!("{module}.lora_embedding_B"), &[second, 3]);
                continue;
            }
            let (outputs, inputs) = if in_out { (second, first) } else { (first, second) };
            lora.add(&format!("{module}.lora_A.weight"), &[3, inputs]);
            lora.add(&format!("{module}.lora_B.weight"), &[outputs, 3]);
        }
        lora
    }

    pub(crate) fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.config.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a tensor of small numbers that depend only on its name.
    pub(crate) fn add(&mut self, name: &str, shape: &[usize]) -> &mut Self {
        let mut state = name.bytes().fold(1u64, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(b))) | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.4
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
        self.tensors.insert(format!("{PREFIX}{name}"), Stored::f32(shape, values));
        self
    }

    pub(crate) fn write_into(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        let config = serde_json::to_vec(&self.config).unwrap();
        std::fs::write(folder.join("adapter_config.json"), config).unwrap();
        std::fs::write(folder.join("adapter_model.safetensors"), serialized(&self.tensors)).unwrap();
    }

    /// The model with `scale * B A` added to each updated weight, in f64.
    pub(crate) fn merged(&self, draft: &Draft, scale: f64, in_out: bool) -> Draft {
        let mut merged = draft.clone();
        for (name, a) in &self.tensors {
            let name = name.strip_prefix(PREFIX).unwrap();
            let b =
                |end: &str, other: &str| name.strip_suffix(end).map(|m| (m, format!("{PREFIX}{m}{other}")));
            let (module, b, embedding) =
                match (b(".lora_A.weight", ".lora_B.weight"), b(".lora_embedding_A", ".lora_embedding_B")) {
                    (Some((module, b)), _) => (module, &self.tensors[&b], false),
                    (_, Some((module, b))) => (module, &self.tensors[&b], true),
                    _ => continue,
                };
            let rank = a.shape[0];
            let (inputs, outputs) = (a.shape[1], b.shape[0]);
            let (a, b) = (a.values(), b.values());
            let weight = merged.tensor(&format!("{module}.weight"));
            let (values, columns) = (weight.values(), weight.shape[1]);
            for output in 0..outputs {
                for input in 0..inputs {
                    let sum: f64 = (0..rank)
                        .map(|r| f64::from(b[output * rank + r]) * f64::from(a[r * inputs + input]))
                        .sum();
                    // For an embedding, the rows are the inputs.
                    let place =
                        if in_out || embedding { input * columns + output } else { output * columns + input };
                    weight.set(place, (f64::from(values[place]) + scale * sum) as f32);
                }
            }
        }
        merged
    }
}

/// Whether a module is a lookup table.
pub(crate) fn is_embedding(module: &str) -> bool {
    ["embed_tokens", "wte", "embed_in", "word_embeddings", "embeddings"]
        .iter()
        .any(|end| module.ends_with(end))
}
