//! Limits on regular expressions that stand in files.

use std::sync::Once;

/// Most places that a search may have to come back to: more than that is no text, and takes 400 MB.
const BACKTRACK_PLACES: std::ffi::c_uint = 8 << 20;
/// Most times that one search may come back to one of them. A match has a limit of its own, ten million.
const RETRIES: std::ffi::c_ulong = 500_000_000;
/// Deepest nesting of groups: the parser calls itself for each, on the stack of whatever thread it runs in.
const DEPTH: std::ffi::c_uint = 200;

/// Bounds what Oniguruma, which reads the patterns of a tokenizer.json, may take for one of them: patterns are
/// untrusted, and by default it takes any memory and time. Beyond a limit a search fails.
///
/// The limits hold for the whole process. Call this before the first pattern is read; later calls do nothing.
pub fn limit_regular_expressions() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: each call stores one number in a variable of the library, read at the start of a search or of
        // reading a pattern. `Once` keeps calls apart, and the caller has read no pattern yet.
        unsafe {
            onig_sys::onig_set_match_stack_limit_size(BACKTRACK_PLACES);
            onig_sys::onig_set_retry_limit_in_search(RETRIES);
            onig_sys::onig_set_parse_depth_limit(DEPTH);
        }
    });
}
