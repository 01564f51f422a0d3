//! Emits steps in order.

use std::ops::Range;

use easyroutine_kernels::Finish;
use easyroutine_sites::{Point, Scope, Site};

use super::reg::{Reg, Regs};
use super::step::{Form, Matrix, NormAt, Step, Values, Visit};
use super::{Asked, At, Section};
use crate::arch::{Arch, AttentionGate, Heads, Layer, Mlp, Norm, Recurrence};
use crate::tap::{Keeping, Want};

/// The pass so far.
pub(super) struct Emitter<'a> {
    pub(super) arch: &'a Arch,
    pub(super) asked: &'a Asked<'a>,
    section: Section,
    layer: &'a Layer,
}

impl<'a> Emitter<'a> {
    /// Emits one section of the pass.
    pub(super) fn section(
        arch: &'a Arch,
        asked: &'a Asked<'a>,
        at: At,
        equations: fn(&mut Emitter<'_>),
    ) -> Section {
        // No step of the embedding or unembedding asks for a layer.
        let layer = &arch.layers[at.layer().unwrap_or(0)];
        let section = Section { at, steps: Vec::with_capacity(24), leaves: Regs::NONE };
        let mut emitter = Emitter { arch, asked, section, layer };
        equations(&mut emitter);
        emitter.section
    }

    /// The layer of the block being emitted.
    pub(super) fn layer(&self) -> &'a Layer {
        self.layer
    }

    /// Whether the block is the model's last.
    pub(super) fn is_last(&self) -> bool {
        self.section.at.layer() == self.arch.layers.len().checked_sub(1)
    }

    /// Its number.
    pub(super) fn number(&self) -> usize {
        self.section.at.layer().unwrap_or(0)
    }

    pub(super) fn push(&mut self, step: Step) {
        self.section.steps.push(step);
    }

    /// `to = norm(from)`, or a copy if there is no norm: an edit of the input must not reach the stream.
    pub(super) fn norm(&mut self, norm: Option<Norm>, at: NormAt, from: Reg, to: Reg) {
        self.push(match norm {
            Some(norm) => Step::Norm { at, norm, from, to, form: Form::Rows },
            None => Step::Copy { from, to },
        });
    }

    /// Norms whole rows in place, if there is a norm.
    pub(super) fn norm_in_place(&mut self, norm: Option<Norm>, at: NormAt, reg: Reg) {
        if let Some(norm) = norm {
            let width = self.width(reg);
            self.push(Step::NormInPlace { at, norm, reg, columns: 0..width, group: width });
        }
    }

    /// `to = from W^T + b`
    pub(super) fn product(&mut self, from: Reg, matrix: Matrix, finish: Finish, to: Reg) {
        let (inputs, outputs) = (self.width(from), self.width(to));
        self.push(Step::Product { from, matrix, inputs, outputs, finish, to, form: Form::Rows });
    }

    /// `reg *= by`, if there is a factor.
    pub(super) fn scale(&mut self, reg: Reg, by: Option<f32>) {
        if let Some(by) = by {
            self.push(Step::Scale { reg, by });
        }
    }

    /// `to += from`. If the previous step is the product that makes `from`, and no tap looks in between, the product
    /// adds its result itself.
    pub(super) fn add(&mut self, from: Reg, to: Reg) {
        match self.section.steps.last_mut() {
            Some(Step::Product { finish: finish @ Finish::Store, to: written, .. }) if *written == from => {
                (*finish, *written) = (Finish::Add, to);
            }
            _ => self.push(Step::Add { from, to }),
        }
    }

    /// From here on tokens are dropped: in the last block only those that some tap needs continue.
    pub(super) fn narrow(&mut self) {
        if self.is_last() {
            self.push(Step::Narrow { live: Regs::NONE });
        }
    }

    /// A place where a tap may look at whole rows.
    pub(super) fn visit(&mut self, site: Site, reg: Reg) {
        self.visit_columns(site, reg, 0..self.width(reg));
    }

    /// A place where a tap may look at a range of columns.
    pub(super) fn visit_columns(&mut self, site: Site, reg: Reg, columns: Range<usize>) {
        let want = self.want(site, None);
        self.visit_as(want, site, None, Values::Columns(reg, columns));
    }

    /// A place where a tap may look at a square of scores or patterns.
    pub(super) fn visit_pairs(
        &mut self,
        want: Want,
        site: Site,
        head: usize,
        square: usize,
        keeping: Keeping,
    ) {
        self.visit_as(want, site, Some(head), Values::Pairs { square, keeping });
    }

    /// Emits the visit of a tap whose answer is known, if it wants one.
    pub(super) fn visit_as(&mut self, want: Want, site: Site, number: Option<usize>, values: Values) {
        if want > Want::Nothing {
            self.push(Step::Visit(Visit { site, number, want, values }));
        }
    }

