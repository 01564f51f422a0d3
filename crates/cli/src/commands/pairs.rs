//! Pairs of prompts, as ids with their metric.

use std::collections::BTreeSet;
use std::path::Path;

use easyroutine::Model;
use easyroutine::patching::Metric;
use easyroutine::prompts::{self, LONGEST_ROW, MOST_OTHERS, Pair, ReadOptions, TokenName};
use easyroutine::tokens::Tokenizer;

use super::sweep::{apart, predicted};
use crate::args::{Cutting, SmoothArg};
use crate::failure::{Failure, one_line};
use crate::reading::no_conversation;
use crate::{output, session};

/// A pair as ids, with its metric.
pub(super) struct Ids {
    pub(super) clean: Vec<u32>,
    pub(super) corrupted: Vec<u32>,
    pub(super) metric: Metric,
}

/// How pairs become ids.
pub(super) struct Pairs<'a> {
    pub(super) model: &'a Model,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) cutting: &'a Cutting,
    pub(super) metric: SmoothArg,
}

impl Pairs<'_> {
    /// Visits every pair of a file. A failure names the line.
    pub(super) fn each(
        &self,
        file: &Path,
        limit: Option<u32>,
        mut visit: impl FnMut(Ids) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut failed = None;
        let read = prompts::each_pair(file, &options(limit), |pair| {
            let place = format!("{}: line {}", file.display(), pair.line);
            let done = self.named(pair).and_then(&mut visit).map_err(|failure| failure.at(&place));
            failed = done.err();
            Ok(failed.is_none())
        });
        match failed {
            Some(failure) => Err(failure),
            None => Ok(read?),
        }
    }

    fn named(&self, pair: Pair) -> Result<Ids, Failure> {
        let id = |field: &str, name: Option<TokenName>| match name {
            None => Ok(None),
            Some(TokenName::Id(id)) => Ok(Some(id)),
            Some(TokenName::Text(text)) => session::token_id(field, &text, self.tokenizer).map(Some),
        };
        let (answer, against) = (id("answer", pair.answer)?, id("against", pair.against)?);
        self.ids(pair.clean, pair.corrupt, answer, against)
    }

    /// A pair with its metric's tokens: those given, else what its prompts predict.
    pub(super) fn ids(
        &self,
        clean: prompts::Prompt,
        corrupt: prompts::Prompt,
        answer: Option<u32>,
        against: Option<u32>,
    ) -> Result<Ids, Failure> {
        let context = self.model.arch().context;
        let cut = |prompt| match prompt {
            prompts::Prompt::Ids(ids) => Ok(ids),
            prompts::Prompt::Messages(_) => Err(no_conversation()),
            prompts::Prompt::Text(text) => {
                self.cutting.row(text, self.tokenizer, context).map(|row| row.encoded.ids)
            }
        };
        let (clean, corrupted): (Vec<u32>, Vec<u32>) = (cut(clean)?, cut(corrupt)?);
        let most = |ids: &[u32]| predicted(self.model, ids).map(|ids| ids[0]);
        let answer = || answer.map_or_else(|| most(&clean), Ok);
        let metric = match self.metric {
            SmoothArg::LogitDiff => {
                let against = against.map_or_else(|| most(&corrupted), Ok)?;
                let (answer, against) = apart(answer()?, against, self.tokenizer)?;
                Metric::LogitDiff { answer, against }
            }
            SmoothArg::Logit => Metric::Logit { token: answer()? },
            SmoothArg::Logprob => Metric::LogProbability { token: answer()? },
            SmoothArg::P => Metric::Probability { token: answer()? },
            SmoothArg::Kl => Metric::Kl,
            SmoothArg::Ce => Metric::CrossEntropy,
        };
        Ok(Ids { clean, corrupted, metric })
    }
}

/// The number of pairs to read. Reports how many do not name a token of the metric, and what is used instead, and names the
/// keys that are not read, since a misspelt key looks like a missing one.
pub(super) fn count(file: &Path, limit: Option<u32>, metric: SmoothArg) -> Result<usize, Failure> {
    let reads_answer = !matches!(metric, SmoothArg::Kl | SmoothArg::Ce);
    let (mut answers, mut against, mut n) = (0, 0, 0);
    let mut others = BTreeSet::new();
    prompts::each_pair(file, &options(limit), |pair| {
        n += 1;
        answers += usize::from(reads_answer && pair.answer.is_none());
        against += usize::from(metric == SmoothArg::LogitDiff && pair.against.is_none());
        if others.len() < MOST_OTHERS {
            others.extend(pair.others);
        }
        Ok(true)
    })?;
    for (lacking, key, prompt) in [(answers, "answer", "clean"), (against, "against", "corrupted")] {
        if lacking > 0 {
            let text = format!(
                "{lacking} of {n} pairs name no `{key}`: the prediction of their {prompt} prompt is used"
            );
            output::note("note", &text);
        }
    }
    if !others.is_empty() {
        let named: Vec<String> =
            others.iter().take(MOST_OTHERS).map(|key| format!("`{}`", one_line(key))).collect();
        let text = format!(
            "keys of the pairs that are not read: {}; a pair has `clean`, `corrupt`, `answer` and `against`",
            named.join(", ")
        );
        output::note("warning", &text);
    }
    Ok(n)
}

fn options(limit: Option<u32>) -> ReadOptions {
    ReadOptions { limit: limit.map(|n| n as usize), longest_row: LONGEST_ROW, ..ReadOptions::default() }
}
