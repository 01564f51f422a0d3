//! Rewrites what Jinja2 understands and minijinja does not, and limits a template's text.
//!
//! - `\r\n` and `\r` become `\n`, the line end that Jinja2 writes for each.
//! - `{% generation %}…{% endgeneration %}`, with which transformers marks answers, becomes a scope, `{% with %}`.
//! - `a % b`, for numbers or for a format and its values, becomes a call of the filter `python_modulo`; `a + b` and `a
//!   * b`, which minijinja does not bound when they make lists, become `python_add` and `python_multiply`.
//! - `+a`, which minijinja does not parse, becomes `- -a`.
//! - A macro that reads `varargs` or `kwargs` gets parameters with these names and, after its end, `{% set name =
//!   name|python_macro %}`, which fills them.
//! - The sequence of `{% for … in value %}` passes through the filter `characters`: for a string, minijinja does not
//!   know which character is the last; none, which it walks as an empty list, is refused.
//! - String escapes that Python reads differently are rewritten for minijinja: `escapes`.
//! - After each tag that could start a long run, such as `{% for … %}`, comes `{% if 0|end_in_time %}`: the filter ends
//!   a rendering that is no longer awaited.
//! - The value of `{% set namespace.name = value %}` passes through the filter `without_namespaces`: a namespace that
//!   contained itself could be walked forever.
//!
//! Line numbers are preserved, so that errors name the right line.

use std::borrow::Cow;

use super::escapes;

/// The longest templates of published models have 30 kB.
const LONGEST: usize = 256 << 10;
/// Words per tag: each may be a level of nesting for parser and interpreter.
const WORDS: usize = 10_000;
/// Alternatives of conditions, which nest too.
const ALTERNATIVES: usize = 2000;

/// A replacement of a range of bytes.
pub(super) struct Change {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) text: Cow<'static, str>,
}

impl Change {
    fn insert(at: usize, text: impl Into<Cow<'static, str>>) -> Self {
        Change { start: at, end: at, text: text.into() }
    }
}

/// A macro whose end has not been read yet.
struct OpenMacro<'a> {
    name: &'a str,
    parameters: Vec<&'a str>,
    /// Before the bracket that closes its parameters.
    end_of_parameters: usize,
    takes: [bool; 2],
}

/// A macro's remaining arguments, and their defaults.
const REST: [(&str, &str); 2] = [("varargs", "()"), ("kwargs", "{}")];

/// Rewrites a template for minijinja.
///
/// # Errors
/// If a limit is exceeded (it is named).
pub(super) fn rewrite(template: &str) -> Result<Cow<'_, str>, String> {
    if template.len() > LONGEST {
        return Err(format!("it has {} bytes; {LONGEST} is the limit", template.len()));
    }
    Ok(match template.contains('\r') {
        true => rewrite_lines(&template.replace("\r\n", "\n").replace('\r', "\n"))?.into_owned().into(),
        false => rewrite_lines(template)?,
    })
}

/// As [`rewrite`], for a text whose lines end in `\n`.
fn rewrite_lines(template: &str) -> Result<Cow<'_, str>, String> {
    let mut changes = Vec::new();
    let mut macros: Vec<OpenMacro<'_>> = Vec::new();
    let mut alternatives = 0;
    let mut at = 0;
    while let Some((open, kind)) = next_tag(template, at) {
        at = match kind {
            b'#' => template[open..].find("#}").map_or(template.len(), |end| open + end + 2),
            _ => {
                let tag = Tag::read(template, open + 2, kind)?;
                alternatives += usize::from(tag.keyword() == Some("elif"));
                tag.rewrite(&mut changes);
                tag.rewrite_macros(&mut macros, &mut changes);
                tag.look_at_the_clock(template, &mut changes);
                match tag.keyword() {
                    Some("raw") => end_of_raw(template, tag.end),
                    _ => tag.end,
                }
            }
        };
    }
    if alternatives > ALTERNATIVES {
        return Err(format!("it has {alternatives} times `elif`; {ALTERNATIVES} is the limit"));
    }
    Ok(applied(template, changes))
}

/// The next `{{`, `{%` or `{#`, and the character after its brace.
fn next_tag(template: &str, from: usize) -> Option<(usize, u8)> {
    let bytes = template.as_bytes();
    let at = (from..bytes.len().saturating_sub(1))
        .find(|&i| bytes[i] == b'{' && b"{%#".contains(&bytes[i + 1]))?;
    Some((at, bytes[at + 1]))
}

