//! Tensors that hold no weight of the model.

use regex::Regex;

use super::checkpoint::ends_with_part;
use crate::error::{Error, ErrorKind, Result, list};
use crate::names::Names;

/// Endings of names, in whole dotted parts, that are buffers in any family: tables that are computed here.
const BUFFERS: &[&str] = &["rotary_emb.inv_freq"];

/// Name prefixes left over from training that the model does not read, with what they are.
const LEFT_BY_TRAINING: &[(&str, &str)] = &[("v_head.", "a value head of reinforcement learning")];

/// Surplus tensors that a caller accepts, by name or by a pattern with `*` and `?`.
#[derive(Debug, Default)]
pub(crate) struct Allowed(Vec<(String, Regex)>);

impl Allowed {
    /// Parses names and patterns.
    ///
    /// # Errors
    /// If a pattern is too long.
    pub(crate) fn parse(patterns: &[String]) -> Result<Self> {
        let one = |pattern: &String| {
            let regex = regex::escape(pattern).replace(r"\*", ".*").replace(r"\?", ".");
            let regex = Regex::new(&format!("^{regex}$"));
            let regex =
                regex.map_err(|_| Error::input(format!("the pattern of tensors `{pattern}` is too long")));
            Ok((pattern.clone(), regex?))
        };
        patterns.iter().map(one).collect::<Result<_>>().map(Allowed)
    }

    fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(_, regex)| regex.is_match(name))
    }

    /// The names and patterns that match none of these tensors.
    fn idle(&self, names: &[&str]) -> Vec<&str> {
        let matches = |regex: &Regex| names.iter().any(|name| regex.is_match(name));
        self.0.iter().filter(|(_, regex)| !matches(regex)).map(|(pattern, _)| pattern.as_str()).collect()
    }
}

/// Whether a tensor is a buffer: in any family, or by one of these endings.
pub(super) fn is_buffer(name: &str, ignored: &[&str]) -> bool {
    BUFFERS.iter().chain(ignored).any(|end| name == *end || ends_with_part(name, end))
}

/// The start of a tensor's name, if it belongs to another part of the model: a tower, or a layer behind the decoder's.
pub(super) fn part_left_out<'n>(name: &'n str, names: &Names) -> Option<&'n str> {
    let starts = |start: &&&str| name.starts_with(**start);
    if let Some(start) = names.left_out.iter().find(starts) {
        return Some(&name[..start.len()]);
    }
    let (before, after) = names.layer.split_once("{}").filter(|_| !names.further_layers.is_empty())?;
    let base = name.strip_prefix(names.prefix).unwrap_or(name);
    let (layer, rest) = base.strip_prefix(before)?.split_once(after)?;
    let is_further = layer.parse().is_ok_and(|layer: usize| names.further_layers.contains(&layer));
    is_further.then(|| &name[..name.len() - rest.len()])
}

