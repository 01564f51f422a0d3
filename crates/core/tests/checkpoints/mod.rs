//! What a checkpoint may hold besides the plain weights of a causal language model.

mod adapters;
mod files;
mod heads;
mod tied;

use std::collections::BTreeMap;

use crate::common::{Reference, fixtures, relative_error, tensors_of};
use easyroutine::Error;
use easyroutine::cache::ActivationCache;

/// Fails unless an error's message and hint contain all of this.
#[track_caller]
fn says<T>(result: Result<T, Error>, words: &[&str]) {
    let error = result.err().unwrap_or_else(|| panic!("no error that says {words:?}"));
    let text = format!("{error} {}", error.hint_text().unwrap_or_default());
    for word in words {
        assert!(text.contains(word), "{text:?} does not say {word:?}");
    }
}

/// The values that transformers gives for a case of `fixtures/checkpoints`.
fn expected(case: &str) -> BTreeMap<String, Reference> {
    tensors_of(&fixtures().join("checkpoints").join(case).join("expected.safetensors"))
}

/// Fails if kept activations differ from the reference by more than rounding.
#[track_caller]
fn assert_agree(cache: &ActivationCache, expected: &BTreeMap<String, Reference>, keys: &[&str]) {
    for key in keys {
        let error = relative_error(cache.get(*key).unwrap().values(), &expected[*key].values);
        assert!(error < 1e-5, "{key}: {error:.1e}");
    }
}
