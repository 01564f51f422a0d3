//! What comes before two checkpoints are compared: a tokenizer for both, and the tensors to patch.

use easyroutine::compare::models::Pair;
use easyroutine::load;
use easyroutine::source::ModelFiles;
use easyroutine::tokens::Tokenizer;
use easyroutine::{Error, ErrorKind, Result};

/// A's tokenizer, or B's if A has none, with its warnings, which also say if both cut text differently. `pres` name
/// their rules for cutting text.
///
/// # Errors
/// If a model has a tokenizer that cannot be read.
pub fn tokenizer(
    files: &[ModelFiles; 2],
    pres: [Option<&str>; 2],
) -> Result<(Option<Tokenizer>, Vec<String>)> {
    let open = |side: usize| match load::tokenizer(&files[side], pres[side]) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        // Models run on ids without it.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    Ok(match (open(0)?, open(1)?) {
        (Some(a), Some(b)) => {
            let apart = a.first_difference(&b).map(|text| {
                format!("the tokenizers of A and B cut {text:?} differently: both models get the ids of A's")
            });
            let warnings = apart.into_iter().chain(a.warnings().iter().cloned()).collect();
            (Some(a), warnings)
        }
        (one, other) => (one.or(other), Vec::new()),
    })
}

/// The numbers of the tensors that patterns name, in which `*` stands for anything; all without patterns.
///
/// # Errors
/// If a pattern names none.
pub fn tensors(pair: &Pair, patterns: &[String]) -> Result<Vec<usize>> {
    if patterns.is_empty() {
        return Ok((0..pair.tensors().count()).collect());
    }
    let mut found = Vec::new();
    for pattern in patterns {
        let matching = pair.tensors().enumerate().filter(|(_, name)| matches(pattern, name));
        let before = found.len();
        found.extend(matching.map(|(tensor, _)| tensor));
        if found.len() == before {
            let near = easyroutine::sites::nearest(pattern, pair.tensors()).map(str::to_owned);
            let hint = near.map_or("`easyroutine model info A` lists them".to_owned(), |near| {
                format!("did you mean {near}?")
            });
            return Err(Error::input(format!("A has no tensor `{pattern}`")).hint(hint));
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Whether a name fits a pattern in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(start) else { return false };
    let parts: Vec<&str> = rest.split('*').collect();
    let (last, middle) = parts.split_last().unwrap_or((&"", &[]));
    for part in middle {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_anything() {
        let name = "model.layers.10.mlp.up_proj.weight";
        for pattern in [name, "*", "*up_proj*", "model.layers.*.mlp.*.weight", "model*weight"] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in ["", "*down*", "model.layers.1.*", "model.layers.10", "weight*", "*weight.weight"] {
            assert!(!matches(pattern, name), "{pattern}");
        }
        // What one star took is not taken again.
        assert!(!matches("ab*ba", "aba"));
    }
}
