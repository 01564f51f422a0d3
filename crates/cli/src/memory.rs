//! Refuses what cannot fit into memory, before it begins.

use easyroutine::Dtype;
use easyroutine::cache::{parse_bytes, readable};
use easyroutine_app::memory::available;

use crate::failure::Failure;

/// Bytes of a model's packed weights.
pub(crate) fn packed_bytes(parameters: usize, dtype: Dtype) -> u64 {
    let width = if dtype == Dtype::F32 { 4 } else { 2 };
    (parameters as u64).saturating_mul(width)
}

/// Refuses a task that needs more than free memory.
///
/// # Errors
/// If there is too little memory.
pub(crate) fn check_free(needed: u64, what: &str) -> Result<(), Failure> {
    match available().filter(|free| *free < needed) {
        Some(free) => {
            Err(Failure::memory(format!("{what} need {} but {} are free", readable(needed), readable(free))))
        }
        None => Ok(()),
    }
}

/// A number of bytes as typed.
///
/// # Errors
/// None, or none that there could be.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|error| format!("{error}; {}", error.hint_text().unwrap_or_default()))
}
