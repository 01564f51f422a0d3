//! Many backward passes over one forward run, which is computed only once.

use std::cell::RefCell;
use std::ops::Range;

use easyroutine_kernels::{Rows, RowsMut};

use super::rules::is_by_token;
use super::state::Walk;
use super::{Chosen, Forward, check_rules, copy, some};
use crate::batch::Batch;
use crate::error::Result;
use crate::model::buffer::Buffer;
use crate::model::past::Past;
use crate::model::run::Run;
use crate::model::{Model, emit};
use crate::pass::{Asked, At, Reg};
use crate::stop::Stop;
use crate::tap::{Reversible, Want};

/// Backward passes from the stream that leaves one block to the streams that enter it and earlier blocks.
pub(crate) struct Repeated<'a> {
    /// The blocks walked, from last to first.
    pub(crate) blocks: Range<usize>,
    /// Number of passes.
    pub(crate) times: usize,
    /// The tokens that gradients are wanted of, ascending. In each row, tokens after these have none to give.
    pub(crate) tokens: &'a [usize],
    /// Writes one pass's gradient of the stream that leaves the last block, a row per token, over zeros.
    pub(crate) give: &'a mut dyn FnMut(usize, RowsMut<'_>),
    /// Receives, for one pass and block, the gradient of the stream that enters it, a row per token.
    pub(crate) take: &'a mut dyn FnMut(usize, usize, Rows<'_>) -> Result<()>,
    pub(crate) stop: Stop<'a>,
}

impl Model {
    /// Runs a batch forward once and backward many times. Each block runs again only once, whatever the number of
    /// passes. Memory holds one gradient of the stream per pass.
    ///
    /// # Errors
    /// As [`Model::reverse`], and the errors of `take`.
    pub(crate) fn reverse_repeated(&self, batch: &Batch, repeated: &mut Repeated<'_>) -> Result<()> {
        self.check(batch)?;
        let wants = |_| Want::Nothing;
        let asked = Asked { wants: &wants, past: None, heads_at_once: 1 };
        let last = repeated.blocks.end;
        let sections = At::all(&self.arch).take_while(|at| *at < At::Block(last));
        let program = emit(&self.arch, &asked, sections);
        let first = At::Block(repeated.blocks.start);
        check_rules(self, program.sections.iter().filter(|section| section.at >= first))?;
        self.weights.unembedding.files.during(|| {
            self.with_buffers(|registers| {
                let (chosen, mut none) = (RefCell::new(Chosen::default()), ());
                let edits: RefCell<&mut dyn Reversible> = RefCell::new(&mut none);
                let values = RefCell::new(None);
                let mut forward = Forward { edits: &edits, values: &values, chosen: &chosen };
                let run = Run::new(self, batch, None, &mut forward, registers, Past::Nothing);
                let mut walk = Walk::new(run, &edits, super::Rule::Gradient);
                // No gradient flows from a token to later ones, so tokens before those wanted need none, where each
                // rule takes token by token. Attention reads the others' keys, and gives them nothing.
                let mut walked = program.sections.iter().filter(|section| section.at >= first);
                let is_by_token = walked.all(|section| section.steps.iter().all(is_by_token));
                walk.tokens = is_by_token.then(|| repeated.tokens.to_vec());
                let all = match is_by_token {
                    true => (0..repeated.tokens.len()).collect(),
                    false => repeated.tokens.to_vec(),
                };
                let rows = if is_by_token { all.len() } else { batch.n_tokens() };
                let mut streams = Vec::new();
                for section in &program.sections {
                    repeated.stop.check()?;
                    if section.at >= first {
                        streams.push(copy(walk.run.registers.get(Reg::Stream).rows()));
                    }
                    walk.run.section(section)?;
                }
                let mut gradients: Vec<Buffer> = (0..repeated.times)
                    .map(|time| {
                        let mut given = walk.gradients.zeros(all.len(), self.arch.d_model);
                        (repeated.give)(time, given.rows_mut());
                        let mut spread = walk.gradients.zeros(rows, self.arch.d_model);
                        let mut to = spread.rows_mut();
                        for (i, row) in all.iter().enumerate() {
                            to.row_mut(*row).copy_from_slice(given.rows().row(i));
                        }
                        walk.gradients.free(given);
                        spread
                    })
                    .collect();
                // What earlier blocks lent has a gradient of its own in each pass.
                let mut lent: Vec<[Option<Buffer>; 2]> = (0..repeated.times).map(|_| [None, None]).collect();
                const LENT: [Reg; 2] = [Reg::LentFull, Reg::LentSliding];
                for section in program.sections.iter().rev().filter(|section| section.at >= first) {
                    let layer = section.at.layer().unwrap_or(0);
                    walk.load(streams.pop());
                    let mut tape = walk.tape(section)?;
                    if let Some(tokens) = &walk.tokens {
                        tape.iter_mut().for_each(|saved| saved.keep(tokens));
                    }
                    // Laid out for the first pass, and dropped with the last.
                    walk.transposed = (!self.is_by_layer()).then(Vec::new);
                    for (time, gradient) in gradients.iter_mut().enumerate() {
                        repeated.stop.check()?;
                        walk.gradients.put(Reg::Stream, std::mem::take(gradient));
                        for (reg, lent) in LENT.into_iter().zip(&mut lent[time]) {
                            lent.take().into_iter().for_each(|g| walk.gradients.put(reg, g));
                        }
                        for (step, saved) in section.steps.iter().zip(&tape).rev() {
                            walk.rule_of(section.at, step, saved)?;
                        }
                        *gradient = match walk.gradients.take(Reg::Stream) {
                            Some(gradient) => gradient,
                            None => walk.gradients.zeros(rows, self.arch.d_model),
                        };
                        lent[time] = LENT.map(|reg| walk.gradients.take(reg));
                        // What the embedding gives to every layer is below the lowest stream.
                        if let Some(g) = walk.gradients.take(Reg::PerLayer) {
                            walk.gradients.free(g);
                        }
                        match is_by_token {
                            true => (repeated.take)(time, layer, gradient.rows())?,
                            false => (repeated.take)(time, layer, some(gradient.rows(), &all).rows())?,
                        }
                    }
                }
                Ok(())
            })
        })
    }
}
