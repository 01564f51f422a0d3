//! Gradients: references computed with autograd in f64, laws that hold for every model, and rejected requests.

mod attribution;
mod dla;
mod edges;
mod golden;
mod jacobian;
mod laws;
mod pairs;
mod tune;
mod wrong;
