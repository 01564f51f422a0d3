//! Free conditions on metadata: `extraction_config.extract_resid_out = true and seed >= 3`.
//!
//! ```text
//! condition = all { "or" all }            all  = one { "and" one }
//! one       = "not" one | "(" condition ")" | path [ test ]
//! test      = ("=" | "!=" | "<" | "<=" | ">" | ">=") literal | "~" text | "in" "[" literal { "," literal } "]"
//! path      = name { "." name }           name = letters, digits, "_", "-", "$", or `anything` between backquotes
//! literal   = text in double or single quotes | number | "true" | "false" | "null"
//! ```
//!
//! A name that the metadata lacks is looked up under `_store`. A missing value is unequal to everything, and neither
//! smaller nor larger. A path alone holds if its value exists and is neither `false` nor `null`. Strings are ordered
//! among strings, numbers among numbers. `~` holds if a string contains the given one, or a list has it as an element.
//! A comparison holds for a list if it holds for one of its elements: `tags = "good"`, `fields.score > 3`; `!=` holds
//! exactly where `=` does not.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};
use crate::metadata::Metadata;
use crate::query::same;

/// Limit on the nesting of `not` and parentheses.
const DEEPEST: usize = 64;
/// Characters that an error quotes on each side of the place it is about.
const SHOWN: usize = 60;
/// The record's key for the fields of each row, or a summary for fields with many values.
const FIELDS: &str = "fields";
const DISTINCT: &str = "distinct";

/// A condition on the metadata of a run. Its `Display` form parses back.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// One of them holds.
    Any(Vec<Condition>),
    /// All of them hold.
    All(Vec<Condition>),
    /// It does not hold.
    Not(Box<Condition>),
    /// A value exists and is neither `false` nor `null`.
    There(Path),
    /// A comparison.
    Compare(Path, Comparison, Value),
    /// Equal to one of these values.
    In(Path, Vec<Value>),
}

/// The path of a value: names from the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(Vec<String>);

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `!=`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
    /// `~`
    Contains,
}

const COMPARISONS: &[(&str, Comparison)] = &[
    // Longer operators first: `<=` is not `<`.
    ("!=", Comparison::Unequal),
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("==", Comparison::Equal),
    ("=", Comparison::Equal),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
    ("~", Comparison::Contains),
];

impl Condition {
    /// Whether it holds for a run.
    pub fn holds(&self, metadata: &Metadata) -> bool {
        match self {
            Condition::Any(conditions) => conditions.iter().any(|c| c.holds(metadata)),
            Condition::All(conditions) => conditions.iter().all(|c| c.holds(metadata)),
            Condition::Not(condition) => !condition.holds(metadata),
            Condition::There(path) => {
                path.find(metadata).is_some_and(|v| !matches!(*v, Value::Null | Value::Bool(false)))
            }
            Condition::In(path, values) => {
                let found = path.find(metadata);
                values.iter().any(|value| compare(found.as_deref(), Comparison::Equal, value))
            }
            Condition::Compare(path, comparison, value) => {
                compare(path.find(metadata).as_deref(), *comparison, value)
            }
        }
    }

    /// Whether it may hold for a run, by the record alone: rows may have more values than the record lists.
    pub(crate) fn may_hold(&self, metadata: &Metadata) -> bool {
        self.asks_rows(metadata) || self.holds(metadata)
    }

    /// Whether it uses a row field for which the record only counts the values.
    pub(crate) fn asks_rows(&self, metadata: &Metadata) -> bool {
        self.paths().into_iter().any(|path| path.counted_field(metadata).is_some())
    }

    /// Whether it holds for a run whose rows have these values.
    pub(crate) fn holds_with(&self, metadata: &Metadata, values: &Map<String, Value>) -> bool {
        let mut metadata = metadata.clone();
        for path in self.paths() {
            let Some(name) = path.counted_field(&metadata).map(str::to_owned) else { continue };
            let fields = metadata.fields_mut().get_mut(FIELDS).and_then(Value::as_object_mut);
            if let (Some(fields), Some(rows @ Value::Array(_))) = (fields, values.get(&name)) {
                fields.insert(name, rows.clone());
            }
        }
        self.holds(&metadata)
    }

    /// Its comparisons with a single value.
    pub fn comparisons(&self) -> Vec<(&Path, &Value)> {
        match self {
            Condition::Any(conditions) | Condition::All(conditions) => {
                conditions.iter().flat_map(Condition::comparisons).collect()
            }
            Condition::Not(condition) => condition.comparisons(),
            Condition::Compare(path, _, value) => vec![(path, value)],
            Condition::In(path, values) => values.iter().map(|value| (path, value)).collect(),
            Condition::There(_) => Vec::new(),
        }
    }

    /// Every path that it uses.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Condition::Any(conditions) | Condition::All(conditions) => {
                conditions.iter().flat_map(Condition::paths).collect()
            }
            Condition::Not(condition) => condition.paths(),
            Condition::There(path) | Condition::In(path, _) | Condition::Compare(path, ..) => vec![path],
        }
    }
}

