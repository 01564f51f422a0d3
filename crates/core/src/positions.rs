//! Resolves `"last"`, `-1`, `(2, 5)`, `"text: Paris"` to token indices, row by row.

mod random;
mod selection;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use easyroutine_sites::{Slice, integer};

use crate::error::{Error, Result};
use random::draw;
pub(crate) use random::uniform;
pub use selection::Selection;

/// A way to name tokens of a row. Positions count the row's real tokens: padding is never addressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Specifier {
    /// `all`: every token.
    All,
    /// `first`: the first token.
    First,
    /// `last` is 1, `last-2` is 2: the token at this distance from the end.
    Last(usize),
    /// A position, negative from the end.
    At(i64),
    /// A range: `4:9`, `4:`, `-3:`, `0:30:5`.
    Span(Slice),
    /// `special`: the tokenizer's special tokens.
    Special,
    /// `all-text`: every token that is not special.
    AllText,
    /// `random-text` and `random-text-N`: that many of them, drawn without replacement.
    RandomText(usize),
    /// `inputs-partition-N`: a group of tokens divided by the pivots.
    Partition(usize),
    /// `random-inputs-partition-N[-K]`: K tokens of a group, drawn without replacement.
    RandomPartition(usize, usize),
    /// `text:SUBSTRING`: the tokens that cover every occurrence of a substring.
    Text(String),
}

/// A row, for specifiers that need more than its length.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Number of the row in the data set; names it in errors and seeds its draws.
    pub number: usize,
    /// Its token ids.
    pub ids: &'a [u32],
    /// Its text with the byte span of each token, if known.
    pub text: Option<(&'a str, &'a [(usize, usize)])>,
    /// How many of its last tokens continue the prompt. `all` includes them; every other specifier refers to the
    /// prompt.
    pub n_new: usize,
}

impl<'a> Row<'a> {
    /// A row of token ids without text, all of them the prompt's.
    pub fn of(number: usize, ids: &'a [u32]) -> Self {
        Row { number, ids, text: None, n_new: 0 }
    }

    /// The row before it was continued.
    #[must_use]
    pub fn prompt(self) -> Self {
        let length = self.ids.len().saturating_sub(self.n_new);
        Row { ids: &self.ids[..length], n_new: 0, ..self }
    }
}

/// The context that all rows share.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context<'a> {
    /// The tokenizer's special ids.
    pub special: &'a [u32],
    /// Positions at which a new group starts.
    pub pivots: &'a [i64],
    /// Seed of all draws.
    pub seed: u64,
}

/// The selected tokens of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// Indices in the row, in the requested order, including duplicates: T of them.
    pub indices: Vec<usize>,
    /// For each specifier, its columns among the T.
    pub groups: Vec<Range<usize>>,
}

impl Selected {
    /// The columns without those of tokens that an earlier column has: a sum over tokens counts each once, however
    /// often it was named.
    pub fn distinct(&self) -> Vec<usize> {
        let mut seen = BTreeSet::new();
        (0..self.indices.len()).filter(|column| seen.insert(self.indices[*column])).collect()
    }

    /// The indices as a range, if they form one without duplicates.
    pub(crate) fn as_range(&self) -> Option<Range<usize>> {
        let first = *self.indices.first()?;
        let is_range = self.indices.iter().enumerate().all(|(i, index)| *index == first + i);
        is_range.then(|| first..first + self.indices.len())
    }
}

/// Selects the tokens of one row.
///
/// # Errors
/// If a position is outside the row (row, position and length are named), a substring does not occur, a group does not
/// exist, there are more draws than tokens, or nothing is selected.
pub fn select(specifiers: &[Specifier], row: Row<'_>, context: Context<'_>) -> Result<Selected> {
    let mut selected = Selected { indices: Vec::new(), groups: Vec::with_capacity(specifiers.len()) };
    for specifier in specifiers {
        let start = selected.indices.len();
        match specifier {
            Specifier::All => selected.indices.extend(0..row.ids.len()),
            _ => selected.indices.extend(specifier.indices(row.prompt(), context)?),
        }
        selected.groups.push(start..selected.indices.len());
    }
    if selected.indices.is_empty() {
        let names: Vec<String> = specifiers.iter().map(ToString::to_string).collect();
        return Err(Error::input(format!(
            "row {}: no token is selected by {}",
            row.number,
            names.join(", ")
        )));
    }
    Ok(selected)
}

