//! Turns a pickle's nodes into values, with tensors read from their storages.

use super::Item;
use super::pickle::{Built, Node};
use crate::{Encoding, Error, Result};

/// A tensor, in C order.
#[derive(Debug, Clone, PartialEq)]
pub struct TorchTensor {
    /// The encoding of its numbers.
    pub encoding: Encoding,
    /// Sizes of its axes, slowest first.
    pub shape: Vec<usize>,
    /// The numbers, little-endian.
    pub bytes: Vec<u8>,
}

/// The encoding of a storage, by its class in `torch`.
pub(super) fn storage(kind: &str) -> Option<Encoding> {
    Some(match kind {
        "DoubleStorage" => Encoding::F64,
        "FloatStorage" => Encoding::F32,
        "HalfStorage" => Encoding::F16,
        "BFloat16Storage" => Encoding::Bf16,
        "LongStorage" => Encoding::I64,
        "IntStorage" => Encoding::I32,
        "ShortStorage" => Encoding::I16,
        "CharStorage" => Encoding::I8,
        "ByteStorage" => Encoding::U8,
        "BoolStorage" => Encoding::Bool,
        "ComplexFloatStorage" => Encoding::Complex64,
        _ => return None,
    })
}

/// Limit on nesting.
const DEEPEST: usize = 64;
/// Limit on values: a pickle can refer to one list many times, so that few bytes become many values.
const MOST: usize = 4_000_000;

/// The values built. `member` gives the bytes of a storage. `file_len`, the length of the whole file, bounds the size
/// of tensors: views of one storage are each written out.
pub(super) fn items<'a>(
    built: &Built,
    member: &dyn Fn(&str) -> Option<&'a [u8]>,
    file_len: usize,
) -> Result<Item> {
    let mut reader = Reader {
        nodes: &built.nodes,
        member,
        left: MOST,
        bytes_left: file_len.saturating_mul(4).saturating_add(64 << 20),
    };
    reader.item(built.root, 0)
}

struct Reader<'b, 'a> {
    nodes: &'b [Node],
    member: &'b dyn Fn(&str) -> Option<&'a [u8]>,
    left: usize,
    bytes_left: usize,
}

