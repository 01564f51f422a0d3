//! The pickle instructions that build data (Python's `pickletools`), protocols 2 to 5.

use crate::{Error, Result};

/// The values built: nodes that refer to each other by index, since a pickle may use one twice.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) nodes: Vec<Node>,
    pub(super) root: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<usize>),
    Map(Vec<(usize, usize)>),
    /// An allowed name.
    Global(String),
    /// An object that a name would have made of these arguments, with its attributes.
    Made {
        name: String,
        arguments: usize,
        state: Option<usize>,
        items: Vec<(usize, usize)>,
    },
    /// Something outside the pickle: a storage.
    Outside(usize),
}

/// Names that PyTorch uses for tensors and their containers.
const KNOWN: &[&str] = &[
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "collections.OrderedDict",
    // Attributes of the original program's cache, which are not used.
    "re._compile",
];

/// Limit on nodes: many times as many as the largest cache has.
const MOST_NODES: usize = 4_000_000;

pub(super) fn run(program: &[u8], classes: &[&str]) -> Result<Built> {
    let mut machine = Machine {
        program,
        at: 0,
        classes,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
    };
    loop {
        let at = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(root)) => return Ok(Built { nodes: machine.nodes, root }),
            Err(what) => return Err(Error::unsupported(format!("data.pkl, byte {at}: {what}"))),
        }
    }
}

struct Machine<'a> {
    program: &'a [u8],
    at: usize,
    classes: &'a [&'a str],
    nodes: Vec<Node>,
    stack: Vec<usize>,
    marks: Vec<usize>,
    memo: Vec<usize>,
}

type Step<T> = std::result::Result<T, String>;

const EMPTY: &str = "an instruction finds too little on the stack";

impl<'a> Machine<'a> {
    /// Runs one instruction; the last one returns the result.
    fn step(&mut self) -> Step<Option<usize>> {
        let code = self.take(1)?[0];
        match code {
            0x80 => {
                let protocol = self.take(1)?[0];
                if !(2..=5).contains(&protocol) {
                    return Err(format!("protocol {protocol} is not one that is read"));
                }
            }
            // FRAME: a hint for stream readers.
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'N' => self.push(Node::None)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            b'J' => {
                let value = self.number(4)? as u32;
                self.push(Node::Int(i64::from(value.cast_signed())))?;
            }
            b'K' => {
                let value = self.number(1)?;
                self.push(Node::Int(value as i64))?;
            }
            b'M' => {
                let value = self.number(2)?;
                self.push(Node::Int(value as i64))?;
            }
            0x8a => self.long()?,
            b'G' => {
                let bytes = self.take(8)?;
                let bits = bytes.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
                self.push(Node::Float(f64::from_bits(bits)))?;
            }
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            b']' => self.push(Node::List(Vec::new()))?,
            b')' => self.push(Node::List(Vec::new()))?,
            b'}' => self.push(Node::Map(Vec::new()))?,
            b'l' | b't' => {
                let items = self.marked()?;
                self.push(Node::List(items))?;
            }
            b'd' => {
                let items = self.marked()?;
                self.push(Node::Map(pairs(&items)?))?;
            }
            0x85..=0x87 => {
                let n = usize::from(code - 0x84);
                let from = self.stack.len().checked_sub(n).ok_or(EMPTY)?;
                let items = self.stack.split_off(from);
                self.push(Node::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.marked()?;
                self.append(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.marked()?;
                self.set(&items)?;
            }
            b'q' => {
                let slot = self.number(1)?;
                self.remember(slot)?;
            }
            b'r' => {
                let slot = self.number(4)?;
                self.remember(slot)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' => {
                let slot = self.number(1)?;
                self.recall(slot)?;
            }
            b'j' => {
                let slot = self.number(4)?;
                self.recall(slot)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.nodes[module].clone(), self.nodes[name].clone()) {
                    (Node::Text(module), Node::Text(name)) => self.global(&module, &name)?,
                    _ => return Err("a name that is not text".to_owned()),
                }
            }
            // REDUCE and NEWOBJ would call what the name stands for. Here they only record it.
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let Node::Global(name) = self.nodes[callable].clone() else {
                    return Err("it would call something that is not a name".to_owned());
                };
                self.push(Node::Made { name, arguments, state: None, items: Vec::new() })?;
            }
            b'b' => {
                let state = self.pop()?;
                let object = *self.stack.last().ok_or(EMPTY)?;
                match &mut self.nodes[object] {
                    Node::Made { state: place, .. } => *place = Some(state),
                    _ => return Err("attributes of something that has none".to_owned()),
                }
            }
            b'Q' => {
                let what = self.pop()?;
                self.push(Node::Outside(what))?;
            }
            other => {
                return Err(format!(
                    "instruction {other:#04x} does not build data, or none that PyTorch saves"
                ));
            }
        }
        Ok(None)
    }

