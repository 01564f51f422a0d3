//! Features of a dictionary over a data set: an index and a card for each, as one page or a folder.
//!
//! The data are the lines written by `easyroutine features`, `easyroutine.feature/1`.

mod folder;
mod html;
mod report;

pub use folder::{File, Folder};
pub use html::{html, page_data};
pub use report::{Feature, FeaturesReport, Logit, Occurrence, number};
