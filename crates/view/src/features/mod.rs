//! Features of a dictionary over a data set: an index and a card for each, as one page.
//!
//! The data are the lines written by `easyroutine features`, `easyroutine.feature/1`.

mod html;
mod report;

pub use html::{html, page_data};
pub use report::{Feature, FeaturesReport, Logit, Occurrence, number};
