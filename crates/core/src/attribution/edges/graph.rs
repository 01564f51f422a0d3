//! The graph of a decoder: what writes to the residual stream, and what reads it.

use std::fmt;
use std::str::FromStr;

use crate::arch::{Arch, Bias, Wiring};
use crate::error::{Error, ErrorKind, Result};

/// A writer to the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Writer {
    /// `input`: the embedding.
    Input,
    /// `a3.h2`: a head.
    Head {
        /// The layer.
        layer: usize,
        /// The head.
        head: usize,
    },
    /// `m3`: an MLP.
    Mlp {
        /// The layer.
        layer: usize,
    },
}

/// A reader of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reader {
    /// `a3.h2<q>`: query, key or value of a head; a group's keys and values are read separately for each query head.
    Head {
        /// The layer.
        layer: usize,
        /// The query head.
        head: usize,
        /// Which of the three.
        input: Input,
    },
    /// `m3`: an MLP.
    Mlp {
        /// The layer.
        layer: usize,
    },
    /// `logits`
    Logits,
}

/// An input of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// `q`
    Query,
    /// `k`
    Key,
    /// `v`
    Value,
}

impl Input {
    pub(super) const ALL: [Input; 3] = [Input::Query, Input::Key, Input::Value];

    /// `q`, `k` or `v`.
    pub fn letter(self) -> char {
        match self {
            Input::Query => 'q',
            Input::Key => 'k',
            Input::Value => 'v',
        }
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Writer::Input => f.write_str("input"),
            Writer::Head { layer, head } => write!(f, "a{layer}.h{head}"),
            Writer::Mlp { layer } => write!(f, "m{layer}"),
        }
    }
}

impl fmt::Display for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reader::Head { layer, head, input } => write!(f, "a{layer}.h{head}<{}>", input.letter()),
            Reader::Mlp { layer } => write!(f, "m{layer}"),
            Reader::Logits => f.write_str("logits"),
        }
    }
}

fn no_node(text: &str) -> Error {
    let shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    Error::new(ErrorKind::Format, format!("`{shown}` is not a node of a circuit"))
}

/// `a3.h2` as layer and head, `m3` as layer.
fn place(text: &str) -> Option<(usize, Option<usize>)> {
    let number = |text: &str| -> Option<usize> {
        (text.len() <= 6 && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| text.parse().ok())
            .flatten()
    };
    match text.strip_prefix('m') {
        Some(layer) => Some((number(layer)?, None)),
        None => {
            let (layer, head) = text.strip_prefix('a')?.split_once(".h")?;
            Some((number(layer)?, Some(number(head)?)))
        }
    }
}

impl FromStr for Writer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match (text, place(text)) {
            ("input", _) => Ok(Writer::Input),
            (_, Some((layer, Some(head)))) => Ok(Writer::Head { layer, head }),
            (_, Some((layer, None))) => Ok(Writer::Mlp { layer }),
            _ => Err(no_node(text)),
        }
    }
}

impl FromStr for Reader {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let head = |text: &str| {
            let (node, letter) = text.strip_suffix('>')?.split_once('<')?;
            let input = Input::ALL.into_iter().find(|input| input.letter().to_string() == letter)?;
            let (layer, head) = place(node)?;
            Some(Reader::Head { layer, head: head?, input })
        };
        match (text, place(text)) {
            ("logits", _) => Ok(Reader::Logits),
            (_, Some((layer, None))) => Ok(Reader::Mlp { layer }),
            _ => head(text).ok_or_else(|| no_node(text)),
        }
    }
}

/// Writers and readers in the order of the pass. Each reader reads a prefix of the writers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    /// Layers.
    pub n_layers: usize,
    /// Query heads per layer.
    pub n_heads: usize,
    /// Width of the stream.
    pub d_model: usize,
    /// Whether attention and MLP of each block run in parallel, so that the MLP does not read its block's heads.
    pub parallel: Vec<bool>,
}

