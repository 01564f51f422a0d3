//! Pairs of prompts with references computed from them.

use easyroutine::Model;
use easyroutine::patching::Metric;

use crate::common::{Reference, fixtures, tensors_of, tiny};

pub(crate) struct Case {
    pub(crate) model: Model,
    pub(crate) references: std::collections::BTreeMap<String, Reference>,
    pub(crate) clean: Vec<Vec<u32>>,
    pub(crate) corrupt: Vec<Vec<u32>>,
    pub(crate) metrics: Vec<Metric>,
}

pub(crate) fn case(name: &str) -> Case {
    let references = tensors_of(&fixtures().join("tiny").join(name).join("attribution.safetensors"));
    let integers = |key: &str| references[key].integers();
    let metrics =
        integers("pairs").iter().map(|p| Metric::LogitDiff { answer: p[0], against: p[1] }).collect();
    let (clean, corrupt) = (integers("clean_ids"), integers("corrupt_ids"));
    Case { model: tiny(name), references, clean, corrupt, metrics }
}