impl Reader<'_, '_> {
    fn item(&mut self, at: usize, depth: usize) -> Result<Item> {
        if depth > DEEPEST {
            return Err(Error::malformed(format!("data.pkl: nested more than {DEEPEST} deep")));
        }
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| Error::malformed(format!("data.pkl: more than {MOST} values")))?;
        Ok(match &self.nodes[at] {
            Node::None => Item::None,
            Node::Bool(value) => Item::Bool(*value),
            Node::Int(value) => Item::Int(*value),
            Node::Float(value) => Item::Float(*value),
            Node::Text(text) => Item::Text(text.clone()),
            Node::List(items) => {
                Item::List(items.iter().map(|at| self.item(*at, depth + 1)).collect::<Result<_>>()?)
            }
            Node::Map(entries) => self.map(entries, depth)?,
            Node::Made { name, arguments, state, items } => match name.as_str() {
                "torch._utils._rebuild_tensor_v2" => Item::Tensor(self.tensor(*arguments)?),
                "torch._utils._rebuild_parameter" => {
                    let Node::List(arguments) = &self.nodes[*arguments] else { return Err(odd("parameter")) };
                    self.item(*arguments.first().ok_or_else(|| odd("parameter"))?, depth + 1)?
                }
                "collections.OrderedDict" => self.map(items, depth)?,
                "re._compile" => Item::None,
                _ => {
                    let state = state.map_or(Ok(Item::None), |state| self.item(state, depth + 1))?;
                    Item::Object { class: name.clone(), state: Box::new(state) }
                }
            },
            Node::Global(name) => {
                return Err(Error::unsupported(format!("data.pkl: `{name}` contains itself")));
            }
            Node::Outside(_) => return Err(odd("storage")),
        })
    }

    fn map(&mut self, entries: &[(usize, usize)], depth: usize) -> Result<Item> {
        let pair =
            |(key, value): &(usize, usize)| Ok((self.item(*key, depth + 1)?, self.item(*value, depth + 1)?));
        Ok(Item::Map(entries.iter().map(pair).collect::<Result<_>>()?))
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`, torch/_utils.py.
    fn tensor(&mut self, arguments: usize) -> Result<TorchTensor> {
        let list = |at: usize| match &self.nodes[at] {
            Node::List(items) => Some(items.as_slice()),
            _ => None,
        };
        let whole = |at: usize| match &self.nodes[at] {
            Node::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        };
        let sizes = |at: usize| list(at)?.iter().map(|at| whole(*at)).collect::<Option<Vec<usize>>>();
        let parse = || {
            let [pid, offset, shape, strides, ..] = list(arguments)? else { return None };
            let Node::Outside(pid) = &self.nodes[*pid] else { return None };
            let [_, kind, key, ..] = list(*pid)? else { return None };
            let (Node::Global(kind), Node::Text(key)) = (&self.nodes[*kind], &self.nodes[*key]) else {
                return None;
            };
            let encoding = storage(kind.strip_prefix("torch.")?)?;
            Some((encoding, (self.member)(key)?, whole(*offset)?, sizes(*shape)?, sizes(*strides)?))
        };
        let (encoding, stored, offset, shape, strides) = parse().ok_or_else(|| odd("tensor"))?;
        let width = encoding.block_bytes();
        let elements = shape.iter().try_fold(1usize, |n, axis| n.checked_mul(*axis));
        let total = elements.and_then(|n| n.checked_mul(width)).filter(|_| shape.len() == strides.len());
        let total = total.ok_or_else(|| odd("tensor"))?;
        self.bytes_left = self
            .bytes_left
            .checked_sub(total)
            .ok_or_else(|| Error::malformed("data.pkl: its tensors are many times larger than the file"))?;
        let bytes = gathered(stored, width, offset, &shape, &strides, total).ok_or_else(|| {
            Error::malformed(format!("data.pkl: a tensor of shape {shape:?} reaches beyond its storage"))
        })?;
        Ok(TorchTensor { encoding, shape, bytes })
    }
}

/// The elements of a view in C order, each checked against the storage.
fn gathered(
    stored: &[u8],
    width: usize,
    offset: usize,
    shape: &[usize],
    strides: &[usize],
    total: usize,
) -> Option<Vec<u8>> {
    if total == 0 {
        return Some(Vec::new());
    }
    let mut dense = 1usize;
    let is_dense = shape.iter().zip(strides).rev().all(|(axis, stride)| {
        let fits = *axis == 1 || *stride == dense;
        dense = dense.saturating_mul(*axis);
        fits
    });
    let start = offset.checked_mul(width)?;
    if is_dense {
        return stored.get(start..start.checked_add(total)?).map(<[u8]>::to_vec);
    }
    let reach = shape
        .iter()
        .zip(strides)
        .try_fold(0usize, |sum, (axis, stride)| sum.checked_add((axis - 1).checked_mul(*stride)?))?;
    let end = offset.checked_add(reach)?.checked_add(1)?.checked_mul(width)?;
    if end > stored.len() {
        return None;
    }
    let mut bytes = Vec::with_capacity(total);
    let mut place = vec![0usize; shape.len()];
    loop {
        let at = offset + place.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>();
        bytes.extend_from_slice(&stored[at * width..][..width]);
        let Some(axis) = (0..shape.len()).rev().find(|axis| place[*axis] + 1 < shape[*axis]) else {
            return Some(bytes);
        };
        place[axis] += 1;
        place[axis + 1..].fill(0);
    }
}

fn odd(what: &str) -> Error {
    Error::unsupported(format!("data.pkl: a {what} that is not as torch.save writes it"))
}
