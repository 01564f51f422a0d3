//! A tap that keeps activations, and what it kept.

use std::collections::{BTreeMap, BTreeSet};

use easyroutine_sites::{Point, Scope, Site};

use crate::batch::Batch;
use crate::error::Result;
use crate::positions::{Selected, Specifier};
use crate::tap::{Tap, Value, Want};

/// Activations by key, in the order of the forward pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ActivationCache {
    entries: Vec<(String, Kept)>,
    /// The specifiers that were asked for.
    pub specifiers: Vec<Specifier>,
    /// For each row of the batch the tokens that were selected.
    pub selected: Vec<Selected>,
}

/// One kept activation.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// The numbers, row after row of the batch.
    pub data: Numbers,
    /// Shape of each row of the batch: `[T, D]`, `[T, T]`, `[T]`.
    pub row_shapes: Vec<Vec<usize>>,
}

/// Numbers of a kept activation.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// Activations.
    F32(Vec<f32>),
    /// Token ids.
    I64(Vec<i64>),
}

impl Kept {
    /// The whole shape `[B, T, ...]`, or `None` where rows differ in T.
    pub fn shape(&self) -> Option<Vec<usize>> {
        let first = self.row_shapes.first()?;
        let same = self.row_shapes.iter().all(|s| s == first);
        same.then(|| [&[self.row_shapes.len()], first.as_slice()].concat())
    }

    /// The activations of one row of the batch; empty for token ids.
    pub fn row(&self, row: usize) -> &[f32] {
        let Numbers::F32(data) = &self.data else { return &[] };
        let size = |shape: &Vec<usize>| shape.iter().product::<usize>();
        let start: usize = self.row_shapes[..row].iter().map(size).sum();
        &data[start..start + size(&self.row_shapes[row])]
    }

    /// All activations, row after row; empty for token ids.
    pub fn values(&self) -> &[f32] {
        match &self.data {
            Numbers::F32(data) => data,
            Numbers::I64(_) => &[],
        }
    }
}

impl ActivationCache {
    /// The activation of a key.
    pub fn get(&self, key: &str) -> Option<&Kept> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, kept)| kept)
    }

    /// Keys and activations in the order of the forward pass.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Kept)> {
        self.entries.iter().map(|(name, kept)| (name.as_str(), kept))
    }

    /// Whether every row has the same T.
    pub fn is_rectangular(&self) -> bool {
        self.selected.windows(2).all(|w| w[0].indices.len() == w[1].indices.len())
    }
}

/// The tap that fills an [`ActivationCache`].
#[derive(Debug)]
pub struct Capture {
    wanted: BTreeSet<Point>,
    /// Where the model reports, to the keys under which the values are kept.
    reported: BTreeMap<Point, Vec<Point>>,
    selected: Vec<Selected>,
    specifiers: Vec<Specifier>,
    kept: BTreeMap<String, Kept>,
}

impl Capture {
    /// Keeps the given points at the selected tokens of each row of the batch.
    pub fn new(wanted: BTreeSet<Point>, specifiers: Vec<Specifier>, selected: Vec<Selected>) -> Self {
        let mut reported: BTreeMap<Point, Vec<Point>> = BTreeMap::new();
        for point in &wanted {
            reported.entry(point.canonical()).or_default().push(*point);
        }
        Capture { wanted, reported, selected, specifiers, kept: BTreeMap::new() }
    }

    /// What was kept, after the run. `input_ids` comes from the batch itself.
    pub fn finish(mut self, batch: &Batch) -> ActivationCache {
        if self.wanted.contains(&Point::model(Site::InputIds)) {
            self.kept.insert(Site::InputIds.name().to_owned(), self.input_ids(batch));
        }
        let mut entries = Vec::with_capacity(self.kept.len());
        for point in in_forward_order(&self.wanted) {
            for key in keys_of(point) {
                if let Some(kept) = self.kept.remove(&key) {
                    entries.push((key, kept));
                }
            }
        }
        ActivationCache { entries, specifiers: self.specifiers, selected: self.selected }
    }