impl Specifier {
    /// Parses a comma-separated list, as on the command line. `text:` takes the rest of the list, commas included.
    ///
    /// # Errors
    /// If a word is not a specifier.
    pub fn parse_list(text: &str) -> Result<Vec<Specifier>> {
        let mut list = Vec::new();
        let mut rest = text;
        loop {
            if rest.trim_start().starts_with("text:") {
                list.push(rest.trim_start().parse()?);
                return Ok(list);
            }
            let (one, more) = rest.split_once(',').map_or((rest, None), |(a, b)| (a, Some(b)));
            list.push(one.trim().parse()?);
            match more {
                Some(more) => rest = more,
                None => return Ok(list),
            }
        }
    }

    /// Parses several lists and joins them.
    ///
    /// # Errors
    /// As [`Specifier::parse_list`].
    pub fn parse_lists(texts: &[String]) -> Result<Vec<Specifier>> {
        let lists: Result<Vec<_>> = texts.iter().map(|text| Specifier::parse_list(text)).collect();
        Ok(lists?.into_iter().flatten().collect())
    }

    /// The specifier as a JSON key: `5`, `[4,9]`, `4:`, `last`.
    pub fn key(&self) -> String {
        match self {
            Specifier::Span(Slice { start: Some(start), end: Some(end), step: 1 }) => {
                format!("[{start},{end}]")
            }
            other => other.to_string(),
        }
    }

    fn indices(&self, row: Row<'_>, context: Context<'_>) -> Result<Vec<usize>> {
        let length = row.ids.len();
        let is_special = |i: &usize| context.special.contains(&row.ids[*i]);
        match self {
            Specifier::All => Ok((0..length).collect()),
            Specifier::First => Ok(vec![0]),
            Specifier::Last(n) => Ok(vec![self.resolve(-(*n as i64), row)?]),
            Specifier::At(n) => Ok(vec![self.resolve(*n, row)?]),
            Specifier::Span(slice) => self.span(slice, row),
            Specifier::Special => Ok((0..length).filter(is_special).collect()),
            Specifier::AllText => Ok((0..length).filter(|i| !is_special(i)).collect()),
            Specifier::RandomText(count) => {
                let text: Vec<usize> = (0..length).filter(|i| !is_special(i)).collect();
                self.drawn(text, *count, row, context)
            }
            Specifier::Partition(group) => self.partition(*group, row, context),
            Specifier::RandomPartition(group, count) => {
                self.drawn(self.partition(*group, row, context)?, *count, row, context)
            }
            Specifier::Text(wanted) => self.covering(wanted, row),
        }
    }

    /// The index of a position that may count from the end.
    fn resolve(&self, position: i64, row: Row<'_>) -> Result<usize> {
        let length = row.ids.len() as i64;
        let index = if position < 0 { position + length } else { position };
        if (0..length).contains(&index) {
            return Ok(index as usize);
        }
        Err(Error::input(format!(
            "row {}: position `{self}` is outside the row, which has {length} tokens (0 to {}, or -{length} to -1)",
            row.number,
            length - 1
        )))
    }

    fn span(&self, slice: &Slice, row: Row<'_>) -> Result<Vec<usize>> {
        let length = row.ids.len();
        slice.of(length).map(Iterator::collect).map_err(|_| {
            Error::input(format!(
                "row {}: range `{self}` does not fit the row, which has {length} tokens",
                row.number
            ))
        })
    }

    fn partition(&self, group: usize, row: Row<'_>, context: Context<'_>) -> Result<Vec<usize>> {
        let mut cuts = vec![0];
        for pivot in context.pivots {
            cuts.push(Specifier::At(*pivot).resolve(*pivot, row)?);
        }
        cuts.push(row.ids.len());
        cuts.sort_unstable();
        cuts.dedup();
        let groups = cuts.len() - 1;
        if group >= groups {
            return Err(Error::input(format!(
                "row {}: `{self}` does not exist; the pivots cut the row into {groups} groups (0 to {})",
                row.number,
                groups - 1
            )));
        }
        Ok((cuts[group]..cuts[group + 1]).collect())
    }

