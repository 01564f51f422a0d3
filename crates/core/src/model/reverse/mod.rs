//! The backward pass: gradients, at every place where a tap looks, of a number computed from the logits, or of vectors
//! given anywhere.
//!
//! A first run goes forward. From the lowest requested block on, it keeps what the backward rules need, if that of all
//! blocks fits in a fixed room, else only the stream that enters each block. Then the blocks' steps are walked in
//! reverse, from the last block to the lowest requested one. Without its record, a block runs again first. So memory
//! holds at most one stream per layer, one block's insides and that room, and nothing is walked below the lowest place.
//! docs/design/gradients.md.

mod carried;
mod gradients;
mod heads;
mod latent;
mod mixture;
mod record;
mod repeated;
mod rules;
mod state;
mod tape;
mod walk;

use std::cell::RefCell;

use easyroutine_kernels::{Dtype, Scale, Slope};
use easyroutine_sites::{Point, Site};

use super::buffer::Buffer;
use super::past::Past;
use super::run::Run;
use super::{Model, emit};
use crate::batch::Batch;
use crate::error::{Error, ErrorKind, Result};
use crate::pass::{Asked, At, KeyHeads, Program, Reg, Regs, Section, Step, Values};
use crate::stop::Stop;
use crate::tap::{Reversible, Tap, Value, Want};
use record::{Kept, fit};
pub(crate) use repeated::Repeated;
use state::Walk;

/// Logits held at a time: 64 MiB, or those of a few tokens.
const LOGITS_AT_ONCE: usize = 16 << 20;

/// What replaces the derivatives of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rule {
    /// The derivatives themselves.
    #[default]
    Gradient,
    /// RelP (arXiv 2508.21258): norm scales and attention patterns are constants, and an activation is its input times
    /// a constant.
    Relp {
        /// Whether each side of a product of gate and up gets half of its gradient.
        halves: bool,
    },
}

impl Rule {
    /// How norms treat their scale.
    pub(crate) fn scale(self) -> Scale {
        if self == Rule::Gradient { Scale::Moves } else { Scale::Stays }
    }

    fn slope(self) -> Slope {
        match self {
            Rule::Gradient => Slope::Derivative,
            Rule::Relp { halves } => Slope::Ratio { halves },
        }
    }
}

/// A number computed from logits, row by row.
pub(crate) trait Objective {
    /// The tokens (of the whole batch, ascending) whose logits it reads.
    fn tokens(&self, batch: &Batch) -> Vec<usize>;

    /// Reads the logits of one of these tokens and replaces them by the gradient with respect to them.
    fn at(&mut self, token: usize, logits: &mut [f32]) -> Result<()>;
}

/// Where gradients start.
pub(crate) enum Start<'a> {
    /// From a number computed from the logits.
    Logits(&'a mut dyn Objective),
    /// From vectors that this tap adds to the gradients at its points, which otherwise start at zero.
    Vectors(&'a mut dyn Tap),
}

/// The request for a backward pass.
pub(crate) struct Reverse<'a> {
    pub(crate) start: Start<'a>,
    /// Edits of the run; gradients are those of the edited run.
    pub(crate) edits: &'a mut dyn Reversible,
    /// Receives values of the forward run, edits included, at the points before the unembedding that it wants.
    pub(crate) values: Option<&'a mut dyn Tap>,
    /// Receives the gradients at the points that it wants, from last to first.
    pub(crate) receiver: &'a mut dyn Tap,
    pub(crate) rule: Rule,
    pub(crate) stop: Stop<'a>,
}

