//! The logit lens: what each layer would predict at each token, as a table, a picture or a page.
//!
//! [`LensReport`] is both plain data and the JSON schema `easyroutine.lens/1`. Every function here draws one: final
//! layer on top, embedding at the bottom, one column per token.
//!
//! By default colour is the probability of the *final layer's* top token ([`Metric::Final`]): coloured by its own top
//! token, every early layer looks falsely sure.

mod grid;
mod html;
mod metric;
mod picture;
mod report;
mod tables;
mod terminal;
mod words;

pub use html::{html, page_data};
pub use metric::Metric;
pub use picture::{PictureOptions, png, svg};
pub use report::{
    Candidate, FinalTop, JacobianLens, LayerPosition, LayerRow, LensReport, LensSettings, ModelCard, Norm,
    SCHEMA, Schema, Token, TrackedToken, TunedLens,
};
pub use tables::{json, markdown, table};
pub use terminal::{ColourDepth, TerminalOptions, terminal};
pub(crate) use words::{changes as changes_line, model as model_line};
