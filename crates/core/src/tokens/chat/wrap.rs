//! Jinja2's `wordwrap`, which is Python's `textwrap.wrap` line by line.

use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{Error, State};
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use super::arguments::Arguments;
use super::methods::lines;
use super::python::{pay, refuse, text};

/// How lines are broken.
struct Wrapping {
    width: usize,
    breaks_long_words: bool,
    breaks_on_hyphens: bool,
}

/// `text|wordwrap(width, break_long_words, wrapstring, break_on_hyphens)`.
pub(super) fn wordwrap(
    state: &State<'_, '_>,
    value: Value,
    places: Rest<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let names = &["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let given = Arguments::read("wordwrap", names, &places, &named)?;
    let wrapping = Wrapping {
        width: usize::try_from(given.whole(0, 79)?).unwrap_or(0),
        breaks_long_words: given.is_true(1, true),
        breaks_on_hyphens: given.is_true(3, true),
    };
    let between = given.text(2)?.unwrap_or("\n");
    let value = text(&value, "wordwrap")?;
    pay(state, 64 + 8 * value.len())?;
    let mut out = String::new();
    for (i, line) in lines(value, false).into_iter().enumerate() {
        if wrapping.width == 0 {
            return Err(refuse("wordwrap: a width is more than 0"));
        }
        out.push_str(if i == 0 { "" } else { between });
        for (i, part) in wrapping.wrap(line).iter().enumerate() {
            pay(state, 64 + between.len())?;
            out.push_str(if i == 0 { "" } else { between });
            out.extend(part);
        }
    }
    Ok(out)
}

impl Wrapping {
    /// `textwrap.wrap` for one line: `TextWrapper._wrap_chunks`.
    fn wrap(&self, line: &str) -> Vec<Vec<char>> {
        let characters: Vec<char> = line.chars().collect();
        let mut chunks: Vec<&[char]> = self.chunks(&characters);
        chunks.reverse();
        let is_blank = |chunk: &[char]| chunk.iter().all(|&c| super::methods::is_space(c));
        let mut lines: Vec<Vec<char>> = Vec::new();
        while let Some(first) = chunks.last() {
            if is_blank(first) && !lines.is_empty() {
                chunks.pop();
            }
            let mut current: Vec<&[char]> = Vec::new();
            let mut length = 0;
            while let Some(chunk) = chunks.last().filter(|chunk| length + chunk.len() <= self.width) {
                length += chunk.len();
                current.push(chunk);
                chunks.pop();
            }
            if chunks.last().is_some_and(|chunk| chunk.len() > self.width) {
                self.break_long_word(&mut chunks, &mut current, self.width - length);
            }
            if current.last().is_some_and(|chunk| is_blank(chunk)) {
                current.pop();
            }
            if !current.is_empty() {
                lines.push(current.concat());
            }
        }
        lines
    }

    /// Puts as much of the next chunk on the line as fits: `TextWrapper._handle_long_word`.
    fn break_long_word<'a>(&self, chunks: &mut Vec<&'a [char]>, current: &mut Vec<&'a [char]>, room: usize) {
        if !self.breaks_long_words {
            if current.is_empty() {
                current.extend(chunks.pop());
            }
            return;
        }
        let Some(chunk) = chunks.pop() else { return };
        let mut end = room;
        if self.breaks_on_hyphens && chunk.len() > room {
            let hyphen = chunk[..room].iter().rposition(|&c| c == '-').filter(|&at| at > 0);
            if let Some(hyphen) = hyphen.filter(|&at| chunk[..at].iter().any(|&c| c != '-')) {
                end = hyphen + 1;
            }
        }
        let (now, later) = chunk.split_at(end);
        current.push(now);
        chunks.push(later);
    }

    /// Words and separators: `TextWrapper._split`, with the expressions `wordsep_re` and `wordsep_simple_re`.
    fn chunks<'a>(&self, line: &'a [char]) -> Vec<&'a [char]> {
        let mut chunks = Vec::new();
        let mut at = 0;
        while at < line.len() {
            let blank = is_blank(line[at]);
            let run = line[at..].iter().position(|&c| is_blank(c) != blank).map_or(line.len(), |n| at + n);
            let end = match blank || !self.breaks_on_hyphens {
                true => run,
                false => dash(line, at).unwrap_or_else(|| end_of_word(line, at, run)),
            };
            chunks.push(&line[at..end]);
            at = end;
        }
        chunks
    }
}

/// The end of the dash of two or more hyphens that starts here between words.
fn dash(line: &[char], at: usize) -> Option<usize> {
    if line[at] != '-' || at == 0 || !is_of_word(line[at - 1]) {
        return None;
    }
    let end = line[at..].iter().position(|&c| c != '-').map(|n| at + n)?;
    (end >= at + 2 && is_word(line[end])).then_some(end)
}

/// The end of the word that begins here: after its hyphen, before a dash, or at the end of the run.
fn end_of_word(line: &[char], start: usize, run: usize) -> usize {
    let is_letter_at = |at: usize| line.get(at).copied().is_some_and(is_letter);
    (start + 1..run)
        .find_map(|at| {
            if line[at] == '-' {
                let after = is_letter_at(at + 1)
                    && (is_letter_at(at + 2) || line.get(at + 2) == Some(&'-') && is_letter_at(at + 3));
                let before = at >= 2 && is_letter(line[at - 1]) && is_letter(line[at - 2])
                    || at >= 3 && is_of_word(line[at - 1]) && line[at - 2] == '-' && is_letter(line[at - 3]);
                if after && before {
                    return Some(at + 1);
                }
            }
            dash(line, at).map(|_| at)
        })
        .unwrap_or(run)
}

/// ASCII white space, the only separator here.
fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// Python's `\w`.
pub(super) fn is_word(c: char) -> bool {
    let group = c.general_category_group();
    c == '_' || matches!(group, GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number)
}

/// `[\w!"'&.,?]`.
fn is_of_word(c: char) -> bool {
    is_word(c) || "!\"'&.,?".contains(c)
}

/// `[^\d\W]`.
fn is_letter(c: char) -> bool {
    is_word(c) && c.general_category() != GeneralCategory::DecimalNumber
}