impl Model {
    /// Runs a batch forward and backward.
    ///
    /// # Errors
    /// As [`Model::forward`]. Also if the model is in bf16, a step has no backward rule (it is named), or a tap fails.
    pub(crate) fn reverse(&self, batch: &Batch, reverse: &mut Reverse<'_>) -> Result<()> {
        self.check(batch)?;
        if matches!(reverse.start, Start::Logits(_)) {
            self.unembedding()?;
        }
        let program = self.shown(reverse);
        let Some(lowest) = lowest(&program, reverse.receiver) else { return Ok(()) };
        let sections: Vec<&Section> =
            program.sections.iter().filter(|section| section.at >= lowest).collect();
        // What one section leaves for another stays where it is.
        let shared = program.sections.iter().fold(Regs::NONE, |all, section| all.and(section.leaves));
        check_rules(self, sections.iter().copied())?;
        let mut steps = sections.iter().flat_map(|section| &section.steps);
        if reverse.rule != Rule::Gradient
            && let Some(what) = steps.find_map(rules::beyond_relp)
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("RelP says nothing of {what}, which this model has"),
            )
            .hint("plain gradients go through them"));
        }
        reverse.edits.begin();
        self.weights.unembedding.files.during(|| {
            self.with_buffers(|registers| {
                let chosen = RefCell::new(Chosen::default());
                let edits: RefCell<&mut dyn Reversible> = RefCell::new(&mut *reverse.edits);
                let values: RefCell<Option<&mut dyn Tap>> = RefCell::new(match &mut reverse.values {
                    Some(values) => Some(&mut **values),
                    None => None,
                });
                let mut forward = Forward { edits: &edits, values: &values, chosen: &chosen };
                let run = Run::new(self, batch, None, &mut forward, registers, Past::Nothing);
                let mut walk = Walk::new(run, &edits, reverse.rule);
                let kept = self.forwards(&mut walk, &sections, shared, &values, reverse.stop)?;
                // A block that runs again shows the same values.
                *values.borrow_mut() = None;
                let start = reverse.start.reborrow();
                backwards(walk, &chosen, &sections, kept, start, reverse.receiver, reverse.stop)
            })
        })
    }

    /// The pass, with a visit at every place that something looks at. Scores and patterns are shown between their
    /// steps.
    fn shown(&self, reverse: &Reverse<'_>) -> Program {
        let wants = |point: Point| {
            let own = reverse.edits.wants(point);
            let seen = reverse.receiver.wants(point) > Want::Nothing
                || reverse.values.as_ref().is_some_and(|values| values.wants(point) > Want::Nothing)
                || match &reverse.start {
                    Start::Logits(_) => point.site() == Site::Logits,
                    Start::Vectors(tap) => tap.wants(point) > Want::Nothing,
                };
            match seen {
                // Between their steps, and per query head.
                true if point.site().is_pairwise()
                    || matches!(point.site(), Site::HeadKeys | Site::HeadValues) =>
                {
                    Want::Edit
                }
                true => own.max(Want::Read),
                false => own,
            }
        };
        emit(self.arch(), &Asked { wants: &wants, past: None, heads_at_once: 1 }, At::all(self.arch()))
    }

    /// Runs forward, keeping what enters each section, and everything that its rules need if there is room.
    fn forwards(
        &self,
        walk: &mut Walk<'_>,
        sections: &[&Section],
        shared: Regs,
        values: &RefCell<Option<&mut dyn Tap>>,
        stop: Stop<'_>,
    ) -> Result<Vec<Kept>> {
        let Some(last) = sections.last().map(|section| section.at) else { return Ok(Vec::new()) };
        let edits = walk.edits;
        // Keys that later layers read stand in the same form as in the run that is walked back.
        let spread: Vec<At> = sections
            .iter()
            .filter(|section| section.steps.iter().any(lends_spread_keys))
            .map(|section| section.at)
            .collect();
        let wants = |point: Point| {
            let of_values = values.borrow().as_ref().map_or(Want::Nothing, |values| values.wants(point));
            match edits.borrow().wants(point).then(of_values) {
                Want::Nothing
                    if point.site() == Site::HeadKeys
                        && point.layer().is_some_and(|layer| spread.contains(&At::Block(layer))) =>
                {
                    Want::Edit
                }
                want => want,
            }
        };
        let asked = Asked { wants: &wants, past: None, heads_at_once: 1 };
        // The last block may read of earlier sections more than the stream; the unembedding does not.
        let runs = |at: &At| *at < last || *at == last && last != At::Unembedding;
        let program = emit(self.arch(), &asked, At::all(self.arch()).take_while(runs));
        let mut kept: Vec<Kept> = Vec::with_capacity(sections.len());
        // Where memory holds one layer at a time, it has no room for records.
        let mut is_recording = !self.is_by_layer();
        let stream = |walk: &Walk<'_>, at: At| {
            (at > At::Embedding).then(|| copy(walk.run.registers.get(Reg::Stream).rows()))
        };
        for section in program.sections.iter().take_while(|section| section.at < last) {
            stop.check()?;
            let walked = sections.iter().find(|walked| walked.at == section.at);
            let stream = walked.and_then(|_| stream(walk, section.at));
            let mut record = None;
            match walked.filter(|walked| is_recording && walked.at > At::Embedding) {
                Some(walked) => record = Some(walk.record(walked, shared)?),
                None => walk.run.section(section)?,
            }
            if walked.is_some() {
                kept.push(Kept { stream, record });
            }
            if is_recording && !fit(kept.iter(), sections.len()) {
                is_recording = false;
                kept.iter_mut().for_each(|kept| kept.record = None);
            }
        }
        kept.push(Kept { stream: stream(walk, last), record: None });
        Ok(kept)
    }
}

