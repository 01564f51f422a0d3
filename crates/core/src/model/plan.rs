//! What a run has to compute, settled before it starts.

use std::collections::{BTreeMap, BTreeSet};

use easyroutine_sites::{Extent, Point, Scope, Selector, Site};

use crate::arch::Arch;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::tap::{Tap, Want};

/// The points that a tap wants, and where the run may stop.
#[derive(Debug)]
pub(crate) struct Plan {
    wanted: BTreeMap<Point, Want>,
    with_heads: BTreeSet<(Site, usize)>,
    last: Stage,
}

/// Stages of the forward pass in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Nothing is wanted at all.
    Never,
    /// The embedding.
    Embedding,
    /// A site of a block.
    Block(usize, Site),
    /// Final norm and unembedding.
    Final(Site),
}

impl Plan {
    pub(crate) fn new(arch: &Arch, tap: &dyn Tap) -> Self {
        let mut plan = Plan { wanted: BTreeMap::new(), with_heads: BTreeSet::new(), last: Stage::Never };
        for point in arch.points() {
            let want = tap.wants(point);
            if want == Want::Nothing {
                continue;
            }
            plan.wanted.insert(point, want);
            plan.last = plan.last.max(stage(point));
            if let (Some(layer), Some(_)) = (point.layer(), point.head()) {
                plan.with_heads.insert((point.site(), layer));
            }
        }
        plan
    }

    /// Has the run go on until every layer's keys are known.
    pub(crate) fn through_all_keys(mut self, arch: &Arch) -> Self {
        let last = arch.layers.len().saturating_sub(1);
        self.last = self.last.max(Stage::Block(last, Site::Scores));
        self
    }

    /// Has the run go on to its very end.
    pub(crate) fn reaching_the_end(mut self) -> Self {
        self.last = Stage::Final(Site::Logits);
        self
    }

    /// The last tokens of each row, if values of no others are needed once attention of the last block is done.
    pub(crate) fn tails(&self, arch: &Arch, tap: &dyn Tap, batch: &Batch) -> Option<Batch> {
        let first = Stage::Block(arch.layers.len().checked_sub(1)?, Site::MlpIn);
        let mut starts: Vec<usize> = batch.spans().map(|span| span.end).collect();
        for point in self.wanted.keys().filter(|point| stage(**point) >= first) {
            let tokens = tap.tokens(*point, batch)?;
            for (start, span) in starts.iter_mut().zip(batch.spans()) {
                let next = tokens.get(tokens.partition_point(|token| *token < span.start));
                *start = next.map_or(*start, |token| *token.min(start));
            }
        }
        let tails = batch.tails(&starts);
        (tails.n_tokens() < batch.n_tokens()).then_some(tails)
    }

    pub(crate) fn wants(&self, point: Point) -> Want {
        self.wanted.get(&point).copied().unwrap_or(Want::Nothing)
    }

    /// Whether a site is wanted for any head of a layer.
    pub(crate) fn wants_heads(&self, site: Site, layer: usize) -> bool {
        self.with_heads.contains(&(site, layer))
    }

    /// Whether nothing is wanted after this stage.
    pub(crate) fn ends_by(&self, stage: Stage) -> bool {
        self.last <= stage
    }
}

fn stage(point: Point) -> Stage {
    match (point.layer(), point.site()) {
        (Some(layer), site) => Stage::Block(layer, site),
        (None, Site::InputIds | Site::InputEmbeddings) => Stage::Embedding,
        (None, site) => Stage::Final(site),
    }
}

impl Arch {
    /// Every point at which a model of this architecture reports.
    pub fn points(&self) -> impl Iterator<Item = Point> + '_ {
        let canonical = |site: &Site| site.canonical() == *site && *site != Site::InputIds;
        Site::ALL.iter().copied().filter(canonical).flatten_points(self)
    }

    /// The points that a pattern names, in ascending order.
    ///
    /// # Errors
    /// A layer or head that does not exist, a place that this architecture lacks. A pattern over many layers passes
    /// over those that lack the place, unless all do.
    pub fn named(&self, selector: &Selector) -> Result<Vec<Point>> {
        let extent = Extent { n_layers: self.layers.len(), n_heads: self.n_heads };
        let named = selector.points(extent)?;
        let lacking = named.iter().find_map(|p| self.lacks(*p).map(|reason| (*p, reason)));
        let found: Vec<Point> = named.iter().copied().filter(|p| self.lacks(*p).is_none()).collect();
        match lacking {
            Some((point, reason)) if found.is_empty() || selector.is_exact() => {
                Err(Error::input(format!("no activation `{point}`: {reason}")))
            }
            _ => Ok(found),
        }
    }

    /// Why this architecture has no such point, or `None` where it has.
    pub fn lacks(&self, point: Point) -> Option<String> {
        use crate::arch::{Mlp, Wiring};
        let layer = point.layer().unwrap_or(0);
        if layer >= self.layers.len() {
            return Some(format!(
                "the model has {} layers, 0 to {}",
                self.layers.len(),
                self.layers.len() - 1
            ));
        }
        if point.head().is_some_and(|head| head >= self.n_heads) {
            return Some(format!("the model has {} heads, 0 to {}", self.n_heads, self.n_heads - 1));
        }
        match point.site() {
            Site::ResidMid if matches!(self.layers[layer].wiring, Wiring::Parallel { .. }) => Some(
                "attention and MLP of this block run in parallel, so no stream stands between them"
                    .to_owned(),
            ),
            Site::MlpHidden if matches!(self.layers[layer].mlp, Mlp::Experts { .. }) => {
                Some("this layer has experts, each with neurons of its own".to_owned())
            }
            Site::LastLayernorm if self.final_norm.is_none() => {
                Some("this model has no final norm".to_owned())
            }
            _ => None,
        }
    }
}

/// Spreads sites over the layers and heads of a model.
trait FlattenPoints: Iterator<Item = Site> + Sized {
    fn flatten_points(self, arch: &Arch) -> impl Iterator<Item = Point> {
        let (n_layers, n_heads) = (arch.layers.len(), arch.n_heads);
        self.flat_map(move |site| {
            let layers = if site.scope() == Scope::Model { 0..1 } else { 0..n_layers };
            layers.flat_map(move |layer| {
                let heads = if site.scope() == Scope::Head { 0..n_heads } else { 0..1 };
                heads.map(move |head| match site.scope() {
                    Scope::Model => Point::model(site),
                    Scope::Head => Point::head_of(site, layer, head),
                    _ => Point::layer_of(site, layer),
                })
            })
        })
        .filter(|point| arch.lacks(*point).is_none())
    }
}

impl<I: Iterator<Item = Site>> FlattenPoints for I {}
