//! Makes untrusted text safe to show: nothing invisible, nothing that moves the cursor, known widths.

use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};
use unicode_width::UnicodeWidthChar;

/// Limit on combining marks per letter before they are escaped: no script needs more, and they would overlap other
/// lines.
const MARKS_ON_ONE_LETTER: usize = 4;

/// `text` in a form safe for a terminal or a picture.
///
/// Leading, trailing and repeated spaces become `·`, a newline `↵`, a tab `⇥`, other C0 controls their pictures (`␛`);
/// other controls, bidi and zero-width characters, odd spaces, private and unassigned characters become `\u{..}`.
/// Characters used as signs here (`·`, `↵`, `⇥`, `␛`) are escaped if the text itself contains them, so two different
/// tokens never look the same. A combining mark without a base gets a `◌`.
///
/// ```
/// assert_eq!(easyroutine_view::printable(" Paris\n"), "·Paris↵");
/// assert_eq!(easyroutine_view::printable("\x1b[31m\u{202e}"), r"␛[31m\u{202e}");
/// ```
#[must_use]
pub fn printable(text: &str) -> String {
    pieces(text).into_iter().map(|piece| piece.text).collect()
}

/// Text that was written to be read, as one line: as [`printable`], but all spaces stay spaces.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.split(' ').map(printable).collect::<Vec<_>>().join(" ")
}

/// Terminal columns that printable text takes.
#[must_use]
pub fn columns(text: &str) -> usize {
    text.chars().map(width).sum()
}

/// Printable text truncated to at most `limit` columns, ending in `…` if truncated.
#[must_use]
pub fn fit(text: &str, limit: usize) -> String {
    fit_pieces(&[Piece { text: text.to_owned(), kind: Kind::Plain }], limit)
        .into_iter()
        .map(|p| p.text)
        .collect()
}

/// Whether a piece is text of the token, or a sign in place of a character (drawn fainter).
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

impl Piece {
    /// Text without signs.
    pub(crate) fn plain(text: &str) -> Vec<Piece> {
        vec![Piece { text: text.to_owned(), kind: Kind::Plain }]
    }
}

/// A line of facts separated by middle dots, each printable: text from outside cannot end the line or hide a fact.
pub(crate) fn facts(line: &str) -> String {
    line.split(" · ").map(printable).collect::<Vec<_>>().join(" · ")
}

/// [`printable`], with signs separated from the text.
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

/// Pieces truncated to at most `limit` columns, ending in a sign `…` if truncated. Marks stay with their letter.
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

/// Breaks at spaces into lines of at most `room` columns; a longer word gets its own line.
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

/// Text for one field of a line-oriented table: backslash escapes for characters that would break the line or be
/// invisible.
///
/// Unlike [`printable`] it is reversible: spaces stay, `\` is doubled.
#[must_use]
pub fn field(text: &str) -> String {
    if text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'\\') {
        return text.to_owned();
    }
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

/// [`field`] for a cell of a table that spreadsheets open: the first character of a text that one would run as a
/// formula is escaped. Numbers stay unchanged.
#[must_use]
pub fn cell(text: &str) -> String {
    let escaped = field(text);
    match text.chars().next() {
        Some(first) if "=+-@＝＋－＠".contains(first) && text.parse::<f64>().is_err() => {
            format!("{}{}", escape(first), &escaped[first.len_utf8()..])
        }
        _ => escaped,
    }
}

/// Printable text for Markdown: nothing in it starts markup, HTML or a link, or ends a cell.
#[must_use]
pub fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // GitHub's Markdown turns this into a link even after a backslash.
            '@' => out.push_str("`@`"),
            '.' if out.to_ascii_lowercase().ends_with("www") => out.push_str("\\."),
            '.' | ',' | '-' | '%' | '(' | ')' => out.push(c),
            _ if c.is_ascii_punctuation() => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

/// JSON whose texts contain no character that is invisible, moves the cursor or changes the writing direction: these
/// become `\u202e` and the like, which JSON parsers undo.
#[must_use]
pub fn json_text(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => out.push(c),
            _ if c.is_control() || must_be_escaped(c) && !is_own_sign(c) => {
                out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
            }
            _ => out.push(c),
        }
    }
    out
}

/// Lines of text safe to write to a terminal: controls, except line ends and tabs, and characters that change the
/// writing direction are escaped. With `is_coloured`, sequences that set a colour stay.
#[must_use]
pub fn lines_of_text(text: &str, is_coloured: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '\x1b' if is_coloured => colour(rest).unwrap_or(0),
            _ => 0,
        };
        let is_line_end = matches!(c, '\n' | '\t') || rest.starts_with("\r\n");
        if length > 0 || is_line_end || !is_dangerous(c) {
            let length = length.max(c.len_utf8());
            out.push_str(&rest[..length]);
            rest = &rest[length..];
        } else {
            out.push_str(&escape(c));
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// A character that a terminal would obey.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The length of a sequence that sets a colour, at the start of a text.
fn colour(text: &str) -> Option<usize> {
    let inside = text.strip_prefix("\x1b[")?;
    let end = inside.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    inside[end..].starts_with('m').then_some(2 + end + 1)
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

/// A mark drawn over the letter before it. Those that draw nothing are left to [`must_be_escaped`].
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
        // Hangul fillers and conjoining vowels take no column; the Braille blank is invisible.
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
    fn no_cell_is_a_formula() {
        for (text, written) in [
            ("=1+1", r"\u{3d}1+1"),
            ("+cmd|' /C calc'!A0", r"\u{2b}cmd|' /C calc'!A0"),
            ("-2+3", r"\u{2d}2+3"),
            ("@SUM(A1)", r"\u{40}SUM(A1)"),
            ("＝1", r"\u{ff1d}1"),
            ("-2.5", "-2.5"),
            ("-inf", "-inf"),
            ("a=1", "a=1"),
            ("-", r"\u{2d}"),
            ("", ""),
        ] {
            assert_eq!(cell(text), written, "{text:?}");
        }
    }

    #[test]
    fn no_markdown_is_active() {
        for (text, written) in [
            ("<img src=x>", r"\<img src\=x\>"),
            ("[a](b)", r"\[a\](b)"),
            ("https://a.b", r"https\:\/\/a.b"),
            ("www.a.b", r"www\.a.b"),
            ("a@b.c", "a`@`b.c"),
            ("a|b`c`*d*_e_~f~", r"a\|b\`c\`\*d\*\_e\_\~f\~"),
        ] {
            assert_eq!(markdown(text), written, "{text:?}");
        }
    }

    #[test]
    fn json_and_lines_hold_nothing_that_a_terminal_obeys() {
        assert_eq!(
            json_text("{\"a\u{9b}\u{202e}\": \"\u{7f}é😀\u{e0001}\"}\n"),
            "{\"a\\u009b\\u202e\": \"\\u007fé😀\\udb40\\udc01\"}\n"
        );
        assert_eq!(lines_of_text("a\x1b[31m\tb\r\n\x1b]0;x\x07", true), "a\x1b[31m\tb\r\n\\u{1b}]0;x\\u{7}");
        assert_eq!(lines_of_text("\x1b[31ma\rb\u{85}\u{2066}", false), "\\u{1b}[31ma\\u{d}b\\u{85}\\u{2066}");
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
