//! Features as JSON lines: `easyroutine.feature/1`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use easyroutine::tokens::Tokenizer;
use easyroutine_dictionaries::{Named, Statistics};
use easyroutine_kernels::Rows;
use serde_json::json;

use super::line::{Lines, Logits};
use crate::failure::Failure;
use crate::output;
use crate::session::Session;

/// Limit on the logits computed together, 64 MiB: enough features that the unembedding, which each product reads once,
/// is not what takes the time.
const TOGETHER: usize = 1 << 24;

/// One layer's features.
pub(super) struct Describing<'a> {
    pub(super) statistics: &'a Statistics,
    pub(super) session: &'a Session,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) named: &'a Named,
    pub(super) layer: usize,
    pub(super) logits: usize,
}

impl Describing<'_> {
    /// Writes `KEY.jsonl` with one line per feature, and `KEY.json` about all of them.
    pub(super) fn write(&self, key: &str, folder: &Path) -> Result<(), Failure> {
        let n = self.statistics.features().len();
        let about = json!({
            "schema": "easyroutine.features/1",
            "model": self.session.model_json(),
            "key": key,
            "dictionary": self.named.dictionary.certificate().to_json(),
            "tokens": self.statistics.tokens(),
            "prompts": self.statistics.prompts(),
            "l0": self.statistics.l0(),
            "n_features": n,
            "n_active": self.statistics.features().iter().filter(|feature| feature.count > 0).count(),
        });
        let text = serde_json::to_vec_pretty(&about).map_err(|e| Failure::failed(e.to_string()))?;
        output::replace(&folder.join(format!("{key}.json")), |at| std::fs::write(at, &text))?;
        let vocabulary = self.session.model.unembedding().map_or(0, |unembedding| unembedding.vocabulary());
        let lines = Lines::new(self.statistics, self.tokenizer, vocabulary);
        let mut failure = None;
        let written = output::replace(&folder.join(format!("{key}.jsonl")), |at| {
            let mut out = BufWriter::new(File::create(at)?);
            let together = self.together();
            for start in (0..n).step_by(together) {
                let numbers = start..n.min(start + together);
                let logits = match self.logits_of(numbers.clone()) {
                    Ok(logits) => logits,
                    Err(error) => {
                        failure = Some(error);
                        return Err(std::io::Error::other("no logits"));
                    }
                };
                let texts: Vec<OnceLock<serde_json::Result<String>>> =
                    numbers.clone().map(|_| OnceLock::new()).collect();
                self.session.model.cpu().for_each(texts.len(), |at| {
                    let logits = logits.as_ref().map(|logits| &logits[at]);
                    texts[at].get_or_init(|| serde_json::to_string(&lines.line(start + at, logits)));
                });
                for text in texts.into_iter().filter_map(OnceLock::into_inner) {
                    out.write_all(text?.as_bytes())?;
                    out.write_all(b"\n")?;
                }
            }
            out.flush()
        });
        match failure {
            Some(failure) => Err(failure),
            None => written,
        }
    }

    /// How many features are described together.
    fn together(&self) -> usize {
        let vocabulary = self.session.model.unembedding().map_or(0, |unembedding| unembedding.vocabulary());
        (TOGETHER / vocabulary.max(1)).clamp(16, 512)
    }

    /// The logits of the features' directions; `None` if they do not write to the stream.
    fn logits_of(&self, numbers: Range<usize>) -> Result<Option<Vec<Logits>>, Failure> {
        let coder = self.named.dictionary.layer(self.layer)?;
        let model = &self.session.model;
        let arch = model.arch();
        let site = self.named.fits[self.layer].writes.site();
        let is_stream =
            matches!(site.basis(), easyroutine::sites::Basis::Stream | easyroutine::sites::Basis::Addition);
        let Some(unembedding) = model.unembedding().ok().filter(|_| is_stream && self.logits > 0) else {
            return Ok(None);
        };
        let mut rows = Vec::with_capacity(numbers.len() * arch.d_model);
        for number in numbers.clone() {
            rows.extend(coder.direction(number, self.layer)?);
        }
        self.named.dictionary.check_unchanged()?;
        let cpu = model.cpu();
        let all = unembedding.multiply(cpu, Rows::dense(&rows, numbers.len(), arch.d_model))?;
        let lists: Vec<OnceLock<Logits>> = numbers.map(|_| OnceLock::new()).collect();
        let vocabulary = unembedding.vocabulary();
        cpu.for_each(lists.len(), |row| {
            let logits = &all[row * vocabulary..][..vocabulary];
            lists[row].get_or_init(|| {
                let negated: Vec<f32> = logits.iter().map(|logit| -logit).collect();
                let ids = |found: Vec<(usize, f32)>, sign: f32| {
                    found.into_iter().map(|(id, value)| (id as u32, sign * value)).collect()
                };
                (ids(cpu.largest(logits, self.logits), 1.0), ids(cpu.largest(&negated, self.logits), -1.0))
            });
        });
        Ok(Some(lists.into_iter().filter_map(OnceLock::into_inner).collect()))
    }
}
