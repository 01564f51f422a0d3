//! The points of an architecture.

use easyroutine_sites::{Basis, Extent, Point, Scope, Selector, Site};

use crate::arch::{Arch, AttentionGate, Head, Heads, Layer, Mlp, Pooling, Wiring};
use crate::error::{Error, Result};

impl Arch {
    /// Every point that a model of this architecture reports.
    pub fn points(&self) -> impl Iterator<Item = Point> + '_ {
        let canonical = |site: &Site| site.canonical() == *site && *site != Site::InputIds;
        Site::ALL.iter().copied().filter(canonical).flatten_points(self)
    }

    /// The points that a pattern selects, in ascending order.
    ///
    /// # Errors
    /// If a layer or head does not exist, or the architecture lacks the place. A pattern over many layers skips those
    /// that lack the place, unless all do.
    pub fn named(&self, selector: &Selector) -> Result<Vec<Point>> {
        let n_experts = self.layers.iter().filter_map(Layer::experts).max().unwrap_or(0);
        let extent = Extent { n_layers: self.layers.len(), n_heads: self.n_heads, n_experts };
        let named = selector.points(extent)?;
        let lacking = named.iter().find_map(|point| self.check_point(*point).err());
        let found: Vec<Point> = named.iter().copied().filter(|p| self.lacks(*p).is_none()).collect();
        match lacking {
            Some(error) if found.is_empty() || selector.is_exact() => Err(error),
            _ => Ok(found),
        }
    }

    /// The points of a site in one layer: one, one per head, or one per expert.
    ///
    /// # Errors
    /// If the layer does not exist, or lacks the place.
    pub fn points_of(&self, site: Site, layer: usize) -> Result<Vec<Point>> {
        let points: Vec<Point> = match site.scope() {
            Scope::Model => vec![Point::model(site)],
            Scope::Layer | Scope::LetteredLayer => vec![Point::layer_of(site, layer)],
            Scope::Head => (0..self.n_heads).map(|head| Point::head_of(site, layer, head)).collect(),
            Scope::Expert => {
                // A layer without experts lacks even the first, and the error says why.
                let count = self.layers.get(layer).and_then(Layer::experts).unwrap_or(1);
                (0..count).map(|expert| Point::expert_of(site, layer, expert)).collect()
            }
        };
        points.iter().try_for_each(|point| self.check_point(*point))?;
        Ok(points)
    }

    /// Checks that this architecture has a point.
    ///
    /// # Errors
    /// If it lacks the point; the error says why.
    pub fn check_point(&self, point: Point) -> Result<()> {
        match self.lacks(point) {
            Some(reason) => Err(Error::input(format!("no activation `{point}`: {reason}"))),
            None => Ok(()),
        }
    }

    /// Whether a layer has a site, in any of its heads or experts.
    pub fn has(&self, site: Site, layer: usize) -> bool {
        self.points_of(site, layer).is_ok_and(|points| !points.is_empty())
    }

    /// Width of a token's vector at a point; `None` if it has one number per key instead, or if the architecture lacks
    /// the point.
    pub fn width(&self, point: Point) -> Option<usize> {
        if self.lacks(point).is_some() {
            return None;
        }
        match point.site().basis() {
            Basis::Ids => Some(1),
            Basis::Addition if point.site() == Site::ExpertOut => {
                Some(self.layers[point.layer()?].experts_latent().unwrap_or(self.d_model))
            }
            Basis::Stream | Basis::Addition | Basis::Reading => Some(self.d_model),
            Basis::Queries => Some(self.heads(point.layer()?).queries()),
            Basis::Keys => Some(self.heads(point.layer()?).keys()),
            Basis::Values => Some(self.heads(point.layer()?).values()),
            Basis::MixedValues => Some(self.heads(point.layer()?).mixed()),
            Basis::Head => Some(self.heads(point.layer()?).d_head),
            Basis::HeadValue => Some(self.heads(point.layer()?).d_value),
            Basis::Compressed => {
                let latent = self.layers[point.layer()?].latent()?;
                Some(latent.keys_values + latent.shared)
            }
            Basis::Positions => None,
            Basis::Channels => Some(self.layers[point.layer()?].recurrence?.width()),
            Basis::Neurons => Some(self.layers[point.layer()?].d_mlp()),
            Basis::Experts => self.layers[point.layer()?].experts(),
            Basis::ExpertIds | Basis::ChosenExperts => match self.layers[point.layer()?].mlp {
                Some(Mlp::Experts { top_k, .. }) => Some(top_k),
                _ => None,
            },
            Basis::Statistics => Some(3),
            Basis::Labels => self.score().map(|score| score.labels),
            Basis::Vocabulary => Some(self.vocabulary),
        }
    }

    /// Why this architecture lacks the point; `None` if it has it.
    pub fn lacks(&self, point: Point) -> Option<String> {
        let layer = point.layer().unwrap_or(0);
        if layer >= self.layers.len() {
            return Some(format!(
                "the model has {} layers, 0 to {}",
                self.layers.len(),
                self.layers.len() - 1
            ));
        }
        if point.site().scope() != Scope::Model
            && let Some(reason) = self.layers[layer].lacks(point.site())
        {
            return Some(reason.to_owned());
        }
        if point.head().is_some_and(|head| head >= self.n_heads) {
            return Some(format!("the model has {} heads, 0 to {}", self.n_heads, self.n_heads.max(1) - 1));
        }
        let experts = self.layers[layer].experts();
        if let Some((expert, count)) = point.expert().zip(experts).filter(|(expert, count)| expert >= count) {
            return Some(format!("layer {layer} has {count} experts, 0 to {}; {expert} is none", count - 1));
        }
        match point.site() {
            Site::PerLayerOut if self.per_layer.is_none() => {
                Some("layers of this model have no further inputs".to_owned())
            }
            Site::ProjectedKey | Site::ProjectedQuery if !self.heads(layer).are_projected_alike() => {
                let Heads { d_head, d_value, .. } = self.heads(layer);
                Some(format!(
                    "a head's slice of the output projection reads {d_value} columns, and this has {d_head}"
                ))
            }
            Site::Logits => self.lacks_unembedding(),
            Site::Score => match &self.head {
                Head::Score(_) => None,
                Head::Unembedding => {
                    Some("the head of this model is an unembedding, which gives `logits`".to_owned())
                }
                Head::Nothing { class } => Some(format!("this is a {class}: it has no head")),
            },
            Site::FinalNormOut if self.final_norm.is_none() => {
                Some("this model has no final norm".to_owned())
            }
            Site::FinalNormOut => match &self.head {
                Head::Unembedding => None,
                Head::Score(score) if score.pooling == Pooling::EachToken => None,
                Head::Score(_) => Some("the head of this model reads one token of a row".to_owned()),
                Head::Nothing { class } => Some(format!("this is a {class}: nothing reads its last stream")),
            },
            Site::LastLayernorm if self.final_norm.is_none() => {
                Some("this model has no final norm".to_owned())
            }
            _ => None,
        }
    }
}

