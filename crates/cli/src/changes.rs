//! `--intervene`: read before a model is loaded, checked against it before it runs.

use easyroutine::Model;
use easyroutine::edit::{Edits, Intervention, Reference};
use easyroutine::positions::{Context, Row};
use easyroutine::tokens::Tokenizer;

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
