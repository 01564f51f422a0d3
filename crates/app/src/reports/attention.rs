//! Attention patterns of a prompt.

use easyroutine::cache::{ActivationCache, Kept, Key};
use easyroutine_view::attention::{AttentionReport, HeadPattern, Schema};

use super::Subject;

/// The patterns in a cache of one row with all positions; `interventions` are those of the run, as written.
pub fn attention(
    subject: &Subject<'_>,
    interventions: Vec<String>,
    cache: &ActivationCache,
) -> AttentionReport {
    let head = |(key, kept): (&Key, &Kept)| {
        let point = key.point()?;
        let seen = |(query, row): (usize, &[f32])| row[..=query].to_vec();
        let weights = kept.values().chunks(subject.ids.len()).enumerate().map(seen).collect();
        Some(HeadPattern { layer: point.layer()?, head: point.head()?, weights })
    };
    AttentionReport {
        schema: Schema,
        model: subject.card(),
        bos: subject.starts_with_bos,
        interventions,
        tokens: subject.tokens(),
        heads: cache.iter().filter_map(head).collect(),
    }
}
