//! What the command line and the Python package both do with the engine's results.
//!
//! [`reports`] turns results into the plain data that pictures are drawn from; [`filling`] runs a data set into a run
//! of a store; [`record`] makes such a run's record; [`edges`] scores edges and keeps their sums. Both faces use these,
//! so that a run begun by one is found and resumed by the other. [`files`] writes files whole. [`checkpoints`] prepares
//! a comparison of two; [`memory`] measures free memory.
#![forbid(unsafe_code)]

pub mod checkpoints;
pub mod edges;
pub mod files;
pub mod filling;
pub mod memory;
mod partial;
pub mod record;
pub mod reports;
pub mod tensors;
