//! Pictures of a language model's inner workings, made from plain data.
//!
//! Nothing here computes: a report goes in, text or bytes come out. The logit lens is [`lens::LensReport`]; it becomes
//! a terminal table, TSV, CSV, Markdown, JSON, SVG, PNG or one self-contained HTML page. Attention patterns are an
//! [`attention::AttentionReport`] with the same outputs.
//!
//! Tokens are untrusted text. Every output passes through [`printable`] or its format's own escaping, so that no
//! control, bidi or invisible character reaches a terminal or a page.
//!
//! ```
//! use easyroutine_view::lens::{LensReport, Metric, TerminalOptions, terminal};
//! # let json = include_str!("../tests/data/small.json");
//! let report = LensReport::from_json(json)?;
//! println!("{}", terminal(&report, &TerminalOptions { width: 100, ..TerminalOptions::default() }));
//! # Ok::<(), easyroutine_view::Error>(())
//! ```

#![forbid(unsafe_code)]

pub mod app;
pub mod attention;
pub mod bars;
pub mod checkpoints;
pub mod circuit;
pub mod colour;
pub mod drawing;
mod error;
pub mod features;
mod fields;
mod font;
pub mod graph;
pub mod grid;
pub mod lens;
mod page;
mod png;
pub mod steering;
mod svg;
pub mod table;
mod text;

pub use error::{Error, ErrorKind};
pub use text::{cell, columns, field, fit, json_text, lines_of_text, markdown, one_line, printable};
