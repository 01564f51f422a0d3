//! Untrusted text made safe to show: nothing invisible, nothing that moves the cursor, known widths.

use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};
use unicode_width::UnicodeWidthChar;

/// More combining marks than this on one letter are escaped: no script needs them, and they climb over other lines.
const MARKS_ON_ONE_LETTER: usize = 4;

/// `text` as it may be shown in a terminal or a picture.
///
/// Leading, trailing and repeated spaces become `·`, a newline `↵`, a tab `⇥`, other C0 controls their pictures (`␛`);
/// other controls, bidi and zero-width characters, odd spaces, private and unassigned characters become `\u{..}`.
/// Characters that stand for another here (`·`, `↵`, `⇥`, `␛`) are escaped where they are in the text itself,
/// so two different tokens never look the same. A combining mark with nothing to stand on gets a `◌`.
///
/// ```
/// assert_eq!(easyroutine_view::printable(" Paris\n"), "·Paris↵");
/// assert_eq!(easyroutine_view::printable("\x1b[31m\u{202e}"), r"␛[31m\u{202e}");
/// ```
#[must_use]
pub fn printable(text: &str) -> String {
    pieces(text).into_iter().map(|piece| piece.text).collect()
}

/// Terminal columns that printable text takes.
#[must_use]
pub fn columns(text: &str) -> usize {
    text.chars().map(width).sum()
}

/// Printable text cut to at most `limit` columns; what is cut ends in `…`.
#[must_use]
pub fn fit(text: &str, limit: usize) -> String {
    fit_pieces(&[Piece { text: text.to_owned(), kind: Kind::Plain }], limit)
        .into_iter()
        .map(|p| p.text)
        .collect()
}

/// Whether a piece is text of the token, or a sign that stands for it (drawn fainter).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Sign,
}

/// A part of printable text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) kind: Kind,
}

/// [`printable`], with the signs apart from the text.
pub(crate) fn pieces(text: &str) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::new();
    let mut marks = None;
    let mut before = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let lone_space = !matches!(before, None | Some(' ')) && !matches!(chars.peek(), None | Some(' '));
        before = Some(c);
        if is_mark(c) {
            match marks {
                Some(n) if n >= MARKS_ON_ONE_LETTER => push(&mut out, Kind::Sign, &escape(c)),
                Some(n) => {
                    marks = Some(n + 1);
                    push(&mut out, Kind::Plain, c.encode_utf8(&mut [0; 4]));
                }
                None => {
                    marks = Some(1);
                    push(&mut out, Kind::Plain, &format!("\u{25cc}{c}"));
                }
            }
            continue;
        }
        marks = None;
        match c {
            ' ' if lone_space => push(&mut out, Kind::Plain, " "),
            ' ' => push(&mut out, Kind::Sign, "·"),
            '\n' => push(&mut out, Kind::Sign, "↵"),
            '\t' => push(&mut out, Kind::Sign, "⇥"),
            '\0'..='\x1f' => push(&mut out, Kind::Sign, picture(c as u32)),
            '\x7f' => push(&mut out, Kind::Sign, "␡"),
            _ if must_be_escaped(c) => push(&mut out, Kind::Sign, &escape(c)),
            _ => {
                marks = Some(0);
                push(&mut out, Kind::Plain, c.encode_utf8(&mut [0; 4]));
            }
        }
    }
    out
}

/// Pieces cut to at most `limit` columns; what is cut ends in a sign `…`. Marks stay with their letter.
pub(crate) fn fit_pieces(pieces: &[Piece], limit: usize) -> Vec<Piece> {
    if pieces.iter().map(|p| columns(&p.text)).sum::<usize>() <= limit {
        return pieces.to_vec();
    }
    let mut out = Vec::new();
    let mut used = 0;
    'all: for piece in pieces {
        for c in piece.text.chars() {
            if used + width(c) + 1 > limit {
                break 'all;
            }
            used += width(c);
            push(&mut out, piece.kind, c.encode_utf8(&mut [0; 4]));
        }
    }
    if limit > 0 {
        push(&mut out, Kind::Sign, "…");
    }
    out
}

/// Breaks at blanks into lines of at most `room` columns; a longer word has a line of its own.
pub(crate) fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if columns(line) + 1 + columns(word) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Text for one field of a line-oriented table: backslash escapes for what would break the line or hide.
///
/// Unlike [`printable`] it can be undone: spaces stay, `\` is doubled.
#[must_use]
pub fn field(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str(r"\\"),
            '\n' => out.push_str(r"\n"),
            '\r' => out.push_str(r"\r"),
            '\t' => out.push_str(r"\t"),
            ' ' => out.push(' '),
            _ if c.is_control() || (must_be_escaped(c) && !is_own_sign(c)) => out.push_str(&escape(c)),
            _ => out.push(c),
        }
    }
    out
}

pub(crate) fn width(c: char) -> usize {
    c.width().unwrap_or(0)
}

fn push(out: &mut Vec<Piece>, kind: Kind, text: &str) {
    match out.last_mut() {
        Some(last) if last.kind == kind => last.text.push_str(text),
        _ => out.push(Piece { text: text.to_owned(), kind }),
    }
}

