//! The tap that fills a cache.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use easyroutine_kernels::large_vec;
use easyroutine_sites::{Point, Scope, Site};

use super::reduce::{Axis, Examples, PatternAverage, mean};
use super::{ActivationCache, Kept, Key, Numbers, RunningMean};
use crate::batch::Batch;
use crate::error::Result;
use crate::positions::{Selected, Selection};
use crate::tap::{Tap, Value, Want};

/// Keeps activations at selected tokens.
#[derive(Debug)]
pub struct Capture {
    wanted: BTreeSet<Point>,
    /// For each point that the model reports, the keys under which its values are kept.
    reported: BTreeMap<Point, Vec<Point>>,
    selection: Selection,
    pattern_rows: Option<Selection>,
    axis: Axis,
    pattern: PatternAverage,
    /// Receives patterns if only their mean is wanted.
    running: Option<RunningMean>,
    kept: BTreeMap<Key, Kept>,
}

impl Capture {
    /// Keeps the given points at the selected tokens of each row of the batch.
    pub fn new(wanted: BTreeSet<Point>, selection: Selection) -> Self {
        let mut reported: BTreeMap<Point, Vec<Point>> = BTreeMap::new();
        for point in &wanted {
            reported.entry(point.canonical()).or_default().push(*point);
        }
        Capture {
            wanted,
            reported,
            selection,
            pattern_rows: None,
            axis: Axis::Tokens,
            pattern: PatternAverage::None,
            running: None,
            kept: BTreeMap::new(),
        }
    }

    /// Keeps means over each specifier's tokens. No group of a row may be empty, and token ids have no mean.
    #[must_use]
    pub(crate) fn of_groups(mut self, axis: Axis) -> Self {
        self.axis = axis;
        self
    }

    /// Keeps one number per block of a pattern.
    #[must_use]
    pub(crate) fn of_blocks(mut self, average: PatternAverage) -> Self {
        self.pattern = average;
        self
    }

    /// Keeps these rows of patterns; the columns are the tokens selected for everything else.
    #[must_use]
    pub(crate) fn with_pattern_rows(mut self, rows: Option<Selection>) -> Self {
        self.pattern_rows = rows;
        self
    }

    /// Keeps the mean of patterns over all rows, continuing from a mean so far.
    #[must_use]
    pub(crate) fn over_examples(mut self, examples: Examples, so_far: RunningMean) -> Self {
        self.running = (examples == Examples::Mean).then_some(so_far);
        self
    }

    /// Goes on from a mean over examples.
    pub(crate) fn go_on_from(&mut self, so_far: RunningMean) {
        self.running = Some(so_far);
    }

    /// Takes out the mean over examples, to continue with in the next batch; [`Capture::finish`] then has none.
    pub fn take_running(&mut self) -> RunningMean {
        self.running.take().unwrap_or_default()
    }

    /// The captured cache, after the run. `input_ids` comes from the batch itself.
    pub fn finish(mut self, batch: &Batch) -> ActivationCache {
        let ids = Point::model(Site::InputIds);
        if self.wanted.contains(&ids) {
            self.kept.insert(ids.into(), self.input_ids(batch));
        }
        let mut cache = ActivationCache {
            selection: self.selection,
            pattern_rows: self.pattern_rows,
            axis: self.axis,
            ..ActivationCache::default()
        };
        for point in in_forward_order(&self.wanted) {
            for key in Key::of(point) {
                if let Some(kept) = self.kept.remove(&key) {
                    cache.insert_with_info(key, kept, point.site().axes());
                }
            }
        }
        for (point, mean) in self.running.iter().flat_map(RunningMean::means) {
            cache.insert(Key::Mean(point), mean);
        }
        cache
    }

    fn input_ids(&self, batch: &Batch) -> Kept {
        let mut ids = Vec::new();
        for (row, selected) in self.selection.rows.iter().enumerate() {
            ids.extend(selected.indices.iter().map(|i| i64::from(batch.row(row)[*i])));
        }
        let row_shapes = self.selection.rows.iter().map(|s| vec![s.indices.len()]).collect();
        Kept { data: Numbers::I64(ids), row_shapes }
    }

    /// Keeps the buffer of logits itself if it holds exactly the selected tokens: a copy would double the largest
    /// tensor of all.
    fn logits(&self, value: &mut Value<'_>) -> Kept {
        let width = value.width(0);
        let selected = &self.selection.rows;
        let wanted: Vec<usize> = (selected.iter().enumerate())
            .flat_map(|(row, s)| s.indices.iter().map(move |i| (row, i)))
            .filter_map(|(row, i)| value.batch().token(row, *i))
            .collect();
        let buffer = if self.axis == Axis::Tokens { value.take(&wanted) } else { None };
        let Some(buffer) = buffer else { return self.vectors(value, 0..width) };
        Kept::f32(buffer, selected.iter().map(|s| vec![s.indices.len(), width]).collect())
    }

    /// Columns of the value at the selected tokens, or their means over each group.
    fn vectors(&self, value: &Value<'_>, columns: Range<usize>) -> Kept {
        let rows = &self.selection.rows;
        let t = |row: usize| match self.axis {
            Axis::Tokens => rows[row].indices.len(),
            Axis::Groups => rows[row].groups.len(),
        };
        let mut data = large_vec((0..rows.len()).map(t).sum::<usize>() * columns.len());
        for (row, selected) in rows.iter().enumerate() {
            let vector = |position: usize| value.vector(row, position).unwrap_or(&[]);
            match self.axis {
                Axis::Tokens => {
                    for position in &selected.indices {
                        data.extend_from_slice(&vector(*position)[columns.clone()]);
                    }
                }
                Axis::Groups => {
                    selected
                        .groups
                        .iter()
                        .for_each(|group| mean(vector, selected, group, &columns, &mut data));
                }
            }
        }
        Kept::f32(data, (0..rows.len()).map(|row| vec![t(row), columns.len()]).collect())
    }