/// Sorts unread tensors into those without effect, those accepted with a warning, and the rest.
///
/// # Errors
/// Names all the rest.
pub(super) fn check<'n>(
    names: impl Iterator<Item = &'n str>,
    family: &Names,
    allowed: &Allowed,
) -> Result<Vec<String>> {
    let (mut refused, mut let_through, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    let mut left: Vec<Vec<&str>> = vec![Vec::new(); LEFT_BY_TRAINING.len()];
    let is_weight = |name: &&str| !is_buffer(name, family.ignored) && part_left_out(name, family).is_none();
    for name in names.filter(is_weight) {
        match LEFT_BY_TRAINING.iter().position(|(start, _)| name.starts_with(start)) {
            Some(kind) => left[kind].push(name),
            None if allowed.contains(name) => let_through.push(name),
            None => refused.push(name),
        }
    }
    if let Some(first) = refused.first() {
        let (tensors, have, they, them) = match refused.len() {
            1 => ("tensor", "has", "it", "it"),
            _ => ("tensors", "have", "they", "them"),
        };
        let message = format!(
            "{tensors} {} {have} no place in this architecture: {they} may change the numbers",
            list(&refused)
        );
        return Err(Error::new(ErrorKind::Weights, message).hint(format!(
            "if {they} can be left out, allow {them}: --allow-tensor '{first}' (`*` stands for \
             anything, and the flag may repeat)"
        )));
    }
    for (names, (_, what)) in left.iter().zip(LEFT_BY_TRAINING).filter(|(names, _)| !names.is_empty()) {
        warnings.push(format!("{} skipped: {what}, which the model itself does not read", list(names)));
    }
    if !let_through.is_empty() {
        warnings.push(format!(
            "{} skipped as allowed: the numbers are those of the model without",
            list(&let_through)
        ));
    }
    let idle = allowed.idle(&let_through);
    if !idle.is_empty() {
        warnings.push(format!("no surplus tensor is called {}: allowing that changes nothing", list(&idle)));
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder() -> Names {
        Names {
            prefix: "model.",
            embed: "embed_tokens",
            positions: None,
            embed_norm: None,
            project_in: None,
            project_out: None,
            final_norm: Some("norm"),
            unembed: "lm_head",
            score: &[],
            layer: "layers.{}.",
            layers: Vec::new(),
            ignored: &[],
            spellings: &[],
            left_out: &[],
            further_layers: 0..0,
            per_layer: None,
        }
    }

    #[test]
    fn layers_that_predict_further_tokens_are_left_out() {
        let names = Names { further_layers: 61..62, ..decoder() };
        let part = |name| part_left_out(name, &names);
        assert_eq!(part("model.layers.61.eh_proj.weight"), Some("model.layers.61."));
        assert_eq!(part("layers.61.mlp.gate.weight"), Some("layers.61."));
        for kept in [
            "model.layers.60.mlp.gate.weight",
            "model.layers.62.eh_proj.weight",
            "model.layers.6",
            "lm_head.weight",
        ] {
            assert_eq!(part(kept), None, "{kept}");
        }
        assert_eq!(part_left_out("model.layers.61.eh_proj.weight", &decoder()), None);
    }

    #[test]
    fn a_pattern_means_whole_names() {
        let allowed = Allowed::parse(&["*.k_scale".into(), "head.?".into(), "a+b".into()]).unwrap();
        for (name, expected) in [
            ("layers.0.k_scale", true),
            ("layers.0.k_scale.x", false),
            ("head.1", true),
            ("head.12", false),
            ("a+b", true),
            ("aab", false),
        ] {
            assert_eq!(allowed.contains(name), expected, "{name}");
        }
    }

    #[test]
    fn all_offenders_are_named() {
        let names = ["a.weight", "b.weight", "x.rotary_emb.inv_freq", "v_head.summary.bias"];
        let error = check(names.into_iter(), &decoder(), &Allowed::default()).unwrap_err();
        assert!(error.to_string().contains("tensors `a.weight`, `b.weight` have no place"), "{error}");
        let allowed = Allowed::parse(&["?.weight".into()]).unwrap();
        let warnings = check(names.into_iter(), &decoder(), &allowed).unwrap();
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].contains("v_head.summary.bias") && warnings[0].contains("value head"));
        assert!(warnings[1].contains("`a.weight`, `b.weight`"));
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_named() {
        // Buffers and leftovers of training are skipped without being allowed.
        let names = ["a.weight", "x.rotary_emb.inv_freq", "v_head.summary.bias"];
        let patterns = ["a.*", "*.k_scael", "*.inv_freq", "v_head.*"].map(str::to_owned);
        let allowed = Allowed::parse(&patterns).unwrap();
        let warnings = check(names.into_iter(), &decoder(), &allowed).unwrap();
        assert_eq!(
            warnings.last().unwrap(),
            "no surplus tensor is called `*.k_scael`, `*.inv_freq`, `v_head.*`: allowing that changes nothing"
        );
    }
}