fn escape(c: char) -> String {
    format!("\\u{{{:x}}}", c as u32)
}

fn picture(c0: u32) -> &'static str {
    const PICTURES: &str = "␀␁␂␃␄␅␆␇␈␉␊␋␌␍␎␏␐␑␒␓␔␕␖␗␘␙␚␛␜␝␞␟";
    // Every control picture takes three bytes.
    let at = c0 as usize * 3;
    PICTURES.get(at..at + 3).unwrap_or("\u{fffd}")
}

fn is_own_sign(c: char) -> bool {
    matches!(c, '·' | '↵' | '⇥' | '\u{2400}'..='\u{2421}')
}

/// A mark that is drawn over the letter before it. Those that draw nothing are left to [`must_be_escaped`].
fn is_mark(c: char) -> bool {
    matches!(c.general_category(), GeneralCategory::NonspacingMark | GeneralCategory::EnclosingMark)
        && width(c) == 0
        && !is_invisible_mark(c)
}

/// Marks without a picture: joiners, vowel placeholders and variation selectors (Default_Ignorable in Unicode's data).
fn is_invisible_mark(c: char) -> bool {
    matches!(c, '\u{34f}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

fn must_be_escaped(c: char) -> bool {
    match c.general_category_group() {
        GeneralCategoryGroup::Other => true,
        GeneralCategoryGroup::Separator => c != ' ',
        // Skin tones join the character before them in some terminals and not in others.
        _ if ('\u{1f3fb}'..='\u{1f3ff}').contains(&c) => true,
        // Hangul fillers and conjoining vowels take no column; the Braille blank is not to be seen.
        _ => {
            is_invisible_mark(c)
                || is_own_sign(c)
                || c == '\u{2800}'
                || (width(c) == 0 && !is_mark(c))
                || is_filler(c)
        }
    }
}

fn is_filler(c: char) -> bool {
    matches!(c, '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_shown() {
        for (text, shown) in [
            (" Paris", "·Paris"),
            ("new York", "new York"),
            ("a  b ", "a··b·"),
            ("\n\n", "↵↵"),
            ("\ta", "⇥a"),
            ("\r", "␍"),
            ("\0\x1f\x7f", "␀␟␡"),
            ("\x1b]0;title\x07", "␛]0;title␇"),
            ("\u{85}\u{9b}", r"\u{85}\u{9b}"),
            ("\u{202e}x\u{2066}", r"\u{202e}x\u{2066}"),
            ("a\u{200b}b\u{feff}", r"a\u{200b}b\u{feff}"),
            ("\u{a0}\u{3000}\u{2028}", r"\u{a0}\u{3000}\u{2028}"),
            ("\u{e000}\u{378}\u{ffff}", r"\u{e000}\u{378}\u{ffff}"),
            ("\u{3164}\u{115f}\u{2800}", r"\u{3164}\u{115f}\u{2800}"),
            ("☺\u{fe0f}", r"☺\u{fe0f}"),
            ("👩\u{200d}💻", r"👩\u{200d}💻"),
            ("👍\u{1f3fd}", r"👍\u{1f3fd}"),
            ("e\u{301}", "e\u{301}"),
            ("\u{301}", "◌\u{301}"),
            (" \u{301}", "·◌\u{301}"),
            ("·↵⇥␛", r"\u{b7}\u{21b5}\u{21e5}\u{241b}"),
            ("日本語", "日本語"),
            ("\u{fffd}", "\u{fffd}"),
            ("", ""),
        ] {
            assert_eq!(printable(text), shown, "{text:?}");
        }
    }

    #[test]
    fn marks_do_not_climb_without_end() {
        let zalgo = format!("e{}", "\u{301}".repeat(6));
        assert_eq!(printable(&zalgo), format!("e{}\\u{{301}}\\u{{301}}", "\u{301}".repeat(4)));
    }

    #[test]
    fn columns_count_what_a_terminal_shows() {
        for (text, wide) in [("Paris", 5), ("日本", 4), ("e\u{301}x", 2), ("·", 1), ("😀", 2)] {
            assert_eq!(columns(text), wide, "{text:?}");
        }
    }

    #[test]
    fn a_cut_keeps_to_its_columns() {
        for (text, limit, cut) in [
            ("Paris", 5, "Paris"),
            ("Paris", 4, "Par…"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("e\u{301}e\u{301}e\u{301}", 2, "e\u{301}…"),
            ("ab", 1, "…"),
            ("ab", 0, ""),
        ] {
            assert_eq!(fit(text, limit), cut, "{text:?} in {limit}");
        }
    }

    #[test]
    fn a_field_can_be_read_back() {
        for (text, written) in [
            (" a", " a"),
            ("\n", r"\n"),
            ("\t", r"\t"),
            (r"\n", r"\\n"),
            ("·", "·"),
            ("\x1b", r"\u{1b}"),
            ("\u{202e}", r"\u{202e}"),
        ] {
            assert_eq!(field(text), written, "{text:?}");
        }
    }
}