    fn drawn(
        &self,
        from: Vec<usize>,
        count: usize,
        row: Row<'_>,
        context: Context<'_>,
    ) -> Result<Vec<usize>> {
        if from.len() < count {
            return Err(Error::input(format!(
                "row {}: `{self}` asks for {count} tokens but there are {}",
                row.number,
                from.len()
            )));
        }
        Ok(draw(from, count, context.seed, &self.to_string(), row.number))
    }

    fn covering(&self, wanted: &str, row: Row<'_>) -> Result<Vec<usize>> {
        let Some((text, spans)) = row.text else {
            return Err(Error::input(format!(
                "row {}: `{self}` needs the text, but the row was given as token ids",
                row.number
            )));
        };
        let mut found = vec![false; spans.len()];
        let mut from = 0;
        while let Some(at) = text[from..].find(wanted) {
            let (start, end) = (from + at, from + at + wanted.len());
            for (token, (a, b)) in spans.iter().enumerate() {
                found[token] |= a < b && *a < end && *b > start;
            }
            from = start + wanted.chars().next().map_or(1, char::len_utf8);
        }
        let indices: Vec<usize> = (0..spans.len()).filter(|i| found[*i]).collect();
        if indices.is_empty() {
            return Err(Error::input(format!("row {}: the text does not contain {wanted:?}", row.number)));
        }
        Ok(indices)
    }
}

impl fmt::Display for Specifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Specifier::All => f.write_str("all"),
            Specifier::First => f.write_str("first"),
            Specifier::Last(1) => f.write_str("last"),
            Specifier::Last(n) => write!(f, "last-{n}"),
            Specifier::At(n) => write!(f, "{n}"),
            Specifier::Span(slice) => slice.fmt(f),
            Specifier::Special => f.write_str("special"),
            Specifier::AllText => f.write_str("all-text"),
            Specifier::RandomText(1) => f.write_str("random-text"),
            Specifier::RandomText(n) => write!(f, "random-text-{n}"),
            Specifier::Partition(n) => write!(f, "inputs-partition-{n}"),
            Specifier::RandomPartition(n, 1) => write!(f, "random-inputs-partition-{n}"),
            Specifier::RandomPartition(n, k) => write!(f, "random-inputs-partition-{n}-{k}"),
            Specifier::Text(text) => write!(f, "text:{text}"),
        }
    }
}

impl FromStr for Specifier {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || {
            let shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
            Error::input(format!("`{shown}` names no token positions")).hint(
                "positions are: all, first, last, last-2, 5, -1, 4:9, 4:, 0:30:5, special, all-text, random-text-3, \
                 inputs-partition-0, random-inputs-partition-0, text:SUBSTRING",
            )
        };
        let image = ["all-image", "last-image", "end-image", "random-image"];
        if image.iter().any(|name| text.starts_with(name)) {
            return Err(Error::input(format!("`{text}` is for vision models, which are not built")));
        }
        let count = |digits: &str| whole(digits).filter(|n| *n > 0).map(|n| n as usize).ok_or_else(unknown);
        let group = |digits: &str| whole(digits).map(|n| n as usize).ok_or_else(unknown);
        let fixed = match text {
            "all" => Specifier::All,
            "first" => Specifier::First,
            "last" => Specifier::Last(1),
            "special" => Specifier::Special,
            "all-text" => Specifier::AllText,
            "random-text" => Specifier::RandomText(1),
            _ => {
                return if let Some(wanted) = text.strip_prefix("text:") {
                    if wanted.is_empty() { Err(unknown()) } else { Ok(Specifier::Text(wanted.to_owned())) }
                } else if let Some(n) = text.strip_prefix("last-") {
                    count(n).map(Specifier::Last)
                } else if let Some(n) = text.strip_prefix("random-text-") {
                    count(n).map(Specifier::RandomText)
                } else if let Some(n) = text.strip_prefix("inputs-partition-") {
                    group(n).map(Specifier::Partition)
                } else if let Some(rest) = text.strip_prefix("random-inputs-partition-") {
                    let (n, k) = rest.split_once('-').unwrap_or((rest, "1"));
                    Ok(Specifier::RandomPartition(group(n)?, count(k)?))
                } else {
                    let slice = || text.parse().ok().map(Specifier::Span);
                    integer(text).map(Specifier::At).or_else(slice).ok_or_else(unknown)
                };
            }
        };
        Ok(fixed)
    }
}

/// A number that does not count from the end.
fn whole(text: &str) -> Option<i64> {
    integer(text).filter(|_| !text.starts_with('-'))
}