/// The position after the tag that ends a raw block.
fn end_of_raw(template: &str, from: usize) -> usize {
    let mut at = from;
    while let Some(open) = template[at..].find("{%").map(|found| at + found) {
        let inside = template[open + 2..].trim_start_matches(['-', '+']).trim_start();
        if inside.starts_with("endraw") {
            return template[open..].find("%}").map_or(template.len(), |end| open + end + 2);
        }
        at = open + 2;
    }
    template.len()
}

fn applied(template: &str, mut changes: Vec<Change>) -> Cow<'_, str> {
    if changes.is_empty() {
        return Cow::Borrowed(template);
    }
    // An insertion before a word precedes the word's replacement.
    changes.sort_by_key(|change| (change.start, change.end));
    let mut out = String::with_capacity(template.len() + 32 * changes.len());
    let mut at = 0;
    for change in changes {
        out.push_str(&template[at..change.start]);
        out.push_str(&change.text);
        at = change.end;
    }
    out.push_str(&template[at..]);
    Cow::Owned(out)
}

/// A word of a tag.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    pub(super) start: usize,
    /// Whether it is a name, a number or a quoted string.
    is_name: bool,
    is_value: bool,
}

impl Word<'_> {
    fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

/// A tag: `{{ … }}` or `{% … %}`.
struct Tag<'a> {
    words: Vec<Word<'a>>,
    is_block: bool,
    /// The position after it.
    end: usize,
}

impl<'a> Tag<'a> {
    /// Reads the words from `at` to the end of the tag.
    fn read(template: &'a str, mut at: usize, kind: u8) -> Result<Self, String> {
        let close = if kind == b'{' { "}}" } else { "%}" };
        let mut words: Vec<Word<'a>> = Vec::new();
        let mut braces = 0usize;
        if template[at..].starts_with(['-', '+']) {
            at += 1;
        }
        while let Some(c) = template[at..].chars().next() {
            let rest = &template[at..];
            let closes = |rest: &str| rest.starts_with(close) && (kind != b'{' || braces == 0);
            if closes(rest) || (c == '-' || c == '+') && closes(&rest[1..]) {
                at += close.len() + usize::from(!closes(rest));
                return Ok(Tag { words, is_block: kind == b'%', end: at });
            }
            if c.is_whitespace() {
                at += c.len_utf8();
                continue;
            }
            let length = length_of_word(rest, c);
            let is_name = c == '_' || c.is_alphabetic();
            let is_value = is_name || c.is_ascii_digit() || c == '"' || c == '\'';
            words.push(Word { text: &rest[..length], start: at, is_name, is_value });
            if words.len() > WORDS {
                return Err(format!("a tag has more than {WORDS} words"));
            }
            match c {
                '{' => braces += 1,
                '}' => braces = braces.saturating_sub(1),
                _ => {}
            }
            at += length;
        }
        // The tag does not end; minijinja will report it.
        Ok(Tag { words: Vec::new(), is_block: false, end: template.len() })
    }

