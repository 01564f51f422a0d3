//! Backward rules: the gradient of an operation's input from that of its output.
//!
//! The promise is that of the forward pass: each value is summed in one order that depends on its own row alone, so
//! gradients have the same bits alone, in any batch and with any number of threads.

mod activation;
mod attention;
mod frozen;
mod norm;
mod recurrence;

pub use activation::Slope;
pub use frozen::FrozenNorm;
pub use norm::Scale;
