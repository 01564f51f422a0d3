//! Examples that the model goes on writing before their activations are kept.

use std::ops::ControlFlow;

use super::{Example, FirstTap, Options, Progress, plan};
use crate::batch::Batch;
use crate::error::Result;
use crate::generate::{GenerateOptions, Sampling, generate_until};
use crate::model::Model;
use crate::positions::Row;

/// Continues every example by its most likely tokens, `max_new_tokens` at most, up to and with one of `ends`. What an extraction then keeps of the new tokens has the bits that each step of generation
/// had (the last, where rotary frequencies change with a row's length), since a run of a whole row gives the bits of its
/// steps; running once more costs far less than the steps did.
///
/// Positions go on naming tokens of the prompt; `all` names the new ones too. Where the model's context ends a row, its
/// last token is left out: the model was not built to read it. Of `options` the size of batches, progress (tokens are
/// the new ones) and stop are read; `first` is made for each batch as in [`Extraction::run_after`](super::Extraction).
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
        // A row that ended early has no more tokens to come.
        progress.tokens = progress.rows * max_new_tokens;
    }
    Ok(examples)
}
