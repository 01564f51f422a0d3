//! Patterns over names: `resid_out_*`, `pattern_L0:4H*`, to the points of a model.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::error::NameError;
use crate::point::Point;
use crate::site::{Scope, Site};

/// How many layers and query heads a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Blocks.
    pub n_layers: usize,
    /// Query heads of a layer.
    pub n_heads: usize,
}

/// A pattern over the points of one site.
///
/// The places of numbers take a number (negative from the end), `*` or `{anything}` for all, or a half-open range
/// `4:9` (`4:`, `:9`). Patterns are joined by commas in [`Selector::parse_list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    site: Site,
    layers: Numbers,
    heads: Numbers,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Numbers {
    All,
    One(i64),
    Range(Option<i64>, Option<i64>),
}

impl Selector {
    /// Every point of a site.
    pub fn all(site: Site) -> Self {
        Selector { site, layers: Numbers::All, heads: Numbers::All }
    }

    /// Parses a comma-separated list of patterns.
    ///
    /// # Errors
    /// A pattern of no site (the nearest name is given), or an empty list.
    pub fn parse_list(text: &str) -> Result<Vec<Selector>, NameError> {
        let patterns: Vec<&str> = text.split(',').map(str::trim).filter(|p| !p.is_empty()).collect();
        if patterns.is_empty() {
            return Err(NameError::new("no activations named; for example `resid_out_*,logits`"));
        }
        patterns.into_iter().map(str::parse).collect()
    }

    /// The site of the pattern.
    pub fn site(&self) -> Site {
        self.site
    }

    /// Whether the pattern names single places rather than "all there are".
    pub fn is_exact(&self) -> bool {
        let one = |n: &Numbers| matches!(n, Numbers::One(_));
        match self.site.scope() {
            Scope::Model => true,
            Scope::Layer | Scope::LetteredLayer => one(&self.layers),
            Scope::Head => one(&self.layers) && one(&self.heads),
        }
    }

    /// The points of a model that match, in ascending order.
    ///
    /// # Errors
    /// A layer or head that the model does not have; an empty range.
    pub fn points(&self, extent: Extent) -> Result<BTreeSet<Point>, NameError> {
        let layers = || self.layers.resolve(extent.n_layers, "layer", self);
        Ok(match self.site.scope() {
            Scope::Model => BTreeSet::from([Point::model(self.site)]),
            Scope::Layer | Scope::LetteredLayer => layers()?.map(|l| Point::layer_of(self.site, l)).collect(),
            Scope::Head => {
                let heads = self.heads.resolve(extent.n_heads, "head", self)?;
                layers()?.flat_map(|l| heads.clone().map(move |h| Point::head_of(self.site, l, h))).collect()
            }
        })
    }
}

impl Numbers {
    fn parse(text: &str) -> Option<Numbers> {
        let braced = text.len() > 2 && text.starts_with('{') && text.ends_with('}');
        if text == "*" || (braced && !text[1..text.len() - 1].contains(['{', '}'])) {
            return Some(Numbers::All);
        }
        if let Some((start, end)) = text.split_once(':') {
            let side = |s: &str| if s.is_empty() { Some(None) } else { integer(s).map(Some) };
            return Some(Numbers::Range(side(start)?, side(end)?));
        }
        integer(text).map(Numbers::One)
    }

    fn resolve(
        &self,
        count: usize,
        what: &str,
        whole: &Selector,
    ) -> Result<std::ops::Range<usize>, NameError> {
        let from_end = |n: i64| if n < 0 { n + count as i64 } else { n };
        let range = match *self {
            Numbers::All => 0..count as i64,
            Numbers::One(n) => from_end(n)..from_end(n) + 1,
            Numbers::Range(start, end) => start.map_or(0, from_end)..end.map_or(count as i64, from_end),
        };
        if range.start < 0 || range.end > count as i64 || range.start >= range.end {
            return Err(NameError::new(format!(
                "`{whole}`: no such {what}; the model has {count} {what}s, 0 to {}",
                count.saturating_sub(1)
            )));
        }
        Ok(range.start as usize..range.end as usize)
    }
}

/// A possibly negative number of at most six digits.
fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Numbers::All => f.write_str("*"),
            Numbers::One(n) => write!(f, "{n}"),
            Numbers::Range(start, end) => {
                let side = |n: &Option<i64>| n.map(|n| n.to_string()).unwrap_or_default();
                write!(f, "{}:{}", side(start), side(end))
            }
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.site.name();
        match self.site.scope() {
            Scope::Model => f.write_str(name),
            Scope::Layer => write!(f, "{name}_{}", self.layers),
            Scope::LetteredLayer => write!(f, "{name}_L{}", self.layers),
            Scope::Head => write!(f, "{name}_L{}H{}", self.layers, self.heads),
        }
    }
}

impl FromStr for Selector {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let translated = transformer_lens(text);
        let text = translated.as_deref().unwrap_or(text);
        parse(text).ok_or_else(|| NameError::unknown(text))
    }
}

fn parse(text: &str) -> Option<Selector> {
    let mut sites: Vec<Site> = Site::ALL.to_vec();
    sites.sort_by_key(|s| std::cmp::Reverse(s.name().len()));
    sites.into_iter().find_map(|site| {
        let rest = text.strip_prefix(site.name())?;
        let selector = |layers, heads| Some(Selector { site, layers, heads });
        // `pattern_*` means every layer and head: the short form people type first.
        let everything = rest == "_*";
        match site.scope() {
            Scope::Model => {
                rest.is_empty().then_some(Selector { site, layers: Numbers::All, heads: Numbers::All })
            }
            _ if everything => selector(Numbers::All, Numbers::All),
            Scope::Layer => selector(Numbers::parse(rest.strip_prefix('_')?)?, Numbers::All),
            Scope::LetteredLayer => selector(Numbers::parse(rest.strip_prefix("_L")?)?, Numbers::All),
            Scope::Head => {
                let rest = rest.strip_prefix("_L")?;
                // `pattern_L5` and `pattern_L*` mean every head.
                let (layers, heads) = rest.split_once('H').unwrap_or((rest, "*"));
                selector(Numbers::parse(layers)?, Numbers::parse(heads)?)
            }
        }
    })
}

/// Hooks of TransformerLens and our patterns for the same values. Hooks that hold all heads become patterns over all
/// heads. (Names: TransformerLens, `transformer_lens/components/`.)
pub(crate) const TRANSFORMER_LENS: &[(&str, &str)] = &[
    ("hook_resid_pre", "resid_in_{layer}"),
    ("hook_resid_mid", "resid_mid_{layer}"),
    ("hook_resid_post", "resid_out_{layer}"),
    ("hook_attn_out", "attn_out_{layer}"),
    ("hook_mlp_out", "mlp_out_{layer}"),
    ("mlp.hook_post", "mlp_hidden_{layer}"),
    ("attn.hook_q", "queries_L{layer}"),
    ("attn.hook_k", "keys_L{layer}"),
    ("attn.hook_v", "values_L{layer}"),
    ("attn.hook_attn_scores", "scores_L{layer}H*"),
    ("attn.hook_pattern", "pattern_L{layer}H*"),
    ("attn.hook_result", "head_out_L{layer}H*"),
];

/// Our spelling of a TransformerLens hook name, where the two name the same values.
pub(crate) fn transformer_lens(name: &str) -> Option<String> {
    let (layer, hook) = name.strip_prefix("blocks.")?.split_once('.')?;
    let (_, key) = TRANSFORMER_LENS.iter().find(|(theirs, _)| *theirs == hook)?;
    Some(key.replace("{layer}", layer))
}