    /// The first word of a block.
    fn keyword(&self) -> Option<&'a str> {
        self.words.first().filter(|_| self.is_block).map(|word| word.text)
    }

    fn rewrite(&self, changes: &mut Vec<Change>) {
        let mut replaced = |text: &'static str| {
            let word = &self.words[0];
            changes.push(Change { start: word.start, end: word.end(), text: text.into() });
        };
        match self.keyword() {
            Some("generation") if self.words.len() == 1 => return replaced("with"),
            Some("endgeneration") if self.words.len() == 1 => return replaced("endwith"),
            _ => {}
        }
        escapes::rewrite(&self.words, changes);
        let value = self.value_for_namespace();
        if let Some(first) = value {
            changes.push(Change::insert(first.start, "("));
        }
        let iterated = self.iterated();
        if let Some((first, _)) = iterated {
            changes.push(Change::insert(first.start, "("));
        }
        if self.words.iter().any(|word| matches!(word.text, "%" | "+" | "*")) {
            arithmetic(&self.words, self.is_block, changes);
        }
        if let (Some(_), Some(last)) = (value, self.words.last()) {
            changes.push(Change::insert(last.end(), ")|without_namespaces"));
        }
        if let Some((_, last)) = iterated {
            changes.push(Change::insert(last.end(), ")|characters"));
        }
    }

    /// The first and last word of a `for`'s sequence. Conditional expressions are in brackets there.
    fn iterated(&self) -> Option<(Word<'a>, Word<'a>)> {
        if self.keyword() != Some("for") {
            return None;
        }
        let start = self.words.iter().position(|word| word.text == "in")? + 1;
        let mut depth = 0usize;
        let ends = |word: &Word<'_>| {
            match word.text {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && word.is_name && word.text == "if"
        };
        let rest = &self.words[start..];
        let end = rest.iter().position(ends).unwrap_or(rest.len());
        let rest = &rest[..end];
        let rest = match rest {
            [before @ .., last] if last.text == "recursive" && !before.is_empty() => before,
            all => all,
        };
        rest.first().copied().zip(rest.last().copied())
    }

    /// Inserts deadline checks where a template loops, and where a value may be computed without being written.
    fn look_at_the_clock(&self, template: &str, changes: &mut Vec<Change>) {
        let is_assignment = || self.words.iter().any(|word| word.text == "=");
        let is_one = match self.keyword() {
            Some("for" | "macro" | "call" | "endif") => true,
            Some("set") => is_assignment(),
            _ => false,
        };
        if is_one {
            // What follows is trimmed as before.
            let close = match template.as_bytes().get(self.end.wrapping_sub(3)) {
                Some(b'-') => "-%}",
                Some(b'+') => "+%}",
                _ => "%}",
            };
            changes.push(Change::insert(self.end, format!("{{% if 0|end_in_time %}}{{% endif {close}")));
        }
    }

    /// Records which macros read their remaining arguments, and wraps those at their end.
    fn rewrite_macros(&self, macros: &mut Vec<OpenMacro<'a>>, changes: &mut Vec<Change>) {
        match (self.keyword(), self.words.as_slice()) {
            (Some("macro"), [_, name, open, .., close]) if open.text == "(" && close.text == ")" => {
                let names = self.words.windows(2).filter(|pair| matches!(pair[0].text, "(" | ","));
                macros.push(OpenMacro {
                    name: name.text,
                    parameters: names.map(|pair| pair[1].text).filter(|text| *text != ")").collect(),
                    end_of_parameters: close.start,
                    takes: [false; 2],
                });
            }
            (Some("endmacro"), words) => {
                let Some(ended) = macros.pop() else { return };
                let mut takes_rest = false;
                for ((name, otherwise), takes) in REST.iter().zip(ended.takes) {
                    if !takes || ended.parameters.contains(name) {
                        continue;
                    }
                    let comma = if ended.parameters.is_empty() && !takes_rest { "" } else { ", " };
                    takes_rest = true;
                    changes
                        .push(Change::insert(ended.end_of_parameters, format!("{comma}{name}={otherwise}")));
                }
                if let (true, Some(last)) = (takes_rest, words.last()) {
                    let name = ended.name;
                    changes.push(Change::insert(
                        last.end(),
                        format!(" %}}{{% set {name} = {name}|python_macro"),
                    ));
                }
            }
            _ => {
                let is_read = |name: &str| {
                    let of_it = |pair: &[Word<'_>]| pair[0].text != "." && pair[1].text == name;
                    self.words.windows(2).any(of_it)
                        || self.words.first().is_some_and(|word| word.text == name)
                };
                for open in macros {
                    for (takes, (name, _)) in open.takes.iter_mut().zip(REST) {
                        *takes |= is_read(name);
                    }
                }
            }
        }
    }

    /// The first word of the value in `set namespace.name = value`.
    fn value_for_namespace(&self) -> Option<Word<'a>> {
        if self.keyword() != Some("set") {
            return None;
        }
        let equals = self.words.iter().position(|word| word.text == "=")?;
        let is_of_namespace = self.words[..equals].iter().any(|word| word.text == ".");
        self.words.get(equals + 1).filter(|_| is_of_namespace).copied()
    }
}

fn length_of_word(rest: &str, first: char) -> usize {
    let bytes = rest.as_bytes();
    let while_in = |from: usize, is_in: &dyn Fn(char) -> bool| {
        rest[from..].find(|c: char| !is_in(c)).map_or(rest.len(), |end| from + end)
    };
    match first {
        '"' | '\'' => {
            let mut at = 1;
            while at < bytes.len() {
                match bytes[at] {
                    b'\\' => at += 2,
                    byte if byte == first as u8 => return at + 1,
                    _ => at += 1,
                }
            }
            rest.len()
        }
        '0'..='9' => {
            let word = |c: char| c == '_' || c.is_ascii_alphanumeric();
            let mut end = while_in(0, &word);
            if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
                end = while_in(end + 1, &word);
            }
            let is_exponent = rest[..end].ends_with(['e', 'E']) && !rest.starts_with("0x");
            if is_exponent && bytes.get(end).is_some_and(|sign| b"+-".contains(sign)) {
                end = while_in(end + 1, &|c| c.is_ascii_digit());
            }
            end
        }
        c if c == '_' || c.is_alphabetic() => while_in(0, &|c| c == '_' || c.is_alphanumeric()),
        _ if ["**", "//", "==", "!=", "<=", ">="].iter().any(|two| rest.starts_with(two)) => 2,
        c => c.len_utf8(),
    }
}

