//! Reads a file of prompts according to the flags.

use std::path::Path;

use easyroutine::extract::Example;
use easyroutine::prompts::{self, Format, LONGEST_ROW, Prompts, ReadOptions};
use easyroutine::tokens::Tokenizer;

use crate::args::{Cutting, Reading};
use crate::failure::Failure;
use crate::{output, session};

impl Reading {
    /// Refuses file flags without a file. Not left to the parser, where a flag that excludes a file would free the
    /// others from requiring one.
    pub(crate) fn refuse_without(&self, example: &str) -> Result<(), Failure> {
        let flags = [
            ("--field", self.field.is_some()),
            ("--skip-empty", self.skip_empty),
            ("--longest-row", self.longest_row.is_some()),
            ("--limit", self.limit.is_some()),
        ];
        match flags.into_iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => Err(Failure::usage(format!("{flag} is for prompts of a file"))
                .hint(format!("name it: {example}"))),
            None => Ok(()),
        }
    }

    /// The options for reading a file.
    pub(crate) fn options(&self) -> ReadOptions {
        ReadOptions {
            field: self.field.clone().unwrap_or_else(|| "text".to_owned()),
            limit: self.limit.map(|n| n as usize),
            skip_empty: self.skip_empty,
            longest_row: self
                .longest_row
                .map_or(LONGEST_ROW, |size| usize::try_from(size).unwrap_or(usize::MAX)),
        }
    }

    /// Reads a file's prompts, and reports how many were skipped.
    pub(crate) fn read(&self, file: &Path) -> Result<Prompts, Failure> {
        self.check_field(file)?;
        let found = prompts::read(file, &self.options())?;
        tell_skipped(found.skipped, file);
        Ok(found)
    }

    /// Visits a file's prompts without keeping them, and reports how many were skipped.
    pub(crate) fn each(
        &self,
        file: &Path,
        visit: impl FnMut(usize, prompts::Prompt) -> easyroutine::Result<bool>,
    ) -> Result<prompts::Seen, Failure> {
        self.check_field(file)?;
        let seen = prompts::each_prompt(file, &self.options(), visit)?;
        tell_skipped(seen.skipped, file);
        Ok(seen)
    }

    fn check_field(&self, file: &Path) -> Result<(), Failure> {
        if self.field.is_some() && !Format::of(file)?.has_fields() {
            return Err(Failure::usage(format!("{}: lines of text have no fields", file.display()))
                .hint("--field is for .jsonl, .csv, .tsv and .parquet files"));
        }
        Ok(())
    }
}

fn tell_skipped(skipped: usize, file: &Path) {
    if skipped > 0 {
        let rows = if skipped == 1 { "row" } else { "rows" };
        output::note("note", &format!("skipped {skipped} empty {rows} of {}", file.display()));
    }
}

impl Cutting {
    /// A row of a file of prompts as an example under its number: a text is cut, ids are taken as they are.
    ///
    /// # Errors
    /// A conversation, a row of more than `context` tokens. The failure names the row.
    pub(crate) fn example(
        &self,
        number: usize,
        prompt: prompts::Prompt,
        tokenizer: &Tokenizer,
        context: usize,
    ) -> Result<Example, Failure> {
        let at = |failure: Failure| failure.at(format!("row {number}"));
        match prompt {
            prompts::Prompt::Ids(ids) if ids.len() > context => {
                Err(at(session::too_long(&ids.len().to_string(), context)))
            }
            prompts::Prompt::Ids(ids) => Ok(Example { number, ids, ..Example::default() }),
            prompts::Prompt::Messages(_) => Err(at(no_conversation())),
            prompts::Prompt::Text(text) => {
                let cut = self.row(text, tokenizer, context).map_err(at)?;
                let text = Some((cut.text, cut.encoded.offsets));
                Ok(Example { number, ids: cut.encoded.ids, text, ..Example::default() })
            }
        }
    }
}

/// Refuses a conversation for a command without chat templates.
pub(crate) fn no_conversation() -> Failure {
    Failure::usage("is a conversation; here prompts are texts or lists of token ids")
        .hint("put it into the model's chat template first: `easyroutine tokens --chat` gives its ids")
}
