//! New tokens as text, piece by piece, up to a stop string.

use crate::error::Result;
use crate::tokens::Tokenizer;

/// Turns one row's tokens into text as they come. Holds back text that could still become another character or the
/// start of a stop string.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Prompt and new tokens, since a token's spelling may depend on what precedes it.
    ids: Vec<u32>,
    prompt: String,
    stops: &'a [String],
    given: String,
    has_stopped: bool,
}

/// The text that a token added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Text that can no longer change.
    pub text: String,
    /// Whether a stop string has come; neither it nor any text after it is part of a piece.
    pub stopped: bool,
}

impl<'a> TextStream<'a> {
    /// The stream of a row.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn new(tokenizer: &'a Tokenizer, prompt: &[u32], stops: &'a [String]) -> Result<Self> {
        let text = tokenizer.decode(prompt, true)?;
        let (ids, given) = (prompt.to_vec(), String::new());
        Ok(TextStream { tokenizer, ids, prompt: text, stops, given, has_stopped: false })
    }

    /// Adds a token.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<Piece> {
        self.ids.push(id);
        let text = self.whole()?;
        if let Some(at) =
            self.stops.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s.as_str())).min()
        {
            self.has_stopped = true;
            return Ok(Piece { text: self.give(&text[..at]), stopped: true });
        }
        // Incomplete characters are shown as U+FFFD.
        let certain = text.trim_end_matches('\u{fffd}');
        let held = self.stops.iter().map(|stop| overlap(certain, stop)).max().unwrap_or(0);
        Ok(Piece { text: self.give(&certain[..certain.len() - held]), stopped: false })
    }

    /// The text held back, once no more tokens come.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(mut self) -> Result<String> {
        if self.has_stopped {
            return Ok(String::new());
        }
        let text = self.whole()?;
        Ok(self.give(&text))
    }

    /// The text of all new tokens.
    fn whole(&self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids, true)?;
        Ok(match text.strip_prefix(&self.prompt) {
            Some(new) => new.to_owned(),
            // The prompt ends in the middle of a character.
            None => text[common(&text, &self.prompt)..].to_owned(),
        })
    }

    /// The part of a text not yet returned.
    fn give(&mut self, text: &str) -> String {
        let new = text[common(text, &self.given)..].to_owned();
        if text.len() > self.given.len() {
            self.given = text.to_owned();
            return new;
        }
        String::new()
    }
}

/// Length in bytes of the longest common prefix, in whole characters.
fn common(a: &str, b: &str) -> usize {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    same.map(|(c, _)| c.len_utf8()).sum()
}

/// Length in bytes of the longest end of `text` that begins `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().rev().map(|(at, _)| at);
    lengths.filter(|length| text.ends_with(&stop[..*length])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_stop_string_is_found_at_the_end() {
        assert_eq!(overlap("a stop", "stop it"), 4);
        assert_eq!(overlap("aé", "éé"), 2);
        assert_eq!(overlap("abab", "ababc"), 4);
        assert_eq!(overlap("nothing", "else"), 0);
        assert_eq!(common("café", "cafè"), 3);
    }
}