/// An operator's left side, and the pending call after its right side.
#[derive(Default)]
struct Operation {
    start: Option<usize>,
    is_open: bool,
}

impl Operation {
    /// Writes `left + right` as `(left)|filter(right)`; the call is closed later.
    fn call(&mut self, operator: &Word<'_>, filter: &'static str, changes: &mut Vec<Change>) {
        let start = self.start.unwrap_or(operator.start);
        changes.push(Change::insert(start, "("));
        changes.push(Change { start: operator.start, end: operator.end(), text: filter.into() });
        self.is_open = true;
    }

    fn close(&mut self, before: Option<Word<'_>>, changes: &mut Vec<Change>) {
        if std::mem::take(&mut self.is_open) {
            let at = before.map_or(0, |word| word.end());
            changes.push(Change::insert(at, ")"));
        }
    }
}

/// What is open between one pair of brackets.
#[derive(Default)]
struct Level {
    sum: Operation,
    product: Operation,
}

impl Level {
    fn operand(&mut self, start: usize) {
        self.sum.start.get_or_insert(start);
        self.product.start.get_or_insert(start);
    }

    fn end_product(&mut self, before: Option<Word<'_>>, changes: &mut Vec<Change>) {
        self.product.close(before, changes);
        self.product.start = None;
    }

    fn end_sum(&mut self, before: Option<Word<'_>>, changes: &mut Vec<Change>) {
        self.end_product(before, changes);
        self.sum.close(before, changes);
    }
}

/// Writes `a / b % c` as `(a / b)|python_modulo(c)`, and `*` and `+` likewise. As in Jinja2, comparisons and other
/// operators bind loosest, then `+` and `-`, `~`, products, powers, and finally filters and tests.
fn arithmetic(words: &[Word<'_>], is_block: bool, changes: &mut Vec<Change>) {
    let mut levels = vec![Level::default()];
    let mut before: Option<Word<'_>> = None;
    for (i, word) in words.iter().enumerate() {
        let Some(level) = levels.last_mut() else { return };
        let ends_operand = |word: &Word<'_>| {
            word.is_value && !(word.is_name && is_operator(word.text)) || matches!(word.text, ")" | "]" | "}")
        };
        let follows = |text: &str| before.as_ref().is_some_and(|word| word.text == text);
        let follows_operand = before.as_ref().is_some_and(ends_operand) && !(is_block && i == 1);
        match word.text {
            "(" | "[" | "{" => {
                level.operand(word.start);
                levels.push(Level::default());
            }
            ")" | "]" | "}" => {
                level.end_sum(before, changes);
                if levels.len() > 1 {
                    levels.pop();
                }
            }
            "%" if follows_operand => {
                level.product.close(before, changes);
                level.product.call(word, ")|python_modulo(", changes);
            }
            "*" if follows_operand => {
                level.product.close(before, changes);
                level.product.call(word, ")|python_multiply(", changes);
            }
            "/" | "//" => level.product.close(before, changes),
            "~" => level.end_product(before, changes),
            "-" if follows_operand => level.end_sum(before, changes),
            "+" if follows_operand => {
                level.end_sum(before, changes);
                level.sum.call(word, ")|python_add(", changes);
            }
            "-" => level.operand(word.start),
            "+" => {
                level.operand(word.start);
                changes.push(Change { start: word.start, end: word.end(), text: "- -".into() });
            }
            "**" | "." | "|" | "is" => {}
            "not" | "in" if follows("is") => {}
            text if !word.is_value || is_operator(text) && !follows(".") || is_block && i == 0 => {
                level.end_sum(before, changes);
                level.sum.start = None;
            }
            _ => level.operand(word.start),
        }
        before = Some(*word);
    }
    if let Some(level) = levels.last_mut() {
        level.end_sum(before, changes);
    }
}

/// Words that are operators.
fn is_operator(name: &str) -> bool {
    matches!(name, "and" | "or" | "not" | "in" | "is" | "if" | "else" | "recursive")
}