/// Checks that every step of the sections has a backward rule.
fn check_rules<'s>(model: &Model, sections: impl IntoIterator<Item = &'s Section>) -> Result<()> {
    if model.dtype() != Dtype::F32 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "gradients are computed in f32, and this model in bf16",
        )
        .hint("load it in f32"));
    }
    let mut steps = sections.into_iter().flat_map(|section| &section.steps);
    match steps.find(|step| !rules::has_rule(step)) {
        None => Ok(()),
        Some(step) => {
            let text = format!("{step:?}");
            let name: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
            Err(Error::new(
                ErrorKind::Unsupported,
                format!("gradients of this model cannot be computed: its step `{name}` has no backward rule"),
            ))
        }
    }
}

/// The lowest section that the receiver looks at.
fn lowest(program: &Program, receiver: &dyn Tap) -> Option<At> {
    let looks = |section: &&Section| section.steps.iter().any(|step| is_shown(section.at, step, receiver));
    program.sections.iter().find(looks).map(|section| section.at)
}

/// Walks the sections from last to first.
fn backwards(
    mut walk: Walk<'_>,
    chosen: &RefCell<Chosen>,
    sections: &[&Section],
    mut kept: Vec<Kept>,
    mut start: Start<'_>,
    receiver: &mut dyn Tap,
    stop: Stop<'_>,
) -> Result<()> {
    let points = sections.iter().flat_map(|section| section.steps.iter().map(|step| (section.at, step)));
    let mut left = points.filter(|(at, step)| is_shown(*at, step, receiver)).count();
    for section in sections.iter().rev() {
        stop.check()?;
        let kept = kept.pop().unwrap_or_default();
        match (&mut start, section.at) {
            (Start::Logits(objective), At::Unembedding) => {
                walk.load(kept.stream);
                let shown = [Site::Logits, Site::FinalNormOut].map(Point::model);
                let read = objective.tokens(walk.run.batch);
                let mut tokens = read.clone();
                let mut all_at_once = false;
                for point in shown.into_iter().filter(|point| receiver.wants(*point) > Want::Nothing) {
                    let wanted = receiver.tokens(point, walk.run.batch);
                    tokens.extend(wanted.unwrap_or_else(|| (0..walk.run.batch.n_tokens()).collect()));
                    tokens.sort_unstable();
                    tokens.dedup();
                    all_at_once = true;
                }
                let of_vocabulary = LOGITS_AT_ONCE / walk.run.model.arch.vocabulary.max(1);
                let at_once = if all_at_once { tokens.len() } else { of_vocabulary.clamp(16, 256) };
                for tokens in tokens.chunks(at_once.max(1)) {
                    chosen.borrow_mut().tokens = tokens.to_vec();
                    let tape = walk.tape(section)?;
                    let mut logits = std::mem::take(&mut chosen.borrow_mut().logits);
                    let width = logits.len() / tokens.len().max(1);
                    if walk.run.model.arch.unembed.softcap.is_some() {
                        walk.capped.clone_from(&logits);
                    }
                    for (token, logits) in tokens.iter().zip(logits.chunks_exact_mut(width.max(1))) {
                        match read.binary_search(token) {
                            Ok(_) => objective.at(*token, logits)?,
                            Err(_) => logits.fill(0.0),
                        }
                    }
                    walk.logits = logits;
                    let shown = walk.back(section, tape, &mut (), receiver)?;
                    left -= shown;
                }
            }
            (start, _) => {
                let mut none = ();
                let seeds: &mut dyn Tap = match start {
                    Start::Vectors(tap) => &mut **tap,
                    Start::Logits(_) => &mut none,
                };
                left -= walk.section(section, kept, seeds, receiver, left)?;
            }
        }
        if left == 0 {
            break;
        }
    }
    Ok(())
}

