//! Limits on regular expressions read from files.

use std::sync::Once;

/// Backtracking points of one search: more cannot arise from text, and take 400 MB.
const BACKTRACK_PLACES: std::ffi::c_uint = 8 << 20;
/// Times that one search may return to a backtracking point. A match has its own limit of ten million.
const RETRIES: std::ffi::c_ulong = 500_000_000;
/// Nesting depth of groups: the parser recurses for each, on the stack of the calling thread.
const DEPTH: std::ffi::c_uint = 200;

/// Bounds memory and time of Oniguruma, which runs the patterns of a tokenizer.json: patterns are untrusted, and by
/// default there is no limit. Beyond a limit a search fails.
///
/// The limits hold for the whole process. Call this before the first pattern is read; later calls do nothing.
pub fn limit_regular_expressions() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: each call stores one number in a variable of the library, which is read when a search or a
        // compilation starts. `Once` serialises the calls, and the caller has not compiled a pattern yet.
        unsafe {
            onig_sys::onig_set_match_stack_limit_size(BACKTRACK_PLACES);
            onig_sys::onig_set_retry_limit_in_search(RETRIES);
            onig_sys::onig_set_parse_depth_limit(DEPTH);
        }
    });
}
