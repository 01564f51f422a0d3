//! The run that the constants are taken from.

use std::collections::{BTreeMap, BTreeSet};

use easyroutine_kernels::{Dtype, Finish, Sequence};
use easyroutine_sites::{Point, Site};

use super::piece::{Map, Piece};
use super::{Frozen, Scales, is_always_visited};
use crate::arch::Heads;
use crate::batch::Batch;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::model::buffer::Buffer;
use crate::model::past::Past;
use crate::model::reverse::copy;
use crate::model::run::Run;
use crate::pass::{Asked, At, KeyHeads, Matrix, NormAt, Reg, Section, Step, Values, emit};
use crate::stop::Stop;
use crate::tap::{Tap, Value, Want};

impl Model {
    /// Runs one prompt and keeps its attention patterns and norm scales as constants. `reads` are the places that
    /// visitors see besides `input_embeddings`, `mlp_in`, `mlp_out` and `final_norm_out`.
    ///
    /// # Errors
    /// As [`Model::forward`]. Also if the model is in bf16, has steps between its MLPs that stay non-linear with
    /// constant patterns and scales (they are named), or if a place is not part of the stream.
    pub fn freeze(&self, ids: &[u32], reads: &[Point], stop: Stop<'_>) -> Result<Frozen<'_>> {
        if self.dtype() != Dtype::F32 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "attribution graphs are computed in f32, and this model in bf16",
            )
            .hint("load it in f32"));
        }
        self.unembedding()?;
        if let Some(what) = self.arch.reads_across_blocks() {
            let message = format!(
                "no graph can be made of this model, which is not linear in its stream alone: {what}"
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if let Some(point) = reads.iter().find(|point| !is_in_reach(point.site())) {
            return Err(Error::input(format!(
                "`{point}` does not stand between the stream and an MLP: `resid_in`, `resid_mid` and `mlp_in` do"
            )));
        }
        let batch = Batch::new(&[ids])?;
        if ids.is_empty() {
            return Err(Error::input("a prompt without tokens has no graph"));
        }
        self.check(&batch)?;
        let reads: BTreeSet<Point> = reads.iter().copied().collect();
        let wants = |point: Point| match point.site() {
            Site::Logits => Want::Read,
            Site::FinalNormOut => Want::Nothing,
            site if is_always_visited(site) || reads.contains(&point) => Want::Read,
            _ => Want::Nothing,
        };
        let asked = Asked { wants: &wants, past: None, heads_at_once: 1 };
        let program = emit(&self.arch, &asked, At::all(&self.arch));
        let mut keep =
            Keep { last: batch.n_tokens().saturating_sub(1), values: BTreeMap::new(), logits: Vec::new() };
        let (mut sections, mut tokens, mut normed) = (Vec::new(), Buffer::default(), Buffer::default());
        self.weights.unembedding.files.during(|| {
            self.with_buffers(|registers| {
                let mut run = Run::new(self, &batch, None, &mut keep, registers, Past::Nothing);
                for section in &program.sections {
                    stop.check()?;
                    match section.at {
                        At::Embedding => tokens = self.embedded(&mut run, section)?,
                        At::Block(_) => sections.push(self.block(&mut run, section)?),
                        At::Unembedding => {
                            let (pieces, out) = self.last(&run)?;
                            (normed, _) = (out, sections.push(pieces));
                            run.section(section)?;
                        }
                    }
                }
                Ok(())
            })
        })?;
        keep.values.insert(Point::model(Site::FinalNormOut), normed);
        let Keep { values, logits, .. } = keep;
        Ok(Frozen { model: self, n_tokens: batch.n_tokens(), sections, values, tokens, logits })
    }

    /// Runs the embedding and returns the tokens' own part of the stream.
    fn embedded(&self, run: &mut Run<'_>, section: &Section) -> Result<Buffer> {
        let n_tokens = run.batch.n_tokens();
        let mut own = Buffer::default();
        for step in &section.steps {
            match step {
                Step::NormInPlace { at, reg, .. } => {
                    let norm = self.weights.norm(section.at, *at)?;
                    let scales = Scales::of(norm, run.registers.get(*reg).rows());
                    run.step(section.at, step)?;
                    let mut out = Buffer::default();
                    out.resize(n_tokens, own.rows().n_columns());
                    self.cpu.norm_frozen(scales.norm(), None, own.rows(), out.rows_mut());
                    own = out;
                }
                Step::Embed { to, .. } => {
                    run.step(section.at, step)?;
                    own = copy(run.registers.get(*to).rows());
                }
                Step::Product { from, matrix: matrix @ Matrix::EmbeddingIn, outputs, .. } => {
                    let mut out = Buffer::default();
                    out.resize(n_tokens, *outputs);
                    let from = run.registers.get(*from).left();
                    self.weights.matrix(section.at, *matrix)?.apply_unbiased(&self.cpu, from, out.rows_mut());
                    own = out;
                    run.step(section.at, step)?;
                }
                step => run.step(section.at, step)?,
            }
        }
        Ok(own)
    }

    /// Runs a block and returns its linear steps.
    fn block(&self, run: &mut Run<'_>, section: &Section) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut is_inside_mlp = false;
        for step in &section.steps {
            if let Step::Visit(visit) = step {
                is_inside_mlp &= visit.site != Site::MlpOut;
            }
            if !is_inside_mlp {
                pieces.extend(self.piece(run, section.at, step)?);
            }
            if let Step::Visit(visit) = step {
                is_inside_mlp |= visit.site == Site::MlpIn;
            }
            run.step(section.at, step)?;
        }
        Ok(pieces)
    }

    /// The linear step in place of a step of the pass, made before that step runs.
    fn piece(&self, run: &Run<'_>, at: At, step: &Step) -> Result<Option<Piece>> {
        let weights = &self.weights;
        Ok(match step {
            Step::Visit(visit) => match &visit.values {
                Values::Columns(reg, columns) => {
                    let point = at.point(visit.site, visit.number);
                    Some(Piece::Visit { point, reg: *reg, width: columns.len() })
                }
                _ => None,
            },
            Step::Copy { from, to } => Some(Piece::Copy { from: *from, to: *to }),
            Step::Norm { at: place, from, to, .. } => {
                let scales = Scales::of(weights.norm(at, *place)?, run.registers.get(*from).rows());
                Some(Piece::Norm { scales, from: *from, to: *to })
            }
            // Queries and keys only make patterns, which are constants.
            Step::NormInPlace { at: NormAt::Queries | NormAt::Keys, .. }
            | Step::Rotate { .. }
            | Step::Grow { .. } => None,
            Step::NormInPlace { at: place, reg, .. } if *reg != Reg::Qkv => {
                let scales = Scales::of(weights.norm(at, *place)?, run.registers.get(*reg).rows());
                Some(Piece::NormInPlace { scales, reg: *reg })
            }
            Step::Product { from, matrix: Matrix::Qkv, to, .. } => {
                let values = values(self.arch.heads(at.layer().unwrap_or(0)));
                let map = Map::of(&self.cpu, weights.matrix(at, Matrix::Qkv)?, values)?;
                Some(Piece::Map { map, from: *from, to: *to, adds: false })
            }
            Step::Product { from, matrix: matrix @ Matrix::Out, outputs, finish, to, .. } => {
                let map = Map::of(&self.cpu, weights.matrix(at, *matrix)?, 0..*outputs)?;
                Some(Piece::Map { map, from: *from, to: *to, adds: *finish == Finish::Add })
            }
            Step::Attend { keys: keys @ KeyHeads::Grouped, .. } => {
                let spec = weights.attention(at, *keys)?;
                let [q, k, _] = run.inputs(at, spec, *keys);
                let rows = run.batch.n_tokens();
                let sequences = [Sequence { queries: 0..rows, keys: 0..rows }];
                let pattern = |head| {
                    let mut square = vec![0.0; rows * rows];
                    self.cpu.attention_scores(spec, head, q, k, &sequences, &mut square);
                    self.cpu.attention_softmax(spec, head, &sequences, &mut square);
                    square
                };
                Some(Piece::Attend { spec: spec.clone(), patterns: (0..spec.n_heads).map(pattern).collect() })
            }
            Step::Scale { reg, by } => Some(Piece::Scale { reg: *reg, by: *by }),
            Step::Add { from, to } => Some(Piece::Add { from: *from, to: *to }),
            Step::Narrow { .. } => None,
            step => {
                let text = format!("{step:?}");
                let name: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "no graph can be made of this model: its step `{name}` in {at} is not linear in the stream, \
                         even with patterns and scales held constant"
                    ),
                ));
            }
        })
    }

    /// The linear steps from the last stream to the unembedding, and their output.
    fn last(&self, run: &Run<'_>) -> Result<(Vec<Piece>, Buffer)> {
        let stream = run.registers.get(Reg::Stream).rows();
        let width = stream.n_columns();
        let visit = Piece::Visit { point: Point::model(Site::FinalNormOut), reg: Reg::Final, width };
        let Some(norm) = &self.weights.unembedding.norm else {
            let copied = Piece::Copy { from: Reg::Stream, to: Reg::Final };
            return Ok((vec![copied, visit], copy(stream)));
        };
        let mut out = Buffer::default();
        out.resize(stream.n_rows(), width);
        norm.apply(&self.cpu, stream, out.rows_mut());
        let scales = Scales::of(norm, stream);
        Ok((vec![Piece::Norm { scales, from: Reg::Stream, to: Reg::Final }, visit], out))
    }
}

/// Whether a linear run passes through a place that precedes an MLP.
fn is_in_reach(site: Site) -> bool {
    is_always_visited(site) || matches!(site, Site::ResidIn | Site::ResidMid)
}

/// The outputs of the qkv projection that are values.
fn values(heads: Heads) -> std::ops::Range<usize> {
    let first = heads.queries() + heads.keys();
    first..first + heads.values()
}

/// Keeps the values of places, and the logits of the last token.
struct Keep {
    last: usize,
    values: BTreeMap<Point, Buffer>,
    logits: Vec<f32>,
}

impl Tap for Keep {
    /// The steps are given, so the tap requests nothing.
    fn wants(&self, _: Point) -> Want {
        Want::Read
    }

    fn tokens(&self, point: Point, _: &Batch) -> Option<Vec<usize>> {
        (point.site() == Site::Logits).then(|| vec![self.last])
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        if point.site() == Site::Logits {
            self.logits = value.vector(0, self.last).unwrap_or_default().to_vec();
        } else if let Some(rows) = value.matrix(0) {
            self.values.insert(point, copy(rows));
        }
        Ok(())
    }
}
