//! What a tensor of a GGUF file is in the safetensors checkpoint: llama.cpp's converter undone (`conversion/*.py`).

use super::architecture::Architecture;
use crate::arch::{Arch, State};
use crate::names::{Axes, ColumnGroups, RowOrder, Span, Stored, StoredValues};

/// What a module or tensor of the file is called in the checkpoint, and how it differs.
#[derive(Debug)]
pub(super) struct Rule {
    /// A module of the file, whose `.weight` and `.bias` follow, or a whole name, which goes before.
    pub(super) theirs: &'static str,
    /// The same in the checkpoint, without the layer's prefix. `{}` is an expert or head where there is a tensor of each.
    pub(super) ours: &'static str,
    pub(super) how: How,
}

/// How a tensor of the checkpoint is made of the file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// It is the same.
    Same,
    /// Rows of heads are interleaved for a rotary embedding of neighbouring columns.
    Turned,
    /// 1 was added.
    PlusOne,
    /// The last two axes are the other way round.
    Swapped,
    /// An axis of one element is missing before the last: the taps of a convolution.
    Taps,
    /// It is a vector, whatever the file makes of it.
    Vector,
    /// It is a matrix of one row, whatever the file makes of it.
    OneRow,
    /// The logarithm of minus these numbers.
    Decay,
    /// The same of a vector.
    Decays,
    /// One for each expert or head: the first axis is theirs.
    Each,
    /// What `Each` makes: the tensor of this one.
    One(usize),
    /// The same of one half of its rows: gates (0) or neurons (1) where the file has both in one.
    EachHalf(usize),
    /// What `EachHalf` makes.
    OneHalf(usize, usize),
    /// Gates (0) or neurons (1), to be stacked, of each expert by itself where there are some.
    Stacked(usize),
    /// Gates (0) or neurons (1) of experts, to alternate, with the last two axes the other way round.
    Alternating(usize),
    /// The same of their biases.
    AlternatingBiases(usize),
    /// Queries, keys and values of all heads after one another, to be one head after another.
    ByHead,
    /// The same, to be one group of heads after another.
    ByGroup,
    /// Keys (0) or values (1) of heads from compressed ones.
    KeysAndValues(usize),
    /// Queries, keys and values (0) or gates (1) of a gated delta rule, to be one key head after another.
    KeyHeads(usize),
    /// The value heads of a gated delta rule are the first of each key head, then the second of each, and so on; to be
    /// all of one key head, then all of the next. Rows, last if there are others, or numbers; the rest is as stated.
    ValueHeads(&'static How),
    /// The same of columns.
    ValueColumns,
}

impl How {
    /// Which of several tensors this one is.
    pub(super) fn slot(self) -> usize {
        match self {
            How::Stacked(slot)
            | How::Alternating(slot)
            | How::AlternatingBiases(slot)
            | How::KeysAndValues(slot)
            | How::KeyHeads(slot) => slot,
            _ => 0,
        }
    }

    /// How many tensors of the file make one.
    fn slots(self) -> usize {
        match self {
            How::Stacked(_)
            | How::Alternating(_)
            | How::AlternatingBiases(_)
            | How::KeysAndValues(_)
            | How::KeyHeads(_) => 2,
            _ => 1,
        }
    }
}

/// Most experts or heads that a tensor is taken apart into.
const MOST_EACH: usize = 4096;

impl Rule {
    /// The checkpoint's tensors that a tensor of the file belongs to. `end` is that of its name where the rule is about a
    /// module, and empty otherwise.
    pub(super) fn names(
        &self,
        architecture: &Architecture,
        layer: Option<usize>,
        end: &str,
        shape: &[usize],
    ) -> Vec<(String, How)> {
        let prefix = layer.map_or_else(String::new, |l| architecture.prefix.replace("{}", &l.to_string()));
        let end = if end.is_empty() { String::new() } else { format!(".{end}") };
        let ours = format!("{prefix}{}{end}", self.ours);
        match (self.how, shape) {
            (How::Each, [count, _, ..]) if *count <= MOST_EACH => {
                (0..*count).map(|one| (ours.replace("{}", &one.to_string()), How::One(one))).collect()
            }
            (How::EachHalf(half), [count, _, _]) if *count <= MOST_EACH => {
                let of = |one: usize| (ours.replace("{}", &one.to_string()), How::OneHalf(one, half));
                (0..*count).map(of).collect()
            }
            // Half of a bias of a module is that of its gates or neurons too.
            (how, _) => vec![(ours, how)],
        }
    }
}

