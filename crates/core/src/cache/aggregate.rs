//! Joins caches of many batches into one. The prefix of a key selects the strategy for its values.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::{ActivationCache, Content, Entry, Kept, Key, Numbers};
use crate::error::{Error, Result};

/// The strategy for the values of one key.
#[derive(Clone)]
pub enum Aggregation {
    /// Concatenates rows, which may differ in length. Lists are joined, objects merged entry by entry, and single
    /// values become a list.
    Concat,
    /// The mean, weighted by each cache's number of rows.
    Mean,
    /// The first cache's value.
    First,
    /// The last cache's value.
    Last,
    /// A list with one value per cache.
    List,
    /// A function of the value so far and the next.
    Custom(Arc<CustomAggregation>),
}

/// Joins the value so far with the next.
pub type CustomAggregation = dyn Fn(Content, Content) -> Result<Content> + Send + Sync;

/// Strategies by key prefix; the longest matching prefix wins, and [`Aggregation::Concat`] is the default.
#[derive(Debug, Clone)]
pub struct Aggregations(Vec<(String, Aggregation)>);

impl Default for Aggregations {
    /// Averages means over examples, and concatenates everything else.
    fn default() -> Self {
        Aggregations(vec![("avg_pattern_".to_owned(), Aggregation::Mean)])
    }
}

impl Aggregations {
    /// Sets the strategy for all keys that begin with `prefix`.
    pub fn register(&mut self, prefix: impl Into<String>, aggregation: Aggregation) {
        let prefix = prefix.into();
        self.remove(&prefix);
        self.0.push((prefix, aggregation));
        self.0.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    }

    /// Removes a prefix's strategy; returns whether there was one.
    pub fn remove(&mut self, prefix: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(registered, _)| registered != prefix);
        self.0.len() < before
    }

    /// The strategy of a key.
    pub fn of(&self, key: &Key) -> &Aggregation {
        let key = key.to_string();
        let registered = self.0.iter().find(|(prefix, _)| key.starts_with(prefix.as_str()));
        registered.map_or(&Aggregation::Concat, |(_, aggregation)| aggregation)
    }
}

/// Caches of batches, joined once at the end, so that each number is copied only once.
#[derive(Debug, Default)]
pub struct Batches {
    aggregations: Aggregations,
    parts: Vec<ActivationCache>,
}

impl Batches {
    /// No batches yet.
    pub fn new(aggregations: Aggregations) -> Self {
        Batches { aggregations, parts: Vec::new() }
    }

    /// Adds a batch. A cache without values and rows adds nothing.
    ///
    /// # Errors
    /// If keys, positions or metadata differ from the first batch's (the difference is named).
    pub fn push(&mut self, cache: ActivationCache) -> Result<()> {
        if cache.is_empty() && cache.n_rows() == 0 {
            return Ok(());
        }
        if let Some(first) = self.parts.first() {
            same_keys(first, &cache)?;
            if let Some((key, ours)) =
                first.metadata.iter().find(|(key, ours)| cache.metadata.get(*key).is_some_and(|v| v != *ours))
            {
                let theirs = &cache.metadata[key];
                return Err(Error::input(format!(
                    "the caches are of different runs: `{key}` is {ours} and {theirs}"
                )));
            }
        }
        self.parts.push(cache);
        Ok(())
    }

    /// Number of batches.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether there are no batches.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Joins everything into one cache, with rows in the order of the batches.
    ///
    /// # Errors
    /// If the values of a key do not match (the key is named).
    pub fn finish(self) -> Result<ActivationCache> {
        let Batches { aggregations, parts } = self;
        let mut parts = parts.into_iter();
        let Some(mut joined) = parts.next() else { return Ok(ActivationCache::default()) };
        let mut parts: Vec<ActivationCache> = parts.collect();
        let weights: Vec<usize> = parts.iter().map(ActivationCache::n_rows).collect();
        let first_weight = joined.n_rows();
        for (key, entry) in &mut joined.entries {
            // Taken out one by one, so that at most one key is in memory twice.
            let next: Vec<Content> =
                parts.iter_mut().filter_map(|part| Some(part.entries.swap_remove(key)?.content)).collect();
            let weights = std::iter::once(first_weight).chain(weights.iter().copied());
            join(key, entry, next, weights, aggregations.of(key)).map_err(|e| e.at(format!("`{key}`")))?;
        }
        for part in parts {
            if joined.axis != part.axis {
                return Err(Error::input("one cache holds averages of positions, another single positions"));
            }
            joined.selection.append(part.selection)?;
            match (&mut joined.pattern_rows, part.pattern_rows) {
                (Some(ours), Some(theirs)) => ours.append(theirs)?,
                (None, None) => {}
                _ => return Err(Error::input("one cache has rows of patterns apart, another has not")),
            }
            joined.metadata.extend(part.metadata);
        }
        Ok(joined)
    }
}

