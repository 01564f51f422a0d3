//! Patterns over names (`resid_out_*`, `pattern_L0:4H*`), resolved to the points of a model.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::error::NameError;
use crate::point::Point;
use crate::site::{Scope, Site};
use crate::slice::{Slice, integer};

/// The number of layers, query heads and experts of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Blocks.
    pub n_layers: usize,
    /// Query heads per layer.
    pub n_heads: usize,
    /// Experts per layer that has experts.
    pub n_experts: usize,
}

/// A pattern over the points of one site.
///
/// Each number may be a number (negative from the end), `*` or `{anything}` for all, or a [`Slice`]: `4:9`, `4:`,
/// `0:30:5`. [`Selector::parse_list`] reads several patterns joined by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    site: Site,
    layers: Numbers,
    /// Heads or experts, if the site has them.
    of_layer: Numbers,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Numbers {
    All,
    One(i64),
    Slice(Slice),
}

impl Selector {
    /// Every point of a site.
    pub fn all(site: Site) -> Self {
        Selector { site, layers: Numbers::All, of_layer: Numbers::All }
    }

    /// Parses a comma-separated list of patterns.
    ///
    /// # Errors
    /// If a pattern names no site (the error gives the nearest name), or the list is empty.
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

    /// Whether the pattern names single points rather than "all there are".
    pub fn is_exact(&self) -> bool {
        let one = |n: &Numbers| matches!(n, Numbers::One(_));
        match self.site.scope() {
            Scope::Model => true,
            Scope::Layer | Scope::LetteredLayer => one(&self.layers),
            Scope::Head | Scope::Expert => one(&self.layers) && one(&self.of_layer),
        }
    }

    /// The points of a model that match, in ascending order.
    ///
    /// # Errors
    /// If the model lacks a layer or head, or a range is empty.
    pub fn points(&self, extent: Extent) -> Result<BTreeSet<Point>, NameError> {
        let layers = || self.layers.resolve(extent.n_layers, "layer", self);
        Ok(match self.site.scope() {
            Scope::Model => BTreeSet::from([Point::model(self.site)]),
            Scope::Layer | Scope::LetteredLayer => layers()?.map(|l| Point::layer_of(self.site, l)).collect(),
            Scope::Head => {
                let heads = self.of_layer.resolve(extent.n_heads, "head", self)?;
                layers()?.flat_map(|l| heads.clone().map(move |h| Point::head_of(self.site, l, h))).collect()
            }
            Scope::Expert => {
                let experts = self.of_layer.resolve(extent.n_experts, "expert", self)?;
                let of = |l| experts.clone().map(move |e| Point::expert_of(self.site, l, e));
                layers()?.flat_map(of).collect()
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
        integer(text).map(Numbers::One).or_else(|| text.parse().ok().map(Numbers::Slice))
    }

    fn resolve(
        &self,
        count: usize,
        what: &str,
        whole: &Selector,
    ) -> Result<impl Iterator<Item = usize> + Clone, NameError> {
        let slice = match *self {
            Numbers::All => Slice { start: None, end: None, step: 1 },
            Numbers::One(n) => Slice::one(n),
            Numbers::Slice(slice) => slice,
        };
        slice.of(count).map_err(|_| {
            let has = match count.checked_sub(1) {
                None => format!("no {what}s"),
                Some(last) => format!("{count} {what}s, 0 to {last}"),
            };
            NameError::new(format!("`{whole}`: no such {what}; the model has {has}"))
        })
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Numbers::All => f.write_str("*"),
            Numbers::One(n) => n.fmt(f),
            Numbers::Slice(slice) => slice.fmt(f),
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
            Scope::Head => write!(f, "{name}_L{}H{}", self.layers, self.of_layer),
            Scope::Expert => write!(f, "{name}_{}E{}", self.layers, self.of_layer),
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
        let selector = |layers, of_layer| Some(Selector { site, layers, of_layer });
        // `pattern_*` means every layer and head: the short form that people type first.
        let everything = rest == "_*";
        match site.scope() {
            Scope::Model => {
                rest.is_empty().then_some(Selector { site, layers: Numbers::All, of_layer: Numbers::All })
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
            Scope::Expert => {
                let rest = rest.strip_prefix('_')?;
                // `expert_out_5` and `expert_out_*` mean every expert.
                let (layers, experts) = rest.split_once('E').unwrap_or((rest, "*"));
                selector(Numbers::parse(layers)?, Numbers::parse(experts)?)
            }
        }
    })
}

/// TransformerLens hooks and our patterns for the same values. Hooks that hold all heads become patterns over all
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
    ("attn.hook_rot_q", "rotated_queries_L{layer}"),
    ("attn.hook_rot_k", "rotated_keys_L{layer}"),
    ("attn.hook_z", "z_L{layer}"),
    ("attn.hook_attn_scores", "scores_L{layer}H*"),
    ("attn.hook_pattern", "pattern_L{layer}H*"),
    ("attn.hook_result", "head_out_L{layer}H*"),
    ("mlp.hook_expert_indices", "router_index_{layer}"),
];

/// Our spelling of a TransformerLens hook name, if it holds the same values.
pub(crate) fn transformer_lens(name: &str) -> Option<String> {
    let (layer, hook) = name.strip_prefix("blocks.")?.split_once('.')?;
    let (_, key) = TRANSFORMER_LENS.iter().find(|(theirs, _)| *theirs == hook)?;
    Some(key.replace("{layer}", layer))
}
