//! Attention patterns: which tokens each head looks at, as thumbnails of all heads or one head large.
//!
//! [`AttentionReport`] is plain data and the JSON schema `easyroutine.attn/1` at once. Colour is the weight; in most
//! heads most of it lies on the first token, so that the others show more when it is hidden ([`Sink::Hidden`]).

mod html;
mod picture;
mod report;
mod tables;
mod terminal;

pub use html::{html, page_data};
pub use picture::{PictureOptions, png, svg};
pub use report::{AttentionReport, HeadPattern, SCHEMA, Schema, Sink, Summary};
pub use tables::{csv, json, markdown, tsv};
pub use terminal::{TerminalOptions, terminal};
