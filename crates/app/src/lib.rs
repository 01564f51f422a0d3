//! What the command line and the Python package both do with the engine's results.
//!
//! [`reports`] turns what was computed into the plain data that pictures are drawn of; [`filling`] runs a data set into a
//! run of a store; [`record`] is what such a run says of itself. Both faces use these, so that a run begun by one is found
//! and resumed by the other.
#![forbid(unsafe_code)]

pub mod filling;
pub mod record;
pub mod reports;
pub mod tensors;
