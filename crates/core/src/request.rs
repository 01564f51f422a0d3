//! A caller's request, checked against the model and the rows before anything runs.

use std::collections::BTreeSet;

use easyroutine_sites::{Point, Selector, Site};

use crate::arch::Arch;
use crate::batch::Batch;
use crate::cache::{ActivationCache, Axis, Capture, Examples, PatternAverage, Reduction, RunningMean};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::positions::{Context, Row, Selected, Selection, Specifier};
use crate::stop::Stop;
use crate::tap::Tap;

/// Activations at positions, and how they are reduced.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Patterns over activation keys.
    pub activations: Vec<Selector>,
    /// Positions of each row.
    pub positions: Vec<Specifier>,
    /// Means instead of single values.
    pub reduction: Reduction,
}

/// The tokens of every row that a request selects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// The tokens kept for every activation; for patterns, the columns.
    pub columns: Selection,
    /// The rows of patterns, if they are other tokens.
    pub pattern_rows: Option<Selection>,
}

impl Tokens {
    /// Adds the tokens of further rows.
    pub(crate) fn append(&mut self, other: Tokens) -> Result<()> {
        self.columns.append(other.columns)?;
        match (&mut self.pattern_rows, other.pattern_rows) {
            (Some(ours), Some(theirs)) => ours.append(theirs),
            _ => Ok(()),
        }
    }
}

impl Request {
    /// Parses `resid_out_*,logits` and a list of position specifiers.
    ///
    /// # Errors
    /// If a name is not an activation or a position.
    pub fn parse(activations: &str, positions: &str) -> Result<Self> {
        Ok(Request {
            activations: Selector::parse_list(activations)?,
            positions: Specifier::parse_list(positions)?,
            reduction: Reduction::default(),
        })
    }

    /// The points of a model that the patterns select.
    ///
    /// # Errors
    /// If a layer or head does not exist, the architecture lacks the place, or a reduction has nothing to reduce. A
    /// pattern over many layers skips those that lack the place, unless all do.
    pub fn points(&self, arch: &Arch) -> Result<BTreeSet<Point>> {
        let mut points = BTreeSet::new();
        for selector in &self.activations {
            points.extend(arch.named(selector)?);
        }
        self.check_reduction(&points)?;
        Ok(points)
    }

