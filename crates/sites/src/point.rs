//! A site with its layer and head.

use std::fmt;
use std::str::FromStr;

use crate::error::NameError;
use crate::select::transformer_lens;
use crate::site::{Scope, Site};

/// One place in a model's forward pass; prints and parses as an activation key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    layer: u32,
    site: Site,
    /// The head or expert, if the site has one.
    number: u32,
}

impl Point {
    /// A point of the whole model.
    ///
    /// # Panics
    /// If the site belongs to a layer: a bug in the caller, not bad input.
    pub fn model(site: Site) -> Self {
        assert_eq!(site.scope(), Scope::Model, "{} needs a layer", site.name());
        Point { layer: 0, site, number: 0 }
    }

    /// A point of a layer.
    ///
    /// # Panics
    /// If the site belongs to the whole model or to a head: a bug in the caller, not bad input.
    pub fn layer_of(site: Site, layer: usize) -> Self {
        let scope = site.scope();
        assert!(matches!(scope, Scope::Layer | Scope::LetteredLayer), "{} is not a layer site", site.name());
        Point { layer: layer as u32, site, number: 0 }
    }

    /// A point of a head.
    ///
    /// # Panics
    /// If the site has no heads: a bug in the caller, not bad input.
    pub fn head_of(site: Site, layer: usize, head: usize) -> Self {
        assert_eq!(site.scope(), Scope::Head, "{} has no heads", site.name());
        Point { layer: layer as u32, site, number: head as u32 }
    }

    /// A point of an expert.
    ///
    /// # Panics
    /// If the site has no experts: a bug in the caller, not bad input.
    pub fn expert_of(site: Site, layer: usize, expert: usize) -> Self {
        assert_eq!(site.scope(), Scope::Expert, "{} has no experts", site.name());
        Point { layer: layer as u32, site, number: expert as u32 }
    }

    /// The site.
    pub fn site(self) -> Site {
        self.site
    }

    /// The layer, `None` for a point of the whole model.
    pub fn layer(self) -> Option<usize> {
        (self.site.scope() != Scope::Model).then_some(self.layer as usize)
    }

    /// The query head, `None` where the site has none.
    pub fn head(self) -> Option<usize> {
        (self.site.scope() == Scope::Head).then_some(self.number as usize)
    }

    /// The expert, `None` where the site has none.
    pub fn expert(self) -> Option<usize> {
        (self.site.scope() == Scope::Expert).then_some(self.number as usize)
    }

    /// The point under which the model reports, if two names mean one place.
    pub fn canonical(self) -> Self {
        Point { site: self.site.canonical(), ..self }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.site.name();
        match self.site.scope() {
            Scope::Model => f.write_str(name),
            Scope::Layer => write!(f, "{name}_{}", self.layer),
            Scope::LetteredLayer => write!(f, "{name}_L{}", self.layer),
            Scope::Head => write!(f, "{name}_L{}H{}", self.layer, self.number),
            Scope::Expert => write!(f, "{name}_{}E{}", self.layer, self.number),
        }
    }
}

impl FromStr for Point {
    type Err = NameError;

    /// Parses `resid_out_5`, `queries_L5`, `pattern_L5H3`, `logits`, and TransformerLens' names of the same
    /// places (`blocks.5.hook_resid_post`).
    fn from_str(text: &str) -> Result<Self, NameError> {
        let translated = transformer_lens(text);
        let text = translated.as_deref().unwrap_or(text);
        parse(text).ok_or_else(|| NameError::unknown(text))
    }
}

fn parse(text: &str) -> Option<Point> {
    // Longest name first, so that `resid_in_post_layernorm_3` is not read as `resid_in` with an odd layer.
    let mut sites: Vec<Site> = Site::ALL.to_vec();
    sites.sort_by_key(|s| std::cmp::Reverse(s.name().len()));
    sites.into_iter().find_map(|site| {
        let rest = text.strip_prefix(site.name())?;
        match site.scope() {
            Scope::Model => rest.is_empty().then(|| Point::model(site)),
            Scope::Layer => Some(Point::layer_of(site, number(rest.strip_prefix('_')?)?)),
            Scope::LetteredLayer => Some(Point::layer_of(site, number(rest.strip_prefix("_L")?)?)),
            Scope::Head => {
                let (layer, head) = rest.strip_prefix("_L")?.split_once('H')?;
                Some(Point::head_of(site, number(layer)?, number(head)?))
            }
            Scope::Expert => {
                let (layer, expert) = rest.strip_prefix('_')?.split_once('E')?;
                Some(Point::expert_of(site, number(layer)?, number(expert)?))
            }
        }
    })
}

/// A number as keys print it: digits, no sign, no leading zero.
fn number(text: &str) -> Option<usize> {
    let plain = text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit());
    (plain && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok()).flatten()
}
