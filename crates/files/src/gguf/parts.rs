//! Models split over several files, as `llama-gguf-split` writes them: `NAME-00001-of-00003.gguf`, counted from 1. The first
//! holds the metadata; every part says under `split.no` (from 0), `split.count` and `split.tensors.count` which it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Gguf;
use crate::{Error, MappedFile, Result};

/// The part of a split model that a file name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartName {
    prefix: String,
    number: u32,
    count: u32,
    ending: String,
}

impl PartName {
    /// Reads `NAME-00002-of-00003.gguf`; `None` for every other name.
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, ending) = name.split_at_checked(name.len().checked_sub(".gguf".len())?)?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| {
            let is_number = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse().ok())?
        };
        let (number, count) = (digits(number)?, digits(count)?);
        let is_part = ending.eq_ignore_ascii_case(".gguf") && (1..=count).contains(&number);
        is_part.then(|| PartName { prefix: prefix.to_owned(), number, count, ending: ending.to_owned() })
    }

    /// What all parts have in common: `NAME`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Which part it is, from 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How many parts there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The names of all parts, the first one first.
    pub fn all(&self) -> impl Iterator<Item = String> {
        let PartName { prefix, count, ending, .. } = self;
        (1..=*count).map(move |number| format!("{prefix}-{number:05}-of-{count:05}{ending}"))
    }
}

/// What a file says of the split that it is a part of: which part, of how many, with how many tensors in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Split {
    number: u64,
    count: u64,
    tensors: Option<u64>,
}

impl Split {
    /// `None` for a model that is whole.
    fn of(gguf: &Gguf) -> Result<Option<Self>> {
        let Some(count) = gguf.u64("split.count")?.filter(|&count| count > 1) else { return Ok(None) };
        let number = gguf.u64("split.no")?.ok_or_else(|| {
            Error::malformed(format!("is one of {count} parts of a split model, but `split.no` is missing"))
        })?;
        Ok(Some(Split { number, count, tensors: gguf.u64("split.tensors.count")? }))
    }
}

/// A file and what it says.
type Read = (MappedFile, Gguf);

/// The file, where it is whole, or all parts of the model that it is a part of, in order.
pub(super) fn gather(map: MappedFile) -> Result<Vec<Read>> {
    let asked = read(map)?;
    let place = asked.0.path().to_owned();
    match Split::of(&asked.1).map_err(|e| e.within(place.display()))? {
        None => Ok(vec![asked]),
        Some(split) => siblings(asked, split, &place).map_err(|e| e.within(place.display())),
    }
}

fn siblings(asked: Read, split: Split, place: &Path) -> Result<Vec<Read>> {
    let here = format!("is part {} of {} of a split model", split.number.saturating_add(1), split.count);
    let name = place.file_name().and_then(|name| name.to_str()).and_then(PartName::parse);
    let fits = |name: &PartName| {
        u64::from(name.count) == split.count && u64::from(name.number) == split.number.saturating_add(1)
    };
    let name = name.filter(fits).ok_or_else(|| {
        Error::unsupported(format!(
            "{here}, and its name says otherwise: the parts are found by their names, NAME-00001-of-{:05}.gguf and on",
            split.count
        ))
    })?;
    let folder = place.parent().unwrap_or(Path::new(""));
    let missing: Vec<String> = name.all().filter(|part| !folder.join(part).is_file()).collect();
    if let [first, rest @ ..] = missing.as_slice() {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        return Err(Error::missing(format!("{here}; `{first}`{more} is not beside it")));
    }
    let mut asked = Some(asked);
    let mut parts = Vec::new();
    for (part, number) in name.all().zip(0_u64..) {
        let this = match asked.take_if(|_| number == split.number) {
            Some(asked) => asked,
            None => read(MappedFile::open(folder.join(&part))?)?,
        };
        let expected = Split { number, ..split };
        match Split::of(&this.1).map_err(|e| e.within(format_args!("`{part}`")))? {
            Some(found) if found == expected => parts.push(this),
            found => return Err(other_set(&part, expected, found)),
        }
    }
    check_tensors(&parts, split)?;
    Ok(parts)
}

fn read(map: MappedFile) -> Result<Read> {
    let gguf = Gguf::parse(map.bytes());
    // What a file says that changes under the reader's eyes is of no account.
    map.check_unchanged()?;
    let gguf = gguf.map_err(|e| e.within(map.path().display()))?;
    Ok((map, gguf))
}

fn other_set(part: &str, expected: Split, found: Option<Split>) -> Error {
    let says = |split: Split| {
        let tensors = split.tensors.map_or_else(String::new, |tensors| format!(", {tensors} tensors in all"));
        format!("part {} of {}{tensors}", split.number.saturating_add(1), split.count)
    };
    let found = found.map_or_else(|| "a whole model".to_owned(), says);
    Error::malformed(format!(
        "`{part}` is of another set: it says that it is {found}, not {}",
        says(expected)
    ))
}

fn check_tensors(parts: &[Read], split: Split) -> Result<()> {
    let found: usize = parts.iter().map(|(_, gguf)| gguf.tensors.len()).sum();
    if split.tensors.is_some_and(|said| said != found as u64) {
        let said = split.tensors.unwrap_or_default();
        return Err(Error::malformed(format!("the parts hold {found} tensors; they say {said} in all")));
    }
    let architectures: BTreeSet<&str> =
        parts.iter().filter_map(|(_, gguf)| gguf.str("general.architecture").ok()?).collect();
    if architectures.len() > 1 {
        return Err(Error::malformed(format!("the parts are of different architectures: {architectures:?}")));
    }
    let mut places = BTreeMap::new();
    for (map, gguf) in parts {
        for tensor in &gguf.tensors {
            if let Some(first) = places.insert(tensor.name.as_str(), map.path()) {
                let name = tensor.name.escape_debug();
                return Err(Error::malformed(format!("tensor `{name}` is also in {}", first.display()))
                    .within(map.path().display()));
            }
        }
    }
    Ok(())
}
