//! Look inside language models: run any Hugging Face decoder, read its activations, project them onto the vocabulary.
//!
//! The modules follow the flow of data: a reference becomes files ([`source`]), text becomes ids ([`tokens`]), a config
//! becomes an architecture ([`config`], [`arch`]), weights become a [`Model`], which runs a [`Batch`] and reports to a
//! [`Tap`]; the [`lens`] reads what a tap kept.
#![forbid(unsafe_code)]

pub mod adapter;
pub mod arch;
pub mod attribution;
mod batch;
pub mod cache;
pub mod check;
pub mod compare;
pub mod config;
pub mod dla;
pub mod edit;
mod error;
pub mod expected;
pub mod export;
pub mod extract;
pub mod extraction;
pub mod families;
pub mod generate;
pub mod gradients;
pub mod identity;
pub mod jacobian;
pub mod lens;
pub mod load;
mod logits;
mod model;
pub mod names;
pub mod pass;
pub mod patching;
pub mod positions;
pub mod prompts;
pub mod request;
pub mod source;
mod stop;
pub mod summed;
mod tap;
pub mod tokens;
pub mod tune;
mod weights;

pub use batch::Batch;
pub use easyroutine_kernels::{Cpu, Dtype, NormKind, Simd, forked, give_back};
pub use easyroutine_sites as sites;
pub use error::{Error, ErrorKind, Result};
pub use logits::{LastLogits, log_sum_exp};
pub use model::{ExactTap, ExactValue, FinalNorm, Frozen, KvCache, LogitRules, Model, Unembedding, Visitor};
pub use stop::Stop;
pub use tap::{Reversible, Tap, Value, Want};

/// Makes the README's example compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
