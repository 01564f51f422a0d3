//! `--intervene`: read before a model is loaded, checked against it before it runs.

use easyroutine::arch::Arch;
use easyroutine::edit::{Edits, Intervention, Reference};
use easyroutine::positions::{Context, Row};
use easyroutine::tokens::Tokenizer;
use easyroutine::{Batch, Error, Model, Tap};

use crate::args::Changes;
use crate::failure::Failure;
use crate::output;
use crate::session::Prompt;

impl Changes {
    /// Reads the interventions and the values that they name.
    ///
    /// # Errors
    /// What is written is no intervention, or a file is not there.
    pub(crate) fn read(&self) -> Result<Vec<Intervention>, Failure> {
        let read = |text: &String| text.parse::<Intervention<Reference>>().and_then(Intervention::load);
        Ok(self.intervene.iter().map(read).collect::<Result<_, _>>()?)
    }
}

/// Interventions on rows, checked; what is odd about them is said.
///
/// # Errors
/// Those of [`Edits::new`].
pub(crate) fn checked(
    interventions: &[Intervention],
    model: &Model,
    rows: &[Row<'_>],
    context: Context<'_>,
) -> Result<Edits, Failure> {
    let edits = Edits::new(interventions, model.arch(), rows, context)?;
    edits.warnings().iter().for_each(|warning| output::note("warning", warning));
    Ok(edits)
}

/// Interventions that were checked, for the rows of one batch after another.
pub(crate) fn of_batches<'a>(
    interventions: &'a [Intervention],
    arch: &'a Arch,
    context: Context<'a>,
) -> impl FnMut(&Batch, &[Row<'_>]) -> Result<Box<dyn Tap + 'a>, Error> + 'a {
    move |_, rows| Ok(Box::new(Edits::new(interventions, arch, rows, context)?))
}

/// Interventions on one prompt; random positions are drawn by `seed`.
///
/// # Errors
/// Those of [`Edits::new`].
pub(crate) fn of_prompt(
    interventions: &[Intervention],
    model: &Model,
    prompt: &Prompt,
    tokenizer: &Tokenizer,
    seed: u64,
) -> Result<Edits, Failure> {
    let context = Context { special: tokenizer.special_ids(), seed, ..Context::default() };
    checked(interventions, model, &[prompt.row()], context)
}
