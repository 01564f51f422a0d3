//! Features as JSON lines: `easyroutine.feature/1`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use easyroutine::tokens::Tokenizer;
use easyroutine_dictionaries::{FeatureStatistics, Named, Occurrence, Statistics};
use easyroutine_kernels::Rows;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output;
use crate::session::{Session, token_text};

/// Features whose logits are computed together.
const TOGETHER: usize = 32;
/// Quantiles reported for each feature.
const SHARES: [f64; 5] = [0.1, 0.25, 0.5, 0.75, 0.95];

/// One layer's features.
pub(super) struct Describing<'a> {
    pub(super) statistics: &'a Statistics,
    pub(super) session: &'a Session,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) named: &'a Named,
    pub(super) layer: usize,
    pub(super) logits: usize,
}

/// Ids from the largest logit down, and from the smallest up.
type Logits = (Vec<(u32, f32)>, Vec<(u32, f32)>);

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
        let mut failure = None;
        let written = output::replace(&folder.join(format!("{key}.jsonl")), |at| {
            let mut out = BufWriter::new(File::create(at)?);
            for start in (0..n).step_by(TOGETHER) {
                let numbers = start..n.min(start + TOGETHER);
                let logits = match self.logits_of(numbers.clone()) {
                    Ok(logits) => logits,
                    Err(error) => {
                        failure = Some(error);
                        return Err(std::io::Error::other("no logits"));
                    }
                };
                for (at, number) in numbers.enumerate() {
                    let logits = logits.as_ref().map(|logits| &logits[at]);
                    serde_json::to_writer(&mut out, &self.line(number, logits))?;
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

    /// The logits of the features' directions; `None` if they do not write to the stream.
    fn logits_of(&self, numbers: std::ops::Range<usize>) -> Result<Option<Vec<Logits>>, Failure> {
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
        let all = unembedding.multiply(model.cpu(), Rows::dense(&rows, numbers.len(), arch.d_model))?;
        let lists = all.chunks_exact(unembedding.vocabulary()).map(|logits| {
            let k = self.logits.min(logits.len());
            let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
            let value = |id: u32| logits[id as usize];
            let mut list = |down: bool| -> Vec<(u32, f32)> {
                let order = |a: &u32, b: &u32| {
                    let by_value = value(*b).total_cmp(&value(*a));
                    if down { by_value } else { by_value.reverse() }.then(a.cmp(b))
                };
                if k < ids.len() {
                    ids.select_nth_unstable_by(k, order);
                }
                let mut first = ids[..k].to_vec();
                first.sort_unstable_by(order);
                first.into_iter().map(|id| (id, value(id))).collect()
            };
            (list(true), list(false))
        });
        Ok(Some(lists.collect()))
    }

    fn line(&self, number: usize, logits: Option<&Logits>) -> Value {
        let feature: &FeatureStatistics = &self.statistics.features()[number];
        let tokens = self.statistics.tokens().max(1) as f64;
        let list = |list: &[(u32, f32)]| -> Value {
            list.iter()
                .map(
                    |(id, value)| json!({"id": id, "token": token_text(self.tokenizer, *id), "value": value}),
                )
                .collect()
        };
        json!({
            "schema": "easyroutine.feature/1",
            "feature": number,
            "n_features": self.statistics.features().len(),
            "count": feature.count,
            "frequency": feature.count as f64 / tokens,
            "mean": feature.mean(),
            "mean_over_all": feature.total() / tokens,
            "max": feature.max,
            "quantiles": SHARES.iter().map(|share| json!([share, feature.quantile(*share)])).collect::<Vec<_>>(),
            "histogram": feature.histogram().map(|(from, to, n)| json!([from, to, n])).collect::<Vec<_>>(),
            "top_logits": logits.map(|(top, _)| list(top)),
            "bottom_logits": logits.map(|(_, bottom)| list(bottom)),
            "top": feature.top().iter().map(|kept| self.occurrence(kept)).collect::<Vec<_>>(),
            "drawn": feature.drawn().into_iter().map(|kept| self.occurrence(kept)).collect::<Vec<_>>(),
        })
    }

    fn occurrence(&self, kept: &Occurrence) -> Value {
        let tokens: Vec<String> = kept.ids.iter().map(|id| token_text(self.tokenizer, *id)).collect();
        json!({
            "prompt": kept.prompt,
            "position": kept.position,
            "value": kept.value,
            "start": kept.start,
            "tokens": tokens,
            "ids": kept.ids,
            "values": kept.values,
        })
    }
}
