//! Checks interventions against a model and its rows: every possible error is reported here, before the run.

use std::collections::BTreeMap;
use std::sync::Arc;

use easyroutine_sites::{Access, Point, Site};

use super::apply::{Action, Change, Given, Target};
use super::places::Places;
use super::tensor::Spread;
use super::{Intervention, Operation, Part, Softmax, Tensor};
use crate::arch::{Arch, Attention, Window};
use crate::error::{Error, Result};
use crate::positions::{Context, Row};

/// Interventions ready to run, as a tap. At one point they apply in the given order.
#[derive(Debug, Clone, Default)]
pub struct Edits {
    pub(super) at: BTreeMap<Point, Vec<Change>>,
    warnings: Vec<String>,
}

impl Edits {
    /// Checks interventions against a model and the rows of a batch; each applies to every row. For a continued row,
    /// positions name tokens of the prompt, and `all` includes the tokens after it.
    ///
    /// # Errors
    /// If the model lacks a layer or head, a block lacks the place or it cannot be changed, a part does not belong to
    /// the activation, a position is outside a row, values have the wrong shape (both shapes are named), rows do not
    /// match in [`Operation::Resample`], or an edit changes nothing.
    pub fn new(
        interventions: &[Intervention],
        arch: &Arch,
        rows: &[Row<'_>],
        context: Context<'_>,
    ) -> Result<Edits> {
        let rows: Vec<Row<'_>> = rows.iter().map(|row| row.prompt()).collect();
        let mut edits = Edits::default();
        for intervention in interventions {
            let checked = Checked { intervention, arch, rows: &rows, context };
            checked
                .add_to(&mut edits)
                .map_err(|e| e.at(format_args!("edit of `{}`", intervention.activation)))?;
        }
        Ok(edits)
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// Warnings: oddities that are not errors.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Adds a change to whole vectors of one row of a batch.
    pub(crate) fn push(
        &mut self,
        point: Point,
        row: usize,
        positions: &[usize],
        action: RowAction<'_>,
    ) -> Result<()> {
        let places = Places::at(positions);
        let given = |tensor: &Tensor| {
            let width = tensor.shape().last().copied().unwrap_or(1);
            let spread = Spread::over(tensor, [1, positions.len(), width]);
            spread.map(Given::ByNumber).ok_or_else(|| {
                Error::input(format!(
                    "{} positions but values of shape {:?}",
                    positions.len(),
                    tensor.shape()
                ))
            })
        };
        let action = match action {
            RowAction::Zero => Action::Scale(0.0),
            RowAction::Put(tensor) => Action::Put(given(tensor)?),
            RowAction::Add(tensor) => Action::Add(1.0, given(tensor)?),
        };
        let target = Target::Tokens(places);
        self.at.entry(point).or_default().push(Change { row, target, entries: None, action });
        Ok(())
    }
}

/// What [`Edits::push`] does to one row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RowAction<'a> {
    /// Sets every value to 0.
    Zero,
    /// Replaces vectors by these.
    ///
    /// # Shapes
    /// `[T, width]` or `[width]`.
    Put(&'a Tensor),
    /// Adds these to the vectors.
    ///
    /// # Shapes
    /// As for [`RowAction::Put`].
    Add(&'a Tensor),
}

/// Checks that interventions can change a site.
///
/// # Errors
/// If the site can only be read; the hint names those that can be changed.
pub fn check_access(site: Site) -> Result<()> {
    if site.access() == Access::Changes {
        return Ok(());
    }
    let names: Vec<&str> =
        Site::ALL.iter().filter(|site| site.access() == Access::Changes).map(|site| site.name()).collect();
    Err(Error::input(format!("`{}` can be read, not changed", site.name()))
        .hint(format!("what can be changed: {}", names.join(", "))))
}

/// One intervention with what it is checked against.
struct Checked<'a> {
    intervention: &'a Intervention,
    arch: &'a Arch,
    rows: &'a [Row<'a>],
    context: Context<'a>,
}

impl Checked<'_> {
    fn add_to(&self, edits: &mut Edits) -> Result<()> {
        self.check_numbers()?;
        let points = self.arch.named(&self.intervention.activation)?;
        let mean = match &self.intervention.operation {
            Operation::Mean(values) => Some(values.mean()?),
            _ => None,
        };
        let given = match &self.intervention.operation {
            Operation::Replace(values) | Operation::Add { values, .. } => Some(values),
            _ => mean.as_ref(),
        };
        if let Some(values) = given.filter(|values| values.values().iter().any(|x| x.is_nan())) {
            let place = format!("{} holds NaN, which spreads to all later tokens", values.name());
            edits.warnings.push(format!("edit of `{}`: {place}", self.intervention.activation));
        }
        let targets = self.rows.iter().map(|row| self.target(*row)).collect::<Result<Vec<_>>>()?;
        let lengths = || self.rows.iter().map(|row| row.ids.len());
        if !targets.iter().zip(lengths()).any(|(target, length)| target.reaches(length, usize::MAX)) {
            return Err(Error::input("changes nothing: every one of these keys comes after these queries")
                .hint("a query sees its own key and earlier ones"));
        }
        let mut reaches = false;
        for point in points {
            let at = self.report_point(point)?;
            let entries = self.entries(point)?;
            for (row, target) in targets.iter().enumerate() {
                reaches |= target.reaches(self.rows[row].ids.len(), self.window(point));
                let action = self.action(entries.as_deref(), point, row, &targets, given)?;
                let (target, entries) = (target.clone(), entries.clone());
                edits.at.entry(at).or_default().push(Change { row, target, entries, action });
            }
        }
        if !reaches {
            edits.warnings.push(format!(
                "edit of `{}` changes nothing: these keys are beyond the window of these queries",
                self.intervention.activation
            ));
        }
        Ok(())
    }

