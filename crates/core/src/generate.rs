//! Generates tokens one by one, greedily or by sampling, with a KV cache.

mod sample;
mod text;

use std::ops::ControlFlow;

use crate::batch::Batch;
use crate::error::Result;
use crate::logits::LastLogits;
use crate::model::{KvCache, Model};
use crate::stop::Stop;
use crate::tap::Tap;

pub use sample::Sampling;
pub use text::{Piece, TextStream};

/// Options of generation.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Limit on new tokens.
    pub max_new_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Ids after which a row ends; the id itself is kept. For the model's own see
    /// [`load::end_ids`](crate::load::end_ids).
    pub ends: Vec<u32>,
    /// Seed of all draws. A draw depends only on the seed, the row and the token's number.
    pub seed: u64,
}

/// A newly chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NewToken {
    /// The row that it continues.
    pub row: usize,
    /// Its id.
    pub id: u32,
    /// Its log-probability (natural) in the model, before any temperature or cut.
    pub logprob: f64,
}

/// The continuation of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The new tokens.
    pub ids: Vec<u32>,
    /// Their log-probabilities, as [`NewToken::logprob`].
    pub logprobs: Vec<f64>,
    /// Why it ended.
    pub finish: Finish,
}

/// Why a row ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It has the requested number of new tokens.
    Length,
    /// Its last token is one of the ends.
    End,
    /// The caller stopped it.
    Stopped,
    /// It reached the model's context length.
    Context,
}

impl Finish {
    /// A one-word name.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Length => "length",
            Finish::End => "end",
            Finish::Stopped => "stopped",
            Finish::Context => "context",
        }
    }
}

/// Continues rows, each until it ends. `first` is a tap on every step, such as [`Edits`](crate::edit::Edits): it sees
/// positions within the whole row, the prompt in the first step and one token in each later step. `on_token` gets each
/// token as it is chosen, and may end its row.
///
/// Every logit has the bits that running the whole row again for each token would give.
///
/// # Errors
/// As [`Model::forward`]; if a temperature, `top_k` or `top_p` is out of range, logits are NaN, or the tap or
/// `on_token` fails.
pub fn generate<R: AsRef<[u32]>>(
    model: &Model,
    prompts: &[R],
    options: &GenerateOptions,
    first: impl Tap,
    on_token: impl FnMut(NewToken) -> Result<ControlFlow<()>>,
) -> Result<Vec<Generated>> {
    generate_until(model, prompts, options, first, Stop::Never, on_token)
}

/// [`generate`], but asks `stop` before each block of each step whether to end early.
///
/// # Errors
/// As [`generate`]; [`Interrupted`](crate::ErrorKind::Interrupted) if it was stopped.
pub fn generate_until<R: AsRef<[u32]>>(
    model: &Model,
    prompts: &[R],
    options: &GenerateOptions,
    mut first: impl Tap,
    stop: Stop<'_>,
    mut on_token: impl FnMut(NewToken) -> Result<ControlFlow<()>>,
) -> Result<Vec<Generated>> {
    options.sampling.check()?;
    model.unembedding()?;
    Batch::new(prompts)?;
    let mut cache = KvCache::new(model.arch(), prompts.len());
    let mut rows =
        vec![Generated { ids: Vec::new(), logprobs: Vec::new(), finish: Finish::Length }; prompts.len()];
    let mut new: Vec<Vec<u32>> = prompts.iter().map(|row| row.as_ref().to_vec()).collect();
    for step in 0..options.max_new_tokens {
        let mut last = LastLogits::of(0..prompts.len());
        model.forward_cached_until(&new, &mut cache, &mut (&mut first, &mut last), stop)?;
        new.iter_mut().for_each(Vec::clear);
        for (row, logits) in last.logits.into_iter().enumerate() {
            let Some(logits) = logits else { continue };
            let (id, logprob) = options.sampling.choose(&logits, options.seed, row, step)?;
            let generated = &mut rows[row];
            generated.ids.push(id);
            generated.logprobs.push(logprob);
            let stopped = on_token(NewToken { row, id, logprob })?.is_break();
            generated.finish = match () {
                () if options.ends.contains(&id) => Finish::End,
                () if stopped => Finish::Stopped,
                () if cache.row(row).len() == model.arch().context => Finish::Context,
                () => {
                    new[row].push(id);
                    Finish::Length
                }
            };
        }
        if new.iter().all(Vec::is_empty) {
            break;
        }
    }
    Ok(rows)
}