impl Graph {
    /// The graph of a model.
    ///
    /// # Errors
    /// If the model has no unembedding, or a layer's heads or parts do not add up to the stream (it is named).
    pub fn of(arch: &Arch) -> Result<Self> {
        if let Some(reason) = arch.lacks_unembedding() {
            return Err(Error::new(ErrorKind::Unsupported, reason));
        }
        let mut parallel = Vec::with_capacity(arch.layers.len());
        for (layer, block) in arch.layers.iter().enumerate() {
            let refused = |what: &str| {
                Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("layer {layer} {what}, so edges of single heads do not add up"),
                ))
            };
            if block.recurrence.is_some() || block.attention.is_none() {
                return refused("has a recurrence, which writes without heads");
            }
            if block.latent().is_some() {
                return refused("compresses keys and values, which heads then share");
            }
            if block.leaving_scale == Bias::Stored {
                return refused("multiplies the stream that leaves it");
            }
            if block.mlp.is_none() {
                return refused("has no MLP");
            }
            if block.factors.attention_in.is_some() {
                return refused("scales what its heads read");
            }
            match block.wiring {
                Wiring::Sequential { attention, .. } if attention.post.is_some() => {
                    return refused("norms the sum of its heads");
                }
                Wiring::NormOnStream { .. } => return refused("norms the residual stream itself"),
                Wiring::Sequential { .. } => parallel.push(false),
                Wiring::Parallel { .. } => parallel.push(true),
            }
        }
        Ok(Graph { n_layers: arch.layers.len(), n_heads: arch.n_heads, d_model: arch.d_model, parallel })
    }

    /// Number of writers.
    pub fn n_writers(&self) -> usize {
        1 + self.n_layers * (self.n_heads + 1)
    }

    /// Number of readers.
    pub fn n_readers(&self) -> usize {
        1 + self.n_layers * (3 * self.n_heads + 1)
    }

    /// All writers, in order.
    pub fn writers(&self) -> impl Iterator<Item = Writer> + '_ {
        let of_layer = move |layer: usize| {
            let heads = (0..self.n_heads).map(move |head| Writer::Head { layer, head });
            heads.chain(std::iter::once(Writer::Mlp { layer }))
        };
        std::iter::once(Writer::Input).chain((0..self.n_layers).flat_map(of_layer))
    }

    /// All readers, in order: each layer's queries, keys, values, MLP.
    pub fn readers(&self) -> impl Iterator<Item = Reader> + '_ {
        let of_layer = move |layer: usize| {
            let inputs = Input::ALL.into_iter();
            let heads = inputs.flat_map(move |input| {
                (0..self.n_heads).map(move |head| Reader::Head { layer, head, input })
            });
            heads.chain(std::iter::once(Reader::Mlp { layer }))
        };
        (0..self.n_layers).flat_map(of_layer).chain(std::iter::once(Reader::Logits))
    }

    /// The index of a writer; `None` if the graph lacks it.
    pub fn writer(&self, writer: Writer) -> Option<usize> {
        let (layer, within) = match writer {
            Writer::Input => return Some(0),
            Writer::Head { layer, head } => (layer, Some(head).filter(|head| *head < self.n_heads)?),
            Writer::Mlp { layer } => (layer, self.n_heads),
        };
        (layer < self.n_layers).then(|| 1 + layer * (self.n_heads + 1) + within)
    }

    /// The index of a reader; `None` if the graph lacks it.
    pub fn reader(&self, reader: Reader) -> Option<usize> {
        let heads = self.n_heads;
        let (layer, within) = match reader {
            Reader::Logits => return Some(self.n_readers() - 1),
            Reader::Head { layer, head, input } => {
                (layer, input as usize * heads + Some(head).filter(|head| *head < heads)?)
            }
            Reader::Mlp { layer } => (layer, 3 * heads),
        };
        (layer < self.n_layers).then(|| layer * (3 * heads + 1) + within)
    }

    /// Number of leading writers that a reader reads.
    pub fn reach(&self, reader: Reader) -> usize {
        match reader {
            Reader::Logits => self.n_writers(),
            Reader::Mlp { layer } if !self.parallel[layer] => 1 + layer * (self.n_heads + 1) + self.n_heads,
            Reader::Head { layer, .. } | Reader::Mlp { layer } => 1 + layer * (self.n_heads + 1),
        }
    }

    /// Number of edges.
    pub fn n_edges(&self) -> usize {
        self.readers().map(|reader| self.reach(reader)).sum()
    }
}