    /// What taps want at a place. Ask once per place.
    pub(super) fn want(&self, site: Site, number: Option<usize>) -> Want {
        match (self.asked.wants)(self.section.at.point(site, number)) {
            Want::Replace if site != Site::MlpOut => Want::Edit,
            want => want,
        }
    }

    /// What taps want at each head of the block.
    pub(super) fn wants_of_heads(&self, site: Site) -> Vec<Want> {
        (0..self.arch.n_heads).map(|head| self.want(site, Some(head))).collect()
    }

    /// The heads of the block.
    pub(super) fn heads(&self) -> Heads {
        self.arch.heads(self.number())
    }

    /// Number of columns of a register in this section.
    pub(super) fn width(&self, reg: Reg) -> usize {
        let arch = self.arch;
        let heads = self.heads();
        let latent = self.layer.latent();
        match reg {
            Reg::Stream | Reg::Read | Reg::AttnOut | Reg::MlpOut | Reg::Head | Reg::Unedited | Reg::Final => {
                arch.d_model
            }
            Reg::Embedded | Reg::Projected => arch.embed.width,
            Reg::Qkv if self.layer.keys_of().is_some() => heads.queries(),
            Reg::Qkv => {
                let gate = match &self.layer.attention {
                    Some(attention) if attention.gate == AttentionGate::Sigmoid => heads.mixed(),
                    _ => 0,
                };
                heads.queries() + heads.keys() + heads.values() + gate
            }
            Reg::HeadKv => heads.spread().keys() + heads.spread().values(),
            Reg::Z => heads.mixed(),
            Reg::CompressedQueries => latent.and_then(|latent| latent.queries).unwrap_or(0),
            Reg::CompressedKv => latent.map_or(0, |latent| latent.keys_values + latent.shared),
            Reg::KvLatent => latent.map_or(0, |latent| latent.keys_values),
            Reg::OwnQueries => heads.queries(),
            Reg::OwnKv => latent.map_or(0, |latent| heads.n * (heads.d_head - latent.shared + heads.d_value)),
            Reg::SharedOut | Reg::PerLayerOut => arch.d_model,
            Reg::ExpertOut => self.layer.experts_latent().unwrap_or(arch.d_model),
            Reg::LatentRead | Reg::LatentSum => self.layer.experts_latent().unwrap_or(0),
            Reg::PerLayer => arch.per_layer.map_or(0, |inputs| arch.layers.len() * inputs.width),
            Reg::PerLayerHidden => arch.per_layer.map_or(0, |inputs| inputs.width),
            Reg::LentFull | Reg::LentSliding => heads.keys() + heads.values(),
            Reg::MixerOut => arch.d_model,
            Reg::Mixed => self.of_recurrence(|r| r.convolved() + r.width() + r.rest()),
            Reg::Convolved => self.of_recurrence(|r| r.convolved()),
            Reg::Selected => self.of_recurrence(|r| r.selected()),
            Reg::MixerZ => self.of_recurrence(|r| r.width()),
            Reg::Hidden => self.layer.d_mlp(),
            Reg::SharedHidden => match self.layer.mlp {
                Some(Mlp::Experts { shared: Some(shared), .. }) => shared.d_mlp,
                _ => 0,
            },
            Reg::RouterScores => self.layer.experts().unwrap_or(0),
            Reg::RouterIndex | Reg::RouterWeights => match self.layer.mlp {
                Some(Mlp::Experts { top_k, .. }) => top_k,
                _ => 0,
            },
            Reg::Moments => 3,
            Reg::Logits => arch.score().map_or(arch.vocabulary, |score| score.labels),
            Reg::Pairs | Reg::States => 0,
        }
    }

    fn of_recurrence(&self, width: impl Fn(&Recurrence) -> usize) -> usize {
        self.layer.recurrence.as_ref().map_or(0, width)
    }
}

impl At {
    /// All sections of a pass.
    pub(crate) fn all(arch: &Arch) -> impl Iterator<Item = At> + use<> {
        let blocks = (0..arch.layers.len()).map(At::Block);
        std::iter::once(At::Embedding).chain(blocks).chain([At::Unembedding])
    }

    /// The layer of a block.
    pub(crate) fn layer(self) -> Option<usize> {
        match self {
            At::Block(layer) => Some(layer),
            At::Embedding | At::Unembedding => None,
        }
    }

    /// A site's point in this section.
    pub(crate) fn point(self, site: Site, number: Option<usize>) -> Point {
        let (layer, number) = (self.layer().unwrap_or(0), number.unwrap_or(0));
        match site.scope() {
            Scope::Head => Point::head_of(site, layer, number),
            Scope::Expert => Point::expert_of(site, layer, number),
            Scope::Model => Point::model(site),
            Scope::Layer | Scope::LetteredLayer => Point::layer_of(site, layer),
        }
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            At::Embedding => f.write_str("embedding"),
            At::Block(layer) => write!(f, "block {layer}"),
            At::Unembedding => f.write_str("unembedding"),
        }
    }
}
