//! Tensors of a checkpoint under our names, in one layout. Anything that a file fuses, transposes, permutes or shifts
//! is undone here, and every tensor of the file is accounted for.

mod asked;
mod checkpoint;
mod faults;
mod files;
mod load;
mod mxfp4;
mod parts;
mod patch;
mod projection;
mod surplus;
mod table;
mod tensor;

pub use asked::Numbers;
pub(crate) use asked::{Asked, Blocks};
pub(crate) use checkpoint::Checkpoint;
pub(crate) use files::Files;
pub(crate) use load::{Loader, Norm};
pub(crate) use patch::Patch;
pub(crate) use projection::{Projection, Transposed};
pub(crate) use surplus::Allowed;
pub(crate) use table::Table;