impl Path {
    /// Whether a run has a value at this path.
    pub fn is_in(&self, metadata: &Metadata) -> bool {
        self.find(metadata).is_some()
    }

    /// The row field that it names, if the record only counts its values: `{"distinct": 400}`, or, in older records,
    /// the bare number.
    fn counted_field<'a>(&'a self, metadata: &Metadata) -> Option<&'a str> {
        let [fields, name] = &self.0[..] else { return None };
        let said = metadata.get(FIELDS).filter(|_| fields == FIELDS)?.get(name)?;
        (said.is_u64() || said.get(DISTINCT).is_some()).then_some(name)
    }

    /// A run's value at this path.
    pub fn find<'a>(&self, metadata: &'a Metadata) -> Option<Cow<'a, Value>> {
        let (first, rest) = self.0.split_first()?;
        // All tags: the one given on saving is stored apart from later ones.
        if first == "tags" && rest.is_empty() && metadata.get(first).is_none() {
            return Some(Cow::Owned(metadata.tags().into()));
        }
        let top = metadata.get(first).or_else(|| metadata.store()?.get(first))?;
        let found = rest.iter().try_fold(top, |value, name| match value {
            Value::Object(map) => map.get(name),
            Value::Array(values) => values.get(name.parse::<usize>().ok()?),
            _ => None,
        });
        found.map(Cow::Borrowed)
    }
}

fn compare(found: Option<&Value>, comparison: Comparison, value: &Value) -> bool {
    let Some(found) = found else { return comparison == Comparison::Unequal };
    if let (Value::Array(values), Comparison::Unequal) = (found, comparison) {
        return !values.iter().any(|found| same(found, value));
    }
    if let (Value::Array(values), false) = (found, comparison == Comparison::Contains) {
        return values.iter().any(|found| compare(Some(found), comparison, value));
    }
    match comparison {
        Comparison::Equal => same(found, value),
        Comparison::Unequal => !same(found, value),
        Comparison::Less => order(found, value) == Some(Ordering::Less),
        Comparison::AtMost => order(found, value).is_some_and(Ordering::is_le),
        Comparison::Greater => order(found, value) == Some(Ordering::Greater),
        Comparison::AtLeast => order(found, value).is_some_and(Ordering::is_ge),
        Comparison::Contains => match (found, value) {
            (Value::String(text), Value::String(part)) => text.contains(part.as_str()),
            (Value::Array(values), _) => values.iter().any(|found| same(found, value)),
            _ => false,
        },
    }
}

fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => number_order(a, b),
        _ => None,
    }
}

/// The order of two numbers; integers are compared exactly.
pub(crate) fn number_order(a: &Number, b: &Number) -> Option<Ordering> {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

impl FromStr for Condition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parser = Parser { text, at: 0 };
        let condition = parser.condition(0)?;
        match parser.rest() {
            "" => Ok(condition),
            rest => Err(parser.wrong(&format!("`{}` does not belong here", first_word(rest)))),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn condition(&mut self, depth: usize) -> Result<Condition> {
        let mut conditions = vec![self.all(depth)?];
        while self.word("or") {
            conditions.push(self.all(depth)?);
        }
        Ok(joined(conditions, Condition::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Condition> {
        let mut conditions = vec![self.one(depth)?];
        while self.word("and") {
            conditions.push(self.one(depth)?);
        }
        Ok(joined(conditions, Condition::All))
    }

    fn one(&mut self, depth: usize) -> Result<Condition> {
        if depth > DEEPEST {
            return Err(self.wrong(&format!("nested more than {DEEPEST} deep")));
        }
        if self.word("not") {
            return Ok(Condition::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.sign("(") {
            let inner = self.condition(depth + 1)?;
            return if self.sign(")") { Ok(inner) } else { Err(self.wrong("a `)` is missing")) };
        }
        let path = self.path()?;
        if self.word("in") {
            return Ok(Condition::In(path, self.list()?));
        }
        match COMPARISONS.iter().find(|(sign, _)| self.sign(sign)) {
            Some((_, comparison)) => Ok(Condition::Compare(path, *comparison, self.literal()?)),
            None => Ok(Condition::There(path)),
        }
    }

    fn path(&mut self) -> Result<Path> {
        let mut names = vec![self.name()?];
        while self.sign(".") {
            names.push(self.name()?);
        }
        Ok(Path(names))
    }

    fn name(&mut self) -> Result<String> {
        let rest = self.rest();
        if let Some(quoted) = rest.strip_prefix('`') {
            let Some(end) = quoted.find('`') else {
                return Err(self.wrong("a closing backquote is missing"));
            };
            self.at += end + 2;
            return Ok(quoted[..end].to_owned());
        }
        let end = rest.find(|c| !in_name(c)).unwrap_or(rest.len());
        if end == 0 {
            return Err(self.wrong("the name of a key is missing"));
        }
        self.at += end;
        Ok(rest[..end].to_owned())
    }

    fn list(&mut self) -> Result<Vec<Value>> {
        if !self.sign("[") {
            return Err(self.wrong("after `in` comes a list: [1, 2]"));
        }
        let mut values = vec![self.literal()?];
        while self.sign(",") {
            values.push(self.literal()?);
        }
        if self.sign("]") { Ok(values) } else { Err(self.wrong("a `]` is missing")) }
    }

    fn literal(&mut self) -> Result<Value> {
        for (word, value) in
            [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)]
        {
            if self.word(word) {
                return Ok(value);
            }
        }
        let rest = self.rest();
        if rest.starts_with(['"', '\'']) {
            return self.quoted();
        }
        let end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))).unwrap_or(rest.len());
        match rest[..end].parse::<Number>() {
            Ok(number) => {
                self.at += end;
                Ok(Value::Number(number))
            }
            Err(_) if rest.is_empty() => Err(self.wrong("a value is missing")),
            Err(_) => Err(self.wrong(&format!("`{}` is not a value: put text in quotes", first_word(rest)))),
        }
    }

    fn quoted(&mut self) -> Result<Value> {
        let mut text = String::new();
        let rest = self.rest();
        let mut chars = rest.char_indices();
        let quote = chars.next().map(|(_, c)| c);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c)) => text.push(c),
                    None => break,
                },
                c if Some(c) == quote => {
                    self.at += at + 1;
                    return Ok(Value::String(text));
                }
                c => text.push(c),
            }
        }
        Err(self.wrong("a closing quote is missing"))
    }

    /// Takes a keyword, in any case, if it comes next.
    fn word(&mut self, word: &str) -> bool {
        let rest = self.rest();
        let Some(found) = rest.get(..word.len()) else { return false };
        let is_it =
            found.eq_ignore_ascii_case(word) && !rest[word.len()..].starts_with(|c| in_name(c) || c == '.');
        if is_it {
            self.at += word.len();
        }
        is_it
    }

    fn sign(&mut self, sign: &str) -> bool {
        let is_it = self.rest().starts_with(sign);
        if is_it {
            self.at += sign.len();
        }
        is_it
    }

    /// The remaining text, without leading spaces.
    fn rest(&mut self) -> &'a str {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        rest
    }

    fn wrong(&self, what: &str) -> Error {
        let (before, after) = self.text.split_at(self.at);
        let place = before.chars().count();
        let skipped: String = before.chars().skip(place.saturating_sub(SHOWN)).collect();
        let shown: String = after.chars().take(SHOWN).collect();
        let cut = |is_cut: bool| if is_cut { "…" } else { "" };
        let (start, end) = (cut(skipped.len() < before.len()), cut(shown.len() < after.len()));
        Error::input(format!("condition `{start}{skipped}{shown}{end}`: at character {}: {what}", place + 1))
            .hint("a condition is `seed >= 3 and extraction_config.extract_resid_out = true`")
    }
}