    /// The tokens of rows that the request selects.
    ///
    /// # Errors
    /// As [`crate::positions::select`]; if a mean is over no tokens, or over examples with different numbers of
    /// selected tokens.
    pub fn tokens(&self, rows: &[Row<'_>], context: Context<'_>) -> Result<Tokens> {
        let columns = Selection::of(&self.positions, rows, context)?;
        let of_rows = |specifiers: &Vec<Specifier>| Selection::of(specifiers, rows, context);
        let pattern_rows = self.reduction.pattern_rows.as_ref().map(of_rows).transpose()?;
        let tokens = Tokens { columns, pattern_rows };
        self.check_means(&tokens, rows)?;
        Ok(tokens)
    }

    /// Checks that every mean is over at least one value, and that those over examples have the same shape in every
    /// row.
    pub(crate) fn check_means(&self, tokens: &Tokens, rows: &[Row<'_>]) -> Result<()> {
        let selections = [Some(&tokens.columns), tokens.pattern_rows.as_ref()];
        let mut selections = selections.into_iter().flatten();
        if self.reduction.positions == Axis::Groups || self.reduction.pattern != PatternAverage::None {
            selections.try_for_each(|selection| no_group_is_empty(selection, rows))
        } else if self.reduction.examples == Examples::Mean {
            selections.try_for_each(|selection| same_length(selection, rows))
        } else {
            Ok(())
        }
    }

    /// The tap that keeps the requested activations of these tokens, to be combined with others; means over examples
    /// continue from `so_far`.
    ///
    /// # Errors
    /// As [`Request::points`].
    pub fn capture(&self, arch: &Arch, tokens: Tokens, so_far: RunningMean) -> Result<Capture> {
        let Reduction { positions, pattern, examples, .. } = &self.reduction;
        Ok(Capture::new(self.points(arch)?, tokens.columns)
            .of_groups(*positions)
            .of_blocks(*pattern)
            .with_pattern_rows(tokens.pattern_rows)
            .over_examples(*examples, so_far))
    }

    /// Runs a batch and keeps what was requested. `rows` are the batch's rows in the same order.
    ///
    /// # Errors
    /// As [`Request::points`], [`Request::tokens`] and [`Model::forward`].
    pub fn run(
        &self,
        model: &Model,
        batch: &Batch,
        rows: &[Row<'_>],
        context: Context<'_>,
    ) -> Result<ActivationCache> {
        self.run_under(model, batch, rows, context, ())
    }

    /// The same with a tap that comes first: its changes show in what is kept.
    ///
    /// # Errors
    /// As [`Request::run`], and the tap's errors.
    pub fn run_under(
        &self,
        model: &Model,
        batch: &Batch,
        rows: &[Row<'_>],
        context: Context<'_>,
        first: impl Tap,
    ) -> Result<ActivationCache> {
        self.run_until(model, batch, rows, context, first, Stop::Never)
    }

    /// [`Request::run_under`], but asks `stop` before each block whether to end early.
    ///
    /// # Errors
    /// As [`Request::run_under`]; [`Interrupted`](crate::ErrorKind::Interrupted) if it was stopped.
    pub fn run_until(
        &self,
        model: &Model,
        batch: &Batch,
        rows: &[Row<'_>],
        context: Context<'_>,
        first: impl Tap,
        stop: Stop<'_>,
    ) -> Result<ActivationCache> {
        let tokens = self.tokens(rows, context)?;
        let mut taps = (first, self.capture(model.arch(), tokens, RunningMean::default())?);
        model.forward_until(batch, &mut taps, stop)?;
        Ok(taps.1.finish(batch))
    }

    /// A reduction of something that is not requested would silently have no effect.
    fn check_reduction(&self, points: &BTreeSet<Point>) -> Result<()> {
        let has_patterns = points.iter().any(|point| point.site() == Site::Pattern);
        let Reduction { positions, pattern, pattern_rows, examples } = &self.reduction;
        let of_patterns = [
            (*pattern != PatternAverage::None, "attn_pattern_avg", "--pattern-avg"),
            (pattern_rows.is_some(), "attn_pattern_row_positions", "--pattern-rows"),
            (*examples == Examples::Mean, "avg_over_example", "--avg-over-examples"),
        ];
        if let Some((_, field, flag)) = of_patterns.iter().find(|(is_set, ..)| *is_set && !has_patterns) {
            return Err(Error::input(format!(
                "`{field}` (`{flag}`) is about attention patterns, and none are requested"
            ))
            .hint("ask for `extract_attn_pattern`, on the command line `-a 'pattern_*'`"));
        }
        let whole = points.iter().find(|point| point.site().is_whole());
        if let (Axis::Groups, Some(point)) = (positions, whole) {
            return Err(Error::input(format!(
                "numbers of tokens and experts have no mean: `avg` (`--avg`) and `{}` (`-a {point}`) do not go together",
                point.site().flag()
            )));
        }
        Ok(())
    }
}

/// A mean needs at least one value.
fn no_group_is_empty(selection: &Selection, rows: &[Row<'_>]) -> Result<()> {
    for (selected, row) in selection.rows.iter().zip(rows) {
        let Some(empty) = selected.groups.iter().position(|group| group.is_empty()) else { continue };
        return Err(Error::input(format!(
            "row {}: `{}` selects no token, so there is nothing to average",
            row.number, selection.specifiers[empty]
        )));
    }
    Ok(())
}

fn same_length(selection: &Selection, rows: &[Row<'_>]) -> Result<()> {
    let t = |selected: &Selected| selected.indices.len();
    let Some(first) = selection.rows.first().map(t) else { return Ok(()) };
    match selection.rows.iter().position(|selected| t(selected) != first) {
        Some(other) => Err(Error::input(format!(
            "a mean over examples needs as many positions in every row: row {} has {first}, row {} has {}",
            rows[0].number,
            rows[other].number,
            t(&selection.rows[other])
        ))
        .hint("choose positions that every row has, such as `last`, or average within groups first")),
        None => Ok(()),
    }
}
