//! Runs on disk: activations saved with their provenance, and found months later by any part of it.
//!
//! A run is a folder of safetensors files under `BASE/experiment/model/time/`, made visible by one rename of its
//! `metadata.json`. [`ActivationSaver`] writes runs, [`ActivationLoader`] finds them, and a [`Run`] reads tensors,
//! whole or in part. docs/store.md states the guarantees, and what a crash at any moment leaves.
#![forbid(unsafe_code)]

mod backend;
mod checked;
mod clock;
mod condition;
mod edit;
mod error;
pub mod export;
pub mod fs;
mod gc;
mod hash;
mod import;
mod index;
mod links;
mod loader;
mod manifest;
mod metadata;
mod names;
mod query;
mod read;
mod record_sum;
mod run;
mod save;
mod shard;
mod store;
mod stream;
mod tensor;
mod value;
mod verify;

pub use backend::{Durability, is_url};
pub use condition::{Comparison, Condition, Path};
pub use edit::Edit;
pub use error::{Error, ErrorKind, Result};
pub use gc::{Garbage, Sweep, Swept};
pub use hash::of as checksum;
pub use import::Imported;
pub use loader::{ActivationLoader, QueryResult, Which};
pub use manifest::{Manifest, Part, Pieces, Shard, TensorEntry};
pub use metadata::{Metadata, RESERVED, VERSION};
pub use names::{check_experiment, fresh_name};
pub use query::{Matching, Query};
pub use record_sum::RecordSum;
pub use run::Run;
pub use save::{ActivationSaver, Contents, Model, Provenance};
pub use shard::SHARD_BYTES;
pub use store::{BASE_VARIABLE, Found, Problem, Scan, Store};
pub use stream::{Begun, Joining, MODEL_DIGEST, OpenRun, Plan, Unfinished};
pub use tensor::{Bytes, Dtype, Kind, Loaded, Tensor};
pub use value::Value;
pub use verify::Damage;

/// Makes sure that the example in docs/store.md compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/store.md")]
struct Page;
