//! Which modules of the library may use which, and which they do use.

use std::collections::BTreeSet;

/// The other modules that each module of core may use. Modules not listed tie the rest together.
pub(crate) const MODULES: &[(&str, &[&str])] = &[
    ("arch", &[]),
    ("names", &["arch"]),
    ("config", &["error"]),
    ("adapter", &["config", "error"]),
    ("families", &["arch", "config", "error", "names"]),
    ("source", &["adapter", "config", "error"]),
    ("identity", &["error", "source"]),
    ("tokens", &["error"]),
    ("positions", &["error"]),
    ("weights", &["adapter", "arch", "error", "names"]),
    ("tap", &["batch", "error"]),
    ("stop", &["error"]),
    ("logits", &["batch", "error", "tap"]),
    ("pass", &["arch", "tap"]),
    ("model", &["arch", "batch", "error", "names", "pass", "stop", "tap", "weights"]),
    ("cache", &["batch", "error", "positions", "tap"]),
    ("prompts", &["error"]),
    (
        "extract",
        &["arch", "batch", "cache", "error", "generate", "model", "positions", "request", "stop", "tap"],
    ),
    ("extraction", &["cache", "error", "positions", "request"]),
    ("edit", &["arch", "error", "positions", "tap"]),
    (
        "attribution",
        &[
            "arch",
            "batch",
            "cache",
            "edit",
            "error",
            "gradients",
            "logits",
            "model",
            "patching",
            "positions",
            "request",
            "stop",
            "summed",
            "tap",
            "weights",
        ],
    ),
    ("patching", &["batch", "cache", "edit", "error", "logits", "model", "pass", "positions", "tap"]),
    ("generate", &["batch", "error", "logits", "model", "positions", "stop", "tap", "tokens"]),
    ("summed", &["error"]),
    ("jacobian", &["arch", "batch", "error", "model", "stop", "summed"]),
    ("tune", &["batch", "cache", "error", "model", "positions", "request", "stop", "summed"]),
    (
        "lens",
        &["arch", "batch", "cache", "error", "jacobian", "model", "positions", "stop", "tap", "weights"],
    ),
];

/// What code uses of a module: the first words after `super::` and after the module's path, with braces expanded.
pub(crate) fn used(code: &str, module: &str) -> BTreeSet<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| *c == '_' || c.is_alphanumeric()).collect()
    };
    let mut found = BTreeSet::new();
    for path in ["super::".to_owned(), format!("crate::{module}::")] {
        for (at, _) in code.match_indices(&path) {
            let rest = &code[at + path.len()..];
            let Some(group) = rest.strip_prefix('{') else {
                found.insert(word(rest));
                continue;
            };
            let mut depth = 0;
            let mut begins = true;
            for (at, c) in group.char_indices() {
                match c {
                    '}' if depth == 0 => break,
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 0 => begins = true,
                    c if begins && !c.is_whitespace() => {
                        found.insert(word(&group[at..]));
                        begins = false;
                    }
                    _ => {}
                }
            }
        }
    }
    found
}

#[test]
fn every_way_to_use_a_sibling_is_seen() {
    let code = "use super::one as two;
        use super::{Three, four as five, six::{seven, Eight}, nine};
        use crate::model::ten::Eleven;
        fn f() { super::twelve::f(crate::pass::thirteen::g()) }";
    let found = used(code, "model");
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, ["Three", "four", "nine", "one", "six", "ten", "twelve"]);
}