/// Where a tensor of the checkpoint is, made of these tensors of the file in the order of their slots: `None` where they
/// are not what it takes.
pub(super) fn stored(how: How, arch: &Arch, parts: &[(usize, &str, &[usize])]) -> Option<Stored> {
    let slots: Vec<usize> = parts.iter().map(|(slot, ..)| *slot).collect();
    if slots != (0..how.slots()).collect::<Vec<usize>>() {
        return None;
    }
    let shape = parts[0].2;
    let numbers = shape.iter().product::<usize>();
    let with = |shape: Vec<usize>, order: RowOrder| Stored { shape: Some(shape), order, ..plain(parts) };
    Some(match how {
        How::Same => plain(parts),
        How::PlusOne => Stored { values: StoredValues::PlusOne, ..plain(parts) },
        How::Decay => Stored { values: StoredValues::MinusExp, ..plain(parts) },
        How::Decays => Stored { values: StoredValues::MinusExp, ..vector(parts, numbers) },
        How::Vector => vector(parts, numbers),
        How::OneRow => with(vec![1, numbers], RowOrder::AsNumbers),
        How::Turned => {
            let d_head = arch.d_head;
            let fits = d_head.is_multiple_of(2) && d_head > 0 && shape.first()?.is_multiple_of(d_head);
            fits.then(|| Stored { order: RowOrder::Interleaved { d_head }, ..plain(parts) })?
        }
        How::Swapped => swapped(parts, RowOrder::AsStored)?,
        How::Taps => match *shape {
            [channels, taps] => with(vec![channels, 1, taps], RowOrder::AsStored),
            _ => return None,
        },
        How::Each | How::EachHalf(_) => return None,
        How::One(one) => match shape {
            [_, columns] => with(vec![*columns], RowOrder::From(one * columns)),
            [_, rows, columns] => with(vec![*rows, *columns], RowOrder::From(one * rows)),
            _ => return None,
        },
        How::OneHalf(one, half) => match *shape {
            [_, rows, columns] if rows % 2 == 0 => {
                with(vec![rows / 2, columns], RowOrder::From(one * rows + half * rows / 2))
            }
            _ => return None,
        },
        How::Stacked(_) if parts[1].2 != shape => return None,
        How::Stacked(_) => match *shape {
            [rows, columns] => with(vec![2 * rows, columns], RowOrder::InTurn(rows)),
            [experts, rows, columns] => with(vec![experts, 2 * rows, columns], RowOrder::InTurn(rows)),
            _ => return None,
        },
        How::Alternating(_) | How::AlternatingBiases(_) if parts[1].2 != shape => return None,
        How::Alternating(_) => {
            let [experts, rows, columns] = *shape else { return None };
            let shape = Some(vec![experts, columns, 2 * rows]);
            Stored { shape, axes: Axes::InOut, order: RowOrder::InTurn(1), ..plain(parts) }
        }
        How::AlternatingBiases(_) => {
            let [experts, rows] = *shape else { return None };
            with(vec![experts, 2 * rows], RowOrder::NumbersInTurn)
        }
        How::ByHead => regrouped(parts, [arch.n_heads, arch.n_heads], arch.d_head)?,
        How::ByGroup => regrouped(parts, [arch.n_heads, arch.n_kv_heads], arch.d_head)?,
        How::KeysAndValues(_) => {
            let (&[heads, rank, keys], &[others, values, other]) = (shape, parts[1].2) else { return None };
            if heads != others || rank != other {
                return None;
            }
            with(vec![heads * (keys + values), rank], RowOrder::KeysAndValues { keys, values, rank })
        }
        How::KeyHeads(_) => key_heads(arch, parts)?,
        How::ValueHeads(how) => value_heads(arch, stored(*how, arch, parts)?, *shape.first()?)?,
        How::ValueColumns => {
            let (keys, _, values, d_value) = delta(arch)?;
            let columns = *shape.last()?;
            let groups = ColumnGroups { groups: keys, blocks: values.checked_div(keys)? };
            let fits = columns == values * d_value && groups.groups * groups.blocks == values;
            fits.then(|| Stored { columns: (groups.blocks > 1).then_some(groups), ..plain(parts) })?
        }
    })
}

fn plain(parts: &[(usize, &str, &[usize])]) -> Stored {
    let tensors = parts.iter().map(|(_, name, _)| (*name).to_owned()).collect();
    Stored { tensors, ..Stored::plain("") }
}