fn same_keys(first: &ActivationCache, other: &ActivationCache) -> Result<()> {
    let lacking =
        |of: &ActivationCache, from: &ActivationCache| of.keys().find(|key| !from.contains(*key)).cloned();
    match lacking(first, other).or_else(|| lacking(other, first)) {
        Some(key) => Err(Error::input(format!(
            "only caches with the same keys can be joined: one of them has no `{key}`"
        ))),
        None => Ok(()),
    }
}

fn join(
    key: &Key,
    entry: &mut Entry,
    next: Vec<Content>,
    mut weights: impl Iterator<Item = usize>,
    aggregation: &Aggregation,
) -> Result<()> {
    let mut joined = std::mem::replace(&mut entry.content, Content::List(Vec::new()));
    if matches!(aggregation, Aggregation::List) && !matches!(joined, Content::List(_)) && !next.is_empty() {
        joined = Content::List(vec![joined]);
    }
    if let (Aggregation::Concat, Content::Activation(kept)) = (aggregation, &mut joined) {
        let kepts =
            || next.iter().filter_map(|c| if let Content::Activation(k) = c { Some(k) } else { None });
        kept.reserve(kepts().map(Kept::count).sum(), kepts().map(|k| k.row_shapes.len()).sum());
    }
    let mut weight = weights.next().unwrap_or(0);
    for (content, more) in next.into_iter().zip(weights) {
        joined = match aggregation {
            Aggregation::Concat => concat(key, joined, content)?,
            Aggregation::Mean => mean(joined, weight, content, more)?,
            Aggregation::First => joined,
            Aggregation::Last => content,
            Aggregation::List => listed(joined, content),
            Aggregation::Custom(join) => join(joined, content)?,
        };
        weight += more;
    }
    entry.content = joined;
    Ok(())
}

fn concat(key: &Key, joined: Content, next: Content) -> Result<Content> {
    match (joined, next) {
        (Content::Activation(mut joined), Content::Activation(next)) => {
            // A pattern is T by T, everything else T by a fixed width.
            let inner = |kept: &Kept| kept.row_shapes.first().and_then(|s| s.get(1..)).map(<[usize]>::to_vec);
            let (ours, theirs) = (inner(&joined), inner(&next));
            if !key.is_pairwise() && ours.is_some() && theirs.is_some() && ours != theirs {
                let shown = |kept: &Kept| format!("{:?}", kept.row_shapes[0]);
                return Err(Error::input(format!(
                    "rows of shape {} and {} do not go together",
                    shown(&joined),
                    shown(&next)
                )));
            }
            joined.append(next)?;
            Ok(Content::Activation(joined))
        }
        (Content::Json(joined), Content::Json(next)) => Ok(Content::Json(concat_json(joined, next))),
        (joined @ Content::List(_), next) => Ok(listed(joined, next)),
        (joined, next) => Ok(Content::List(vec![joined, next])),
    }
}

/// Lists are joined, objects merged entry by entry; single values become a list, for two caches as for many.
fn concat_json(joined: Value, next: Value) -> Value {
    match (joined, next) {
        (Value::Array(mut joined), Value::Array(next)) => {
            joined.extend(next);
            Value::Array(joined)
        }
        (Value::Array(mut joined), next) => {
            joined.push(next);
            Value::Array(joined)
        }
        (Value::Object(mut joined), Value::Object(next)) => {
            for (key, value) in next {
                match joined.get_mut(&key) {
                    Some(before) => *before = concat_json(before.take(), value),
                    None => drop(joined.insert(key, value)),
                }
            }
            Value::Object(joined)
        }
        (joined, Value::Array(next)) => Value::Array(std::iter::once(joined).chain(next).collect()),
        (joined, next) => Value::Array(vec![joined, next]),
    }
}

fn mean(joined: Content, weight: usize, next: Content, more: usize) -> Result<Content> {
    let (Content::Activation(mut joined), Content::Activation(next)) = (joined, next) else {
        return Err(Error::input("only activations have a mean"));
    };
    if joined.row_shapes != next.row_shapes {
        let (ours, theirs) = (&joined.row_shapes, &next.row_shapes);
        return Err(Error::input(format!("no mean of rows of shapes {ours:?} and {theirs:?}")));
    }
    let (Numbers::F32(ours), Numbers::F32(theirs)) = (&mut joined.data, &next.data) else {
        return Err(Error::input("token ids have no mean"));
    };
    let share = more as f64 / (weight + more).max(1) as f64;
    for (x, y) in ours.iter_mut().zip(theirs) {
        *x = (f64::from(*x) + (f64::from(*y) - f64::from(*x)) * share) as f32;
    }
    Ok(Content::Activation(joined))
}

fn listed(joined: Content, next: Content) -> Content {
    let mut list = match joined {
        Content::List(list) => list,
        one => vec![one],
    };
    list.push(next);
    Content::List(list)
}

impl fmt::Debug for Aggregation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Aggregation::Concat => "Concat",
            Aggregation::Mean => "Mean",
            Aggregation::First => "First",
            Aggregation::Last => "Last",
            Aggregation::List => "List",
            Aggregation::Custom(_) => "Custom",
        })
    }
}
