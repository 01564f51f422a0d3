//! Examples that the model continues before their activations are kept.

use std::ops::ControlFlow;

use super::{Example, FirstTap, Options, Progress, plan};
use crate::batch::Batch;
use crate::error::Result;
use crate::generate::{GenerateOptions, Sampling, generate_until};
use crate::model::Model;
use crate::positions::Row;

/// Continues every example with its most likely tokens, `max_new_tokens` at most, up to and including one of `ends`. An
/// extraction then keeps, for the new tokens, the bits of each generation step (of the last step, if rotary frequencies
/// change with a row's length), since running a whole row gives the bits of its steps. Running once more costs far less
/// than the steps did.
///
/// Positions still refer to the prompt; `all` includes the new tokens. If the model's context ends a row, its last
/// token is left out, because the model cannot read it. Only the batch size, progress (which counts new tokens) and
/// stop of `options` are used; `first` is made for each batch as in [`Extraction::run_after`](super::Extraction).
///
/// # Errors
/// As [`generate_until`].
pub fn continued(
    model: &Model,
    mut examples: Vec<Example>,
    max_new_tokens: usize,
    ends: &[u32],
    options: Options<'_>,
    first: &mut FirstTap<'_>,
) -> Result<Vec<Example>> {
    let generation =
        GenerateOptions { max_new_tokens, sampling: Sampling::Greedy, ends: ends.to_vec(), seed: 0 };
    let lengths: Vec<usize> = examples.iter().map(|example| example.ids.len() + max_new_tokens).collect();
    let (all_rows, all_tokens) = (examples.len(), examples.len() * max_new_tokens);
    let mut progress = Progress { rows: 0, all_rows, tokens: 0, all_tokens };
    for places in plan::batches(&lengths, 0..examples.len(), options.batch_tokens) {
        let rows: Vec<Row<'_>> = places.iter().map(|place| examples[*place].row()).collect();
        let prompts: Vec<&[u32]> = rows.iter().map(|row| row.ids).collect();
        let tap = first(&Batch::new(&prompts)?, &rows)?;
        let generated = generate_until(model, &prompts, &generation, tap, options.stop, |_| {
            progress.tokens += 1;
            if let Some(tell) = options.progress {
                tell(progress);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        for (place, generated) in places.iter().zip(generated) {
            let example = &mut examples[*place];
            let length = example.ids.len();
            example.ids.extend(generated.ids);
            example.ids.truncate(model.arch().context);
            example.n_new += example.ids.len() - length;
        }
        progress.rows += places.len();
        // A row that ended early will get no more tokens.
        progress.tokens = progress.rows * max_new_tokens;
    }
    Ok(examples)
}