fn vector(parts: &[(usize, &str, &[usize])], numbers: usize) -> Stored {
    Stored { shape: Some(vec![numbers]), order: RowOrder::AsNumbers, ..plain(parts) }
}

fn swapped(parts: &[(usize, &str, &[usize])], order: RowOrder) -> Option<Stored> {
    let mut shape = parts[0].2.to_vec();
    let n = shape.len();
    if n < 2 {
        // A bias has one axis.
        return Some(plain(parts));
    }
    shape.swap(n - 2, n - 1);
    Some(Stored { shape: Some(shape), axes: Axes::InOut, order, ..plain(parts) })
}

/// Queries, keys and values that the file has after one another, as groups of heads with theirs: `[groups, heads + 2, d_head]`.
fn regrouped(
    parts: &[(usize, &str, &[usize])],
    [heads, groups]: [usize; 2],
    d_head: usize,
) -> Option<Stored> {
    let share = heads.checked_div(groups).filter(|share| share * groups == heads)?;
    if parts[0].2.first() != Some(&((heads + 2 * groups) * d_head)) {
        return None;
    }
    let (keys, values) = (heads * d_head, (heads + groups) * d_head);
    let mut spans = Vec::with_capacity(3 * groups);
    for group in 0..groups {
        let at = group * (share + 2) * d_head;
        let own = group * d_head;
        spans.push(Span { at, tensor: 0, from: own * share });
        spans.push(Span { at: at + share * d_head, tensor: 0, from: keys + own });
        spans.push(Span { at: at + (share + 1) * d_head, tensor: 0, from: values + own });
    }
    Some(Stored { order: RowOrder::Spans(spans.into()), ..plain(parts) })
}

/// What a gated delta rule reads, one key head after another: its query, its key, its values, their gates.
fn key_heads(arch: &Arch, parts: &[(usize, &str, &[usize])]) -> Option<Stored> {
    let (&[mixed, width], &[gates, other]) = (parts[0].2, parts[1].2) else { return None };
    let (heads, size, ..) = delta(arch)?;
    let (keys, value) = (heads * size, gates.checked_div(heads)?);
    if width != other || value * heads != gates || mixed != 2 * keys + gates {
        return None;
    }
    let mut spans = Vec::with_capacity(4 * heads);
    for head in 0..heads {
        let at = head * (2 * size + 2 * value);
        spans.push(Span { at, tensor: 0, from: head * size });
        spans.push(Span { at: at + size, tensor: 0, from: keys + head * size });
        spans.push(Span { at: at + 2 * size, tensor: 0, from: 2 * keys + head * value });
        spans.push(Span { at: at + 2 * size + value, tensor: 1, from: head * value });
    }
    Some(Stored {
        shape: Some(vec![mixed + gates, width]),
        order: RowOrder::Spans(spans.into()),
        ..plain(parts)
    })
}

/// Key heads of a gated delta rule and their width, value heads and theirs.
fn delta(arch: &Arch) -> Option<(usize, usize, usize, usize)> {
    let of = |state: State| match state {
        State::Delta { key_heads, d_key, value_heads, d_value } => {
            Some((key_heads, d_key, value_heads, d_value))
        }
        _ => None,
    };
    arch.layers.iter().find_map(|layer| of(layer.recurrence?.state))
}

/// A tensor with its rows of value heads in the checkpoint's order: one row a head, or its width, or these after the rows
/// of queries and keys.
fn value_heads(arch: &Arch, stored: Stored, rows: usize) -> Option<Stored> {
    let (keys, d_key, values, d_value) = delta(arch)?;
    let share = values.checked_div(keys).filter(|share| share * keys == values)?;
    let (before, width) = match rows {
        rows if rows == values => (0, 1),
        rows if rows == values * d_value => (0, d_value),
        rows if rows == 2 * keys * d_key + values * d_value => (2 * keys * d_key, d_value),
        _ => return None,
    };
    if share == 1 {
        return Some(stored);
    }
    let span = |value: usize| {
        let from = value % share * keys + value / share;
        Span { at: before + value * width, tensor: 0, from: before + from * width }
    };
    let first = (before > 0).then_some(Span { at: 0, tensor: 0, from: 0 });
    let spans: Vec<Span> = first.into_iter().chain((0..values).map(span)).collect();
    Some(Stored { order: RowOrder::Spans(spans.into()), ..stored })
}