    /// The point at which the model reports the activation to change.
    fn report_point(&self, point: Point) -> Result<Point> {
        let Intervention { activation, part, .. } = self.intervention;
        let (layer, head) = (point.layer().unwrap_or(0), point.head().unwrap_or(0));
        match (point.site(), part.softmax()) {
            (Site::Pattern, Some(Softmax::Before)) => Ok(Point::head_of(Site::Scores, layer, head)),
            (Site::Pattern, Some(_)) => Ok(point),
            (Site::Scores, Some(Softmax::Before)) => Ok(point),
            (Site::Scores, Some(_)) => {
                Err(Error::input("scores are changed before the softmax")
                    .hint("say `pre:`, or name the pattern"))
            }
            (Site::Scores, None) => Err(Error::input("scores are changed by columns, rows or a grid")
                .hint(format!("for example {activation}@pre:columns:3=-inf, or @pre:grid:9x2=-inf"))),
            (Site::Pattern, None) => Err(Error::input("attention is changed by columns, rows or a grid")
                .hint(format!("for example {activation}@columns:3=0, or @pre:grid:9x2=-inf"))),
            (_, Some(_)) => Err(Error::input(format!(
                "`{}` speaks of attention patterns; here it is `full`",
                part.type_name()
            ))),
            (site, None) => check_access(site).map(|()| point.canonical()),
        }
    }

    fn check_numbers(&self) -> Result<()> {
        let before = self.intervention.part.softmax() == Some(Softmax::Before);
        let of_router = self.intervention.activation.site() == Site::RouterLogits;
        let keeps_self = matches!(self.intervention.part, Part::KeepSelf(..));
        match &self.intervention.operation {
            Operation::Set(x) if x.is_infinite() && of_router => Ok(()),
            Operation::Set(x) if *x == f32::NEG_INFINITY && !before => Err(Error::input(
                "minus infinity knocks out scores, before the softmax, or experts",
            )
            .hint(
                "say `pre:`, for example pattern_L1H1@pre:columns:3=-inf; an expert is router_logits_1[3]",
            )),
            Operation::Set(x) if !x.is_finite() && *x != f32::NEG_INFINITY => {
                Err(Error::input(format!("{x} is not a value to set")))
            }
            Operation::Scale(x) | Operation::Add { factor: x, .. } if !x.is_finite() => {
                Err(Error::input(format!("{x} is not a factor")))
            }
            Operation::Scale(0.0) => Ok(()),
            Operation::Set(0.0) if !before => Ok(()),
            Operation::Set(f32::NEG_INFINITY) if before => Ok(()),
            _ if keeps_self => {
                Err(Error::input("`keep-self-attn` takes away the other keys, and nothing else"))
            }
            _ => Ok(()),
        }
    }

    /// The changed part of one row.
    fn target(&self, row: Row<'_>) -> Result<Target> {
        let places = |specifiers: &[_]| Places::resolve(specifiers, row, self.context);
        let all = || Places::all(row.ids.len());
        Ok(match &self.intervention.part {
            Part::Full(positions) => Target::Tokens(places(positions)?),
            Part::Columns(keys, softmax) => {
                Target::Pairs { queries: all(), keys: places(keys)?, softmax: *softmax }
            }
            Part::Rows(queries, softmax) => {
                Target::Pairs { queries: places(queries)?, keys: all(), softmax: *softmax }
            }
            Part::Grid { rows, columns, softmax } => {
                Target::Pairs { queries: places(rows)?, keys: places(columns)?, softmax: *softmax }
            }
            Part::KeepSelf(queries, softmax) => {
                Target::OthersThanSelf { queries: places(queries)?, softmax: *softmax }
            }
        })
    }