    fn take(&mut self, n: usize) -> Step<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.program.len());
        let end = end.ok_or("the program is cut short")?;
        let bytes = &self.program[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn number(&mut self, width: usize) -> Step<u64> {
        Ok(self.take(width)?.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.program[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or("the program is cut short")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "a name that is not UTF-8".to_owned())
    }

    fn text(&mut self, width: usize) -> Step<()> {
        let length = usize::try_from(self.number(width)?).map_err(|e| e.to_string())?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "a text that is not UTF-8")?;
        self.push(Node::Text(text.to_owned()))
    }

    fn long(&mut self) -> Step<()> {
        let length = self.number(1)? as usize;
        let bytes = self.take(length)?;
        if length > 8 {
            return Err("a number of more than 64 bits".to_owned());
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = if negative { [0xFF; 8] } else { [0; 8] };
        wide[..length].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)))
    }

    fn push(&mut self, node: Node) -> Step<()> {
        if self.nodes.len() >= MOST_NODES {
            return Err(format!("more than {MOST_NODES} values"));
        }
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
        Ok(())
    }

    fn pop(&mut self) -> Step<usize> {
        let lowest = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= lowest {
            return Err(EMPTY.to_owned());
        }
        self.stack.pop().ok_or_else(|| EMPTY.to_owned())
    }

    fn marked(&mut self) -> Step<Vec<usize>> {
        let mark = self.marks.pop().ok_or("no mark is set")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn append(&mut self, items: &[usize]) -> Step<()> {
        let list = *self.stack.last().ok_or(EMPTY)?;
        match &mut self.nodes[list] {
            Node::List(list) => list.extend_from_slice(items),
            _ => return Err("items for something that is not a list".to_owned()),
        }
        Ok(())
    }

    fn set(&mut self, items: &[usize]) -> Step<()> {
        let map = *self.stack.last().ok_or(EMPTY)?;
        match &mut self.nodes[map] {
            Node::Map(map) | Node::Made { items: map, .. } => map.extend(pairs(items)?),
            _ => return Err("keys for something that is not a dictionary".to_owned()),
        }
        Ok(())
    }

    fn remember(&mut self, slot: u64) -> Step<()> {
        let node = *self.stack.last().ok_or(EMPTY)?;
        let slot = usize::try_from(slot).map_err(|e| e.to_string())?;
        // Slots must be used in sequence: a gap would be an allocation on a claim alone.
        match slot.cmp(&self.memo.len()) {
            std::cmp::Ordering::Less => self.memo[slot] = node,
            std::cmp::Ordering::Equal => self.memo.push(node),
            std::cmp::Ordering::Greater => return Err(format!("slot {slot} before those below it")),
        }
        Ok(())
    }

    fn recall(&mut self, slot: u64) -> Step<()> {
        let node = usize::try_from(slot).ok().and_then(|slot| self.memo.get(slot).copied());
        self.stack.push(node.ok_or_else(|| format!("slot {slot} was never filled"))?);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Step<()> {
        let name = format!("{module}.{name}");
        let is_storage =
            name.strip_prefix("torch.").is_some_and(|kind| super::tensors::storage(kind).is_some());
        if is_storage || KNOWN.contains(&name.as_str()) || self.classes.contains(&name.as_str()) {
            return self.push(Node::Global(name));
        }
        Err(format!(
            "it names `{}`, which is not on the list of allowed names; nothing was run",
            name.escape_debug()
        ))
    }
}

fn pairs(items: &[usize]) -> Step<Vec<(usize, usize)>> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("a key without a value".to_owned());
    }
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}
