//! Stored (uncompressed) members of a zip archive (PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3).

use std::collections::BTreeMap;

use crate::{Error, Result};

/// Members by name, as slices of the file.
pub(crate) struct Archive<'a> {
    members: BTreeMap<String, &'a [u8]>,
}

/// Limit on members: PyTorch writes one per storage, NumPy one per array.
const MOST: usize = 1_000_000;

impl<'a> Archive<'a> {
    /// Reads the directory. `writer` names, in errors, the program that writes such files.
    pub(crate) fn new(file: &'a [u8], writer: &str) -> Result<Self> {
        let (mut at, count) = directory(file).ok_or_else(|| {
            Error::malformed(format!("is not a zip archive, or is cut short: {writer} writes one"))
        })?;
        if count > MOST {
            return Err(Error::malformed(format!("claims {count} members; {MOST} is the limit")));
        }
        let mut members = BTreeMap::new();
        for number in 0..count {
            let (name, content, next) = member(file, at)
                .map_err(|what| Error::malformed(format!("member {number} of the archive: {what}")))?;
            if members.insert(name, content).is_some() {
                return Err(Error::malformed(format!(
                    "member {number} of the archive has the name of another"
                )));
            }
            at = next;
        }
        Ok(Archive { members })
    }

    /// Every member with its name, sorted by name.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &'a [u8])> {
        self.members.iter().map(|(name, content)| (name.as_str(), *content))
    }

    pub(crate) fn member(&self, name: &str) -> Option<&'a [u8]> {
        self.members.get(name).copied()
    }

    /// The only member of this name in a top-level folder, with the folder.
    pub(crate) fn only(&self, name: &str) -> Option<(&str, &'a [u8])> {
        let mut found = self.members.iter().filter_map(|(path, content)| {
            let folder = path.strip_suffix(name)?;
            (folder.ends_with('/') && folder.matches('/').count() == 1).then_some((folder, *content))
        });
        found.next().filter(|_| found.next().is_none())
    }
}

/// The start of the central directory, and the number of members it lists.
fn directory(file: &[u8]) -> Option<(usize, usize)> {
    // The end record has 22 bytes and a comment of at most 65535.
    let lowest = file.len().saturating_sub(22 + 65_535);
    let end =
        (lowest..=file.len().checked_sub(22)?).rev().find(|at| file[*at..].starts_with(b"PK\x05\x06"))?;
    let (count, offset) = (number(file, end + 10, 2)?, number(file, end + 16, 4)?);
    if count < 0xFFFF && offset < 0xFFFF_FFFF {
        return Some((usize::try_from(offset).ok()?, usize::try_from(count).ok()?));
    }
    let locator = end.checked_sub(20)?;
    if !file.get(locator..)?.starts_with(b"PK\x06\x07") {
        return None;
    }
    let record = usize::try_from(number(file, locator + 8, 8)?).ok()?;
    if !file.get(record..)?.starts_with(b"PK\x06\x06") {
        return None;
    }
    let (count, offset) =
        (number(file, record.checked_add(32)?, 8)?, number(file, record.checked_add(48)?, 8)?);
    Some((usize::try_from(offset).ok()?, usize::try_from(count).ok()?))
}

/// Name and content of the member whose directory entry is at `at`, and the start of the next entry.
fn member(file: &[u8], at: usize) -> std::result::Result<(String, &[u8], usize), &'static str> {
    const SHORT: &str = "the file is cut short";
    if !file.get(at..).is_some_and(|entry| entry.starts_with(b"PK\x01\x02")) {
        return Err("its entry is not where the directory has it");
    }
    let read = |place: usize, width| number(file, at + place, width).ok_or(SHORT);
    let (method, flags) = (read(10, 2)?, read(8, 2)?);
    if method != 0 || flags & 1 != 0 {
        return Err("is compressed or encrypted; only members that are stored as they are can be mapped");
    }
    let (mut packed, mut size, mut header) = (read(20, 4)?, read(24, 4)?, read(42, 4)?);
    let (name_len, extra_len, comment_len) =
        (read(28, 2)? as usize, read(30, 2)? as usize, read(32, 2)? as usize);
    let name = file.get(at + 46..at + 46 + name_len).ok_or(SHORT)?;
    let mut extra = file.get(at + 46 + name_len..at + 46 + name_len + extra_len).ok_or(SHORT)?;
    while extra.len() >= 4 {
        let length = usize::from(u16::from_le_bytes([extra[2], extra[3]]));
        let (field, rest) = (extra.get(4..4 + length).ok_or(SHORT)?, &extra[4 + length..]);
        // ZIP64: the numbers that did not fit, in this order.
        if extra[..2] == [1, 0] {
            let mut wide =
                field.chunks_exact(8).map(|x| x.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte)));
            for number in [&mut size, &mut packed, &mut header] {
                if *number == 0xFFFF_FFFF {
                    *number = wide.next().ok_or(SHORT)?;
                }
            }
        }
        extra = rest;
    }
    if packed != size {
        return Err("its two lengths differ, though it is stored as it is");
    }
    let header = usize::try_from(header).map_err(|_| SHORT)?;
    if !file.get(header..).is_some_and(|local| local.starts_with(b"PK\x03\x04")) {
        return Err("its content is not where the directory has it");
    }
    let lengths = (number(file, header + 26, 2).ok_or(SHORT)?, number(file, header + 28, 2).ok_or(SHORT)?);
    let start = header + 30 + lengths.0 as usize + lengths.1 as usize;
    let end = usize::try_from(size).ok().and_then(|size| start.checked_add(size)).ok_or(SHORT)?;
    let content = file.get(start..end).ok_or(SHORT)?;
    let name = std::str::from_utf8(name).map_err(|_| "its name is not UTF-8")?;
    Ok((name.to_owned(), content, at + 46 + name_len + extra_len + comment_len))
}

/// A little-endian number.
fn number(file: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = file.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
}
