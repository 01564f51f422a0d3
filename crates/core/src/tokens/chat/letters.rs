//! Python's string methods about letters.

use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use super::python::is_printable;

/// `str.title`: lower case after a letter, otherwise title case.
pub(super) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut follows_letter = false;
    for c in text.chars() {
        match follows_letter {
            true => out.extend(c.to_lowercase()),
            false => out.extend(large(c)),
        }
        follows_letter = is_cased(c);
    }
    out
}

/// A letter in title case; in a ligature of two only the first is capitalised.
fn large(c: char) -> Vec<char> {
    match c {
        'Ǆ'..='ǆ' => vec!['ǅ'],
        'Ǉ'..='ǉ' => vec!['ǈ'],
        'Ǌ'..='ǌ' => vec!['ǋ'],
        'Ǳ'..='ǳ' => vec!['ǲ'],
        c => {
            let mut upper = c.to_uppercase();
            let first = upper.next().unwrap_or(c);
            std::iter::once(first).chain(upper.flat_map(char::to_lowercase)).collect()
        }
    }
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || c.general_category() == GeneralCategory::TitlecaseLetter
}

/// `str.istitle`.
pub(super) fn is_title(text: &str) -> bool {
    let (mut follows_letter, mut has_letter) = (false, false);
    for c in text.chars() {
        if is_cased(c) {
            if c.is_lowercase() != follows_letter {
                return false;
            }
            has_letter = true;
        }
        follows_letter = is_cased(c);
    }
    has_letter
}

/// `str.isidentifier`.
pub(super) fn is_identifier(text: &str) -> bool {
    let begins = |c: char| {
        c == '_'
            || c.general_category_group() == GeneralCategoryGroup::Letter
            || c.general_category() == GeneralCategory::LetterNumber
    };
    let goes_on = |c: char| {
        begins(c)
            || matches!(
                c.general_category(),
                GeneralCategory::DecimalNumber
                    | GeneralCategory::NonspacingMark
                    | GeneralCategory::SpacingMark
                    | GeneralCategory::ConnectorPunctuation
            )
    };
    let mut letters = text.chars();
    letters.next().is_some_and(begins) && letters.all(goes_on)
}

/// `str.isprintable`.
pub(super) fn all_printable(text: &str) -> bool {
    text.chars().all(is_printable)
}

/// `str.isdecimal` of one character.
pub(super) fn is_decimal(c: char) -> bool {
    c.general_category() == GeneralCategory::DecimalNumber
}

/// `str.isdigit` for one character, including superscript, subscript, circled and bracketed digits.
pub(super) fn is_digit(c: char) -> bool {
    is_decimal(c)
        || matches!(
            c,
            '²' | '³' | '¹' | '\u{1369}'..='\u{1371}' | '\u{19da}' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨'
            | '⑴'..='⑼' | '⒈'..='⒐' | '⓪' | '⓵'..='⓽' | '⓿' | '❶'..='❾' | '➀'..='➈' | '➊'..='➒'
            | '\u{10a40}'..='\u{10a43}' | '\u{10e60}'..='\u{10e68}' | '\u{11052}'..='\u{1105a}'
            | '\u{1f100}'..='\u{1f10a}'
        )
}