fn joined(mut conditions: Vec<Condition>, join: impl Fn(Vec<Condition>) -> Condition) -> Condition {
    if conditions.len() == 1 { conditions.remove(0) } else { join(conditions) }
}

fn in_name(c: char) -> bool {
    c.is_alphanumeric() || "_-$".contains(c)
}

fn first_word(text: &str) -> &str {
    let word = text.split_whitespace().next().unwrap_or(text);
    word.char_indices().nth(SHOWN).map_or(word, |(end, _)| &word[..end])
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = |f: &mut fmt::Formatter<'_>, condition: &Condition| match condition {
            Condition::Any(_) | Condition::All(_) => write!(f, "({condition})"),
            _ => write!(f, "{condition}"),
        };
        match self {
            Condition::Any(conditions) | Condition::All(conditions) => {
                let word = if matches!(self, Condition::Any(_)) { " or " } else { " and " };
                for (i, condition) in conditions.iter().enumerate() {
                    f.write_str(if i == 0 { "" } else { word })?;
                    within(f, condition)?;
                }
                Ok(())
            }
            Condition::Not(condition) => {
                f.write_str("not ")?;
                within(f, condition)
            }
            Condition::There(path) => write!(f, "{path}"),
            Condition::Compare(path, comparison, value) => {
                let sign =
                    COMPARISONS.iter().rfind(|(_, found)| found == comparison).map_or("=", |(sign, _)| sign);
                write!(f, "{path} {sign} ")?;
                write_literal(f, value)
            }
            Condition::In(path, values) => {
                write!(f, "{path} in [")?;
                for (i, value) in values.iter().enumerate() {
                    f.write_str(if i == 0 { "" } else { ", " })?;
                    write_literal(f, value)?;
                }
                f.write_str("]")
            }
        }
    }
}

fn write_literal(f: &mut fmt::Formatter<'_>, value: &Value) -> fmt::Result {
    let Value::String(text) = value else { return write!(f, "{value}") };
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t");
    write!(f, "\"{escaped}\"")
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = ["and", "or", "not", "in", "true", "false", "null"];
        for (i, name) in self.0.iter().enumerate() {
            let plain = !name.is_empty() && name.chars().all(in_name);
            let plain = plain && !words.iter().any(|word| name.eq_ignore_ascii_case(word));
            let dot = if i == 0 { "" } else { "." };
            if plain { write!(f, "{dot}{name}")? } else { write!(f, "{dot}`{name}`")? }
        }
        Ok(())
    }
}