/// Whether a step shows its gradient to the receiver.
fn is_shown(at: At, step: &Step, receiver: &dyn Tap) -> bool {
    match step {
        Step::Visit(visit) => receiver.wants(at.point(visit.site, visit.number)) > Want::Nothing,
        _ => false,
    }
}

/// A copy of rows.
pub(super) fn copy(rows: easyroutine_kernels::Rows<'_>) -> Buffer {
    let mut buffer = Buffer::default();
    buffer.resize(rows.n_rows(), rows.n_columns());
    let mut to = buffer.rows_mut();
    (0..rows.n_rows()).for_each(|row| to.row_mut(row).copy_from_slice(rows.row(row)));
    buffer
}

/// A copy of some rows.
fn some(rows: easyroutine_kernels::Rows<'_>, tokens: &[usize]) -> Buffer {
    let mut buffer = Buffer::default();
    buffer.resize(tokens.len(), rows.n_columns());
    let mut to = buffer.rows_mut();
    tokens.iter().enumerate().for_each(|(i, token)| to.row_mut(i).copy_from_slice(rows.row(*token)));
    buffer
}

impl Start<'_> {
    fn reborrow(&mut self) -> Start<'_> {
        match self {
            Start::Logits(objective) => Start::Logits(&mut **objective),
            Start::Vectors(tap) => Start::Vectors(&mut **tap),
        }
    }
}

/// The tokens whose logits a run of the unembedding computes, and those logits.
#[derive(Debug, Default)]
struct Chosen {
    tokens: Vec<usize>,
    logits: Vec<f32>,
}

/// The tap of all forward runs: the edits, what keeps values of the first run, and a place for the logits.
struct Forward<'a> {
    edits: &'a RefCell<&'a mut dyn Reversible>,
    values: &'a RefCell<Option<&'a mut dyn Tap>>,
    chosen: &'a RefCell<Chosen>,
}

impl Tap for Forward<'_> {
    fn wants(&self, point: Point) -> Want {
        let values = self.values.borrow().as_ref().map_or(Want::Nothing, |values| values.wants(point));
        self.edits.borrow().wants(point).then(values)
    }

    fn tokens(&self, _: Point, _: &Batch) -> Option<Vec<usize>> {
        Some(self.chosen.borrow().tokens.clone())
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        if point.site() == Site::Logits {
            let mut chosen = self.chosen.borrow_mut();
            chosen.logits = value.take(&chosen.tokens).unwrap_or_default();
            return Ok(());
        }
        if self.edits.borrow().wants(point) > Want::Nothing {
            self.edits.borrow_mut().at(point, value)?;
        }
        match self.values.borrow_mut().as_mut().filter(|values| values.wants(point) > Want::Nothing) {
            Some(values) => values.at(point, value),
            None => Ok(()),
        }
    }
}

/// Whether a step puts keys, one a query head, where later layers read them.
fn lends_spread_keys(step: &Step) -> bool {
    matches!(step, Step::Lend { keys: KeyHeads::OfQueryHeads, .. })
}

/// Whether a step shows pairwise values that something may change.
fn shows_pairs(step: &Step) -> bool {
    matches!(step, Step::Visit(visit) if matches!(visit.values, Values::Pairs { .. }))
}