impl Layer {
    /// Why this block lacks the place; `None` if it has it.
    fn lacks(&self, site: Site) -> Option<&'static str> {
        match site {
            Site::ResidIn | Site::ResidOut => None,
            Site::ResidMid if matches!(self.wiring, Wiring::Parallel { .. }) => {
                Some("attention and MLP of this block run in parallel, so no stream stands between them")
            }
            Site::ResidMid if !self.mixes() || self.mlp.is_none() => {
                Some("this block has one part, so no stream stands between parts")
            }
            Site::ResidMid => None,
            Site::MixerIn | Site::MixerZ | Site::MixerOut => match self.recurrence {
                None => Some("this layer has no recurrence"),
                Some(_) => None,
            },
            Site::RouterLogits | Site::RouterIndex | Site::RouterWeights | Site::ExpertOut => {
                if self.experts().is_some() { None } else { Some("this layer has no experts") }
            }
            Site::SharedOut => {
                let has_shared = self.mlp.is_some_and(Mlp::has_shared);
                if has_shared { None } else { Some("this layer has no shared experts") }
            }
            Site::MlpIn | Site::MlpHidden | Site::MlpOut if self.mlp.is_none() => {
                Some("this layer has no MLP")
            }
            Site::MlpHidden if matches!(self.mlp, Some(Mlp::Experts { .. })) => {
                Some("this layer has experts, each with neurons of its own")
            }
            Site::MlpIn | Site::MlpHidden | Site::MlpOut | Site::PerLayerOut => None,
            Site::AttnGate if self.attention.as_ref().is_some_and(|a| a.gate == AttentionGate::None) => {
                Some("attention of this model has no gate")
            }
            Site::KvCompressed if self.attention.is_some() && self.latent().is_none() => {
                Some("keys and values of this layer are not compressed")
            }
            Site::Keys
            | Site::Values
            | Site::HeadKeys
            | Site::HeadValues
            | Site::RotatedKeys
            | Site::ProjectedKey
            | Site::ProjectedValue
                if self.keys_of().is_some() =>
            {
                Some("this layer reads the keys and values of an earlier one")
            }
            // All other sites are attention's.
            _ if self.attention.is_some() => None,
            _ if self.recurrence.is_some() => {
                Some("this layer mixes tokens by a recurrence, not by attention")
            }
            _ => Some("this layer has no attention"),
        }
    }
}

/// Expands sites over the layers and heads of a model.
trait FlattenPoints: Iterator<Item = Site> + Sized {
    fn flatten_points(self, arch: &Arch) -> impl Iterator<Item = Point> {
        let (n_layers, n_heads) = (arch.layers.len(), arch.n_heads);
        self.flat_map(move |site| {
            let layers = if site.scope() == Scope::Model { 0..1 } else { 0..n_layers };
            layers.flat_map(move |layer| {
                let numbers = match site.scope() {
                    Scope::Head => 0..n_heads,
                    Scope::Expert => 0..arch.layers[layer].experts().unwrap_or(0),
                    Scope::Model | Scope::Layer | Scope::LetteredLayer => 0..1,
                };
                numbers.map(move |number| match site.scope() {
                    Scope::Model => Point::model(site),
                    Scope::Head => Point::head_of(site, layer, number),
                    Scope::Expert => Point::expert_of(site, layer, number),
                    Scope::Layer | Scope::LetteredLayer => Point::layer_of(site, layer),
                })
            })
        })
        .filter(|point| arch.lacks(*point).is_none())
    }
}

impl<I: Iterator<Item = Site>> FlattenPoints for I {}