    /// One number per token: a column of the value, without that axis.
    fn scalars(&self, value: &Value<'_>, column: usize) -> Kept {
        let mut kept = self.vectors(value, column..column + 1);
        kept.row_shapes.iter_mut().for_each(|shape| shape.truncate(1));
        kept
    }

    /// Keeps a pattern, or adds each row's to the mean over examples.
    fn pattern(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        let n_rows = self.selection.rows.len();
        if let Some(mut running) = self.running.take_if(|_| point.site() == Site::Pattern) {
            let mut one = Vec::new();
            for row in 0..n_rows {
                one.clear();
                let shape = self.of_pattern(value, row, &mut one);
                running.add(point, &shape, &one)?;
            }
            self.running = Some(running);
            return Ok(());
        }
        if let Some(kept) = self.whole_patterns(value) {
            self.kept.insert(point.into(), kept);
            return Ok(());
        }
        let most = |row: usize| value.width(row) * self.queries(row).indices.len();
        let mut data = large_vec((0..n_rows).map(most).sum());
        let row_shapes = (0..n_rows).map(|row| self.of_pattern(value, row, &mut data)).collect();
        self.kept.insert(point.into(), Kept::f32(data, row_shapes));
        Ok(())
    }

    /// Keeps the buffer itself if every query and key of every row was selected, in order: a single-threaded copy into
    /// fresh memory costs as much as attention.
    fn whole_patterns(&self, value: &mut Value<'_>) -> Option<Kept> {
        let n_rows = self.selection.rows.len();
        let is_whole = |row: usize, selected: &Selected| {
            selected.as_range() == Some(0..value.width(row)) && value.batch().first(row) == 0
        };
        let is_cut = self.pattern != PatternAverage::None || self.axis == Axis::Groups;
        if is_cut
            || !(0..n_rows)
                .all(|row| is_whole(row, &self.selection.rows[row]) && is_whole(row, self.queries(row)))
        {
            return None;
        }
        let shapes = (0..n_rows).map(|row| vec![value.width(row); 2]).collect();
        Some(Kept::f32(value.take_pairs()?, shapes))
    }

    /// What is kept of one row's pattern, and its shape.
    fn of_pattern(&self, value: &Value<'_>, row: usize, into: &mut Vec<f32>) -> Vec<usize> {
        let columns = &self.selection.rows[row];
        let rows = self.queries(row);
        let query = |position: usize| value.vector(row, position).unwrap_or(&[]);
        if self.pattern != PatternAverage::None || self.axis == Axis::Groups {
            self.pattern.of_blocks(query, rows, columns, into);
            return vec![rows.groups.len(), columns.groups.len()];
        }
        let range = columns.as_range();
        for position in &rows.indices {
            let weights = query(*position);
            match &range {
                Some(range) => into.extend_from_slice(&weights[range.clone()]),
                None => into.extend(columns.indices.iter().map(|key| weights[*key])),
            }
        }
        vec![rows.indices.len(), columns.indices.len()]
    }

    /// The tokens of a row whose pattern rows are kept.
    fn queries(&self, row: usize) -> &Selected {
        self.pattern_rows.as_ref().map_or(&self.selection.rows[row], |selection| &selection.rows[row])
    }
}

impl Tap for Capture {
    fn wants(&self, point: Point) -> Want {
        if self.reported.contains_key(&point) { Want::Read } else { Want::Nothing }
    }

    fn tokens(&self, _point: Point, batch: &Batch) -> Option<Vec<usize>> {
        let mut tokens: Vec<usize> = Vec::new();
        for (row, selected) in self.selection.rows.iter().enumerate() {
            tokens.extend(selected.indices.iter().filter_map(|i| batch.token(row, *i)));
        }
        tokens.sort_unstable();
        tokens.dedup();
        Some(tokens)
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        for wanted in self.reported.get(&point).cloned().unwrap_or_default() {
            match wanted.site() {
                Site::Logits => {
                    let kept = self.logits(value);
                    self.kept.insert(wanted.into(), kept);
                }
                _ if value.is_of_rows() => {
                    let rows = (0..self.selection.rows.len()).map(|row| value.of_row(row).unwrap_or(&[]));
                    let (data, shapes): (Vec<&[f32]>, _) =
                        rows.map(|vector| (vector, vec![vector.len()])).unzip();
                    self.kept.insert(wanted.into(), Kept::f32(data.concat(), shapes));
                }
                site if site.is_pairwise() => self.pattern(wanted, value)?,
                Site::LastLayernorm => {
                    for (column, key) in Key::of(wanted).into_iter().enumerate() {
                        let kept = self.scalars(value, column);
                        self.kept.insert(key, kept);
                    }
                }
                site => {
                    let mut kept = self.vectors(value, 0..value.width(0));
                    if site.is_whole() {
                        kept.data = Numbers::I64(kept.values().iter().map(|x| *x as i64).collect());
                    }
                    self.kept.insert(wanted.into(), kept);
                }
            }
        }
        Ok(())
    }
}

/// Points in the order of the forward pass: before the blocks, the blocks, after them.
pub(crate) fn in_forward_order(points: &BTreeSet<Point>) -> Vec<Point> {
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
