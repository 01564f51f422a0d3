//! Falcon Mamba: Mamba with norms on the input of the steps and on the weights of input and output.

use super::mamba::{self, scan};
use super::parts::norm;
use super::{Family, Only};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "falcon_mamba",
    read,
    inert: mamba::INERT,
    only: &[("use_falcon_mambapy", Only::Anything)],
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    scan(config, Some(norm(config, NormKind::RmsNoParams, "mixer_rms_eps", 1e-6)?))
}