    /// How far back a query of the layer sees.
    fn window(&self, point: Point) -> usize {
        match &self.arch.layers[point.layer().unwrap_or(0)].attention {
            Some(Attention { window: Window::Sliding(n), .. }) => *n,
            _ => usize::MAX,
        }
    }

    /// The changed entries of a point's vectors, ascending, or `None` for all.
    fn entries(&self, point: Point) -> Result<Option<Arc<[usize]>>> {
        let Intervention { entries, part, .. } = self.intervention;
        if entries.is_empty() {
            return Ok(None);
        }
        let width = match (part, self.arch.width(point)) {
            (Part::Full(_), Some(width)) => width,
            _ => {
                return Err(Error::input("brackets name entries of vectors; attention has columns and rows")
                    .hint("for example pattern_L1H1@columns:3=0"));
            }
        };
        let mut all = Vec::new();
        for slice in entries {
            all.extend(slice.of(width).map_err(|_| {
                Error::input(format!("`{point}` has {width} entries, 0 to {}", width.saturating_sub(1)))
            })?);
        }
        all.sort_unstable();
        all.dedup();
        Ok(Some(all.into()))
    }

    /// The change to one row.
    fn action(
        &self,
        entries: Option<&[usize]>,
        point: Point,
        row: usize,
        targets: &[Target],
        given: Option<&Tensor>,
    ) -> Result<Action> {
        let given = || {
            let given = given.ok_or_else(|| Error::input("no values"))?;
            self.given(entries, point, row, targets, given)
        };
        Ok(match &self.intervention.operation {
            Operation::Scale(factor) => Action::Scale(*factor),
            Operation::Set(number) => Action::Set(*number),
            Operation::Replace(_) | Operation::Mean(_) => Action::Put(given()?),
            Operation::Add { factor, .. } => Action::Add(*factor, given()?),
            Operation::Resample { row: from } => {
                self.check_source(row, *from, targets)?;
                Action::Copy { row: *from, target: targets[*from].clone() }
            }
        })
    }

    /// Given values spread over the changed part of one row.
    fn given(
        &self,
        entries: Option<&[usize]>,
        point: Point,
        row: usize,
        targets: &[Target],
        values: &Tensor,
    ) -> Result<Given> {
        let length = self.rows[row].ids.len();
        let (axes, names) = match &targets[row] {
            Target::Tokens(places) => {
                let width = entries.map_or_else(|| self.arch.width(point).unwrap_or(0), <[usize]>::len);
                ([self.rows.len(), places.count(), width], "[B, T, width]")
            }
            Target::Pairs { queries, keys, .. } => {
                ([self.rows.len(), queries.count(), keys.count()], "[B, queries, keys]")
            }
            Target::OthersThanSelf { queries, .. } => {
                ([self.rows.len(), queries.count(), length], "[B, queries, keys]")
            }
        };
        if let Some(spread) = Spread::over(values, axes) {
            return Ok(Given::ByNumber(spread));
        }
        let whole = [self.rows.len(), length, length];
        match Spread::over(values, whole).filter(|_| !matches!(targets[row], Target::Tokens(_))) {
            Some(spread) => Ok(Given::ByPosition(spread)),
            None => Err(Error::input(format!(
                "row {row}: `{}` has shape {:?}, which does not spread over {axes:?}, the {names} that change",
                values.name(),
                values.shape()
            ))),
        }
    }

    /// Checks that another row has the places to be copied.
    fn check_source(&self, row: usize, from: usize, targets: &[Target]) -> Result<()> {
        let Some(source) = targets.get(from) else {
            let n = targets.len();
            return Err(Error::input(match n {
                1 => format!("no row {from} to take values of: the batch has one row"),
                _ => format!("no row {from} to take values of: the batch has {n} rows, 0 to {}", n - 1),
            }));
        };
        let lengths = [row, from].map(|r| self.rows[r].ids.len());
        let same = source.counts() == targets[row].counts();
        if same && (lengths[0] == lengths[1] || !targets[row].is_open()) {
            return Ok(());
        }
        Err(Error::input(format!(
            "row {row} has {} tokens and row {from} has {}: the places of one are not those of the other",
            lengths[0], lengths[1]
        ))
        .hint("name positions that both rows have, or give rows of the same length"))
    }
}
