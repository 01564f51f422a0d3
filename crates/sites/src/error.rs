//! The error for a name that does not parse or matches nothing.

use std::fmt;

use crate::select::TRANSFORMER_LENS;
use crate::site::{Scope, Site};

/// A name of no activation, with the nearest existing one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameError {
    message: String,
}

impl NameError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        NameError { message: message.into() }
    }

    /// `no activation "resid_outt_5"; did you mean "resid_out_5"?`
    pub(crate) fn unknown(name: &str) -> Self {
        let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        if let Some(site) = Site::ALL.iter().find(|site| site.name() == name && site.scope() != Scope::Model)
        {
            let every = site.template().replace("{layer}", "*").replace("{head}", "*");
            return NameError::new(format!("no activation `{shown}`; `{every}` is that of every layer"));
        }
        if name.contains(".hook_") || name.starts_with("hook_") {
            let known = TRANSFORMER_LENS.iter().map(|(hook, _)| format!("`{hook}`")).collect::<Vec<_>>();
            return NameError::new(format!(
                "no activation `{shown}`; hooks of TransformerLens that have one here, after `blocks.N.`: {}",
                known.join(", ")
            ));
        }
        match nearest_activation(name) {
            Some(near) => NameError::new(format!("no activation `{shown}`; did you mean `{near}`?")),
            None => NameError::new(format!(
                "no activation `{shown}`; names are like `resid_out_5`, `queries_L5`, `pattern_L5H3`, `logits`"
            )),
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for NameError {}

/// The name nearest to a wrong one, if any is near enough to be what was meant.
pub fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.chars().count() > 60 {
        return None;
    }
    let distances = names.into_iter().map(|wanted| (distance(name, wanted), wanted));
    distances.filter(|(distance, wanted)| *distance <= 2 + wanted.len() / 3).min().map(|(_, wanted)| wanted)
}

/// The existing activation nearest to a wrong name, with the wrong name's numbers kept.
fn nearest_activation(name: &str) -> Option<String> {
    let numbers: Vec<&str> = name.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).collect();
    let number = |at: usize| numbers.get(at).copied().filter(|n| n.len() <= 6).unwrap_or("0");
    let named = |site: &Site| site.template().replace("{layer}", number(0)).replace("{head}", number(1));
    let names: Vec<String> = Site::ALL.iter().map(named).collect();
    // A number with too many digits prints as itself: that is no suggestion.
    nearest(name, names.iter().map(String::as_str)).filter(|near| *near != name).map(str::to_owned)
}

/// Edit distance (Levenshtein) over characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
