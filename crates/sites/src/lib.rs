//! Names of places in a decoder's forward pass.
//!
//! A [`Site`] is a place; with a layer, and for some sites a head or an expert, it is a [`Point`]. One table
//! (`site.rs`) gives names, scopes, axes and meanings to the library, the command line, files on disk and pictures. No
//! tensors, no I/O, no dependencies.
#![forbid(unsafe_code)]

mod error;
mod page;
mod point;
mod select;
mod site;
mod slice;

pub use error::{NameError, nearest};
pub use page::sites_page;
pub use point::Point;
pub use select::{Extent, Selector};
pub use site::{Access, Basis, Scope, Site};
pub use slice::{Slice, SliceError, integer, layers};
