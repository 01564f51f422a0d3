//! Attention patterns: which tokens each head looks at, as thumbnails of all heads or one large head.
//!
//! [`AttentionReport`] is both plain data and the JSON schema `easyroutine.attn/1`. Colour is the weight. In most heads
//! most of the weight is on the first token, so hiding it shows more of the others ([`Sink::Hidden`]).

mod html;
mod picture;
mod report;
mod tables;
mod terminal;

pub use html::{html, page_data};
pub use picture::{PictureOptions, png, svg};
pub use report::{AttentionReport, HeadPattern, SCHEMA, Schema, Sink, Summary};
pub use tables::{json, markdown, table};
pub use terminal::{TerminalOptions, terminal};
