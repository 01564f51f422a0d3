//! Arithmetic on slices for decoder models: packed matrix products, norms, rotary embedding, attention.
//!
//! A [`Cpu`] does all of it: it holds the instructions in use and a pool of threads. Matrices are [`Rows`] and
//! [`RowsMut`], views of slices. Weights are a [`PackedMatrix`], packed once: at once, or as soon as that pays.
//!
//! The bits never vary: each output of a product is summed in one order, and a row's norm and softmax depend on that
//! row alone. So, for one build, [`Simd`] path and [`Dtype`], a row gives the same bits alone, in any batch, with any
//! number of threads, and as the last row of a sequence whose earlier keys are cached.
//!
//! Shapes that do not match are bugs in the caller and panic, as an index beyond a slice does.

mod activation;
mod aligned;
mod attention;
mod bf16;
mod chosen;
mod cpu;
mod elementwise;
mod f16;
mod gradient;
mod math;
mod norm;
mod operand;
mod packed;
mod pool;
mod product;
mod recurrence;
mod reduce;
mod rotary;
mod rows;
mod scratch;
mod shared;
mod simd;
mod spare;
#[cfg(test)]
mod testing;
mod vector;

pub use activation::Activation;
pub use attention::{Alibi, Attention, Sequence};
pub use bf16::nearest as nearest_bf16;
pub use cpu::Cpu;
pub use gradient::{FrozenNorm, Scale, Slope};
pub use norm::NormKind;
pub use operand::{Left, Operand, Out};
pub use packed::{Dtype, Encoding, PackedMatrix, Source};
pub use pool::forked;
pub use product::{Finish, Terms, TileShape};
pub use recurrence::{Convolution, GatedDelta, RgLru, SelectiveScan, StateSpace};
pub use rotary::{Pairing, Turning};
pub use rows::{Rows, RowsMut};
pub use simd::Simd;
pub use spare::{give_back, large_values, large_vec};
