//! Tensors of a checkpoint under our names, in one layout. Whatever a file fuses, transposes, permutes or shifts is
//! undone here, and every tensor of the file is accounted for.

mod checkpoint;
mod files;
mod load;
mod projection;

pub(crate) use checkpoint::{Checkpoint, Tensor};
pub(crate) use files::Files;
pub(crate) use load::{Loader, Norm};
pub(crate) use projection::Projection;
