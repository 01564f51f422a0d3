//! Granite with shared experts: Granite with experts, plus one that every token goes through.

use super::{Family, granitemoe};
use crate::arch::Arch;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family { model_type: "granitemoeshared", read, inert: &[], only: &[] };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let shared = match config.raw("shared_intermediate_size").and_then(serde_json::Value::as_u64) {
        None if !config.has("shared_intermediate_size") => None,
        // No shared expert.
        Some(0) => None,
        _ => Some(config.size("shared_intermediate_size")?),
    };
    granitemoe::read_with(config, shared)
}