    fn input_ids(&self, batch: &Batch) -> Kept {
        let mut ids = Vec::new();
        for (row, selected) in self.selected.iter().enumerate() {
            ids.extend(selected.indices.iter().map(|i| i64::from(batch.row(row)[*i])));
        }
        let row_shapes = self.selected.iter().map(|s| vec![s.indices.len()]).collect();
        Kept { data: Numbers::I64(ids), row_shapes }
    }

    /// Keeps the buffer of logits itself where it holds just what was selected: a copy would double the largest
    /// tensor there is.
    fn logits(&self, value: &mut Value<'_>) -> Kept {
        let width = value.width(0);
        let wanted: Vec<usize> = (self.selected.iter().enumerate())
            .flat_map(|(row, s)| s.indices.iter().map(move |i| (row, i)))
            .map(|(row, i)| value.batch().span(row).start + i)
            .collect();
        let Some(buffer) = value.take(&wanted) else { return self.copy(Site::Logits, value, 0..width) };
        let row_shapes = self.selected.iter().map(|s| vec![s.indices.len(), width]).collect();
        Kept { data: Numbers::F32(buffer), row_shapes }
    }

    /// Copies columns of the value at the selected tokens; for a pattern the selected columns.
    fn copy(&self, site: Site, value: &Value<'_>, columns: std::ops::Range<usize>) -> Kept {
        let vectors: usize = self.selected.iter().map(|s| s.indices.len()).sum();
        let mut data = Vec::with_capacity(vectors * columns.len());
        let mut row_shapes = Vec::with_capacity(self.selected.len());
        for (row, selected) in self.selected.iter().enumerate() {
            for position in &selected.indices {
                let vector = value.vector(row, *position).unwrap_or(&[]);
                if site == Site::Pattern {
                    data.extend(selected.indices.iter().map(|i| vector[*i]));
                } else {
                    data.extend_from_slice(&vector[columns.clone()]);
                }
            }
            let t = selected.indices.len();
            row_shapes.push(match site {
                Site::Pattern => vec![t, t],
                Site::LastLayernorm => vec![t],
                _ => vec![t, columns.len()],
            });
        }
        Kept { data: Numbers::F32(data), row_shapes }
    }
}

impl Tap for Capture {
    fn wants(&self, point: Point) -> Want {
        if self.reported.contains_key(&point) { Want::Read } else { Want::Nothing }
    }

    fn tokens(&self, _point: Point, batch: &Batch) -> Option<Vec<usize>> {
        let mut tokens: Vec<usize> = Vec::new();
        for (span, selected) in batch.spans().zip(&self.selected) {
            tokens.extend(selected.indices.iter().map(|i| span.start + i));
        }
        tokens.sort_unstable();
        tokens.dedup();
        Some(tokens)
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        if point.site() == Site::Logits {
            let kept = self.logits(value);
            self.kept.insert(point.to_string(), kept);
            return Ok(());
        }
        let width = value.width(0);
        for wanted in self.reported.get(&point).into_iter().flatten() {
            for (number, key) in keys_of(*wanted).into_iter().enumerate() {
                let columns =
                    if wanted.site() == Site::LastLayernorm { number..number + 1 } else { 0..width };
                let kept = self.copy(wanted.site(), value, columns);
                self.kept.insert(key, kept);
            }
        }
        Ok(())
    }
}

/// The keys under which one point is kept.
fn keys_of(point: Point) -> Vec<String> {
    if point.site() == Site::LastLayernorm {
        return ["mean", "variance", "second_moment"].map(|part| format!("{point}.{part}")).to_vec();
    }
    vec![point.to_string()]
}

/// Points as the forward pass meets them: what precedes the blocks, the blocks, what follows.
fn in_forward_order(points: &BTreeSet<Point>) -> Vec<Point> {
    let mut ordered: Vec<Point> = points.iter().copied().collect();
    ordered.sort_by_key(|p| {
        let stage = match p.site() {
            Site::InputIds | Site::InputEmbeddings => 0,
            site if site.scope() == Scope::Model => 2,
            _ => 1,
        };
        (stage, *p)
    });
    ordered
}
