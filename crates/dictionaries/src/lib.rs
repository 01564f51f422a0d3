//! Sparse autoencoders and transcoders, read in every public format and used inside a model.
//!
//! [`Dictionary::open`] recognises the format by its files and reads the configuration as strictly as a model's: every
//! key and every tensor is read, known to have no effect, or refused by name, all at once. Its [`Certificate`]
//! describes the dictionary. The weights stay in their files and are read by rows; [`Layer::encode`] gives the non-zero
//! features, and [`Dictionary::decode`] turns them back into vectors.
//!
//! Formulas: SAELens (`sae_lens/saes/`), sparsify (`sparse_coder.py`), dictionary_learning (`dictionary.py`,
//! `trainers/`), circuit-tracer (`circuit_tracer/transcoder/`).
#![forbid(unsafe_code)]

mod activation;
mod attribution;
mod certificate;
mod change;
mod dictionary;
mod direction_file;
mod directions;
mod encode;
mod features;
mod fit;
mod formats;
mod layer;
mod linear;
mod measure;
mod named;
mod norm;
mod place;
mod problems;
mod reference;
mod settings;
mod sieve;
mod slope;
mod state;
mod statistics;
mod sweep;
mod tap;
mod tap_back;
mod tensors;
mod watch;
mod yaml;

pub use activation::Activation;
pub use attribution::{FeatureScore, FeatureScores, attribute};
pub use certificate::{Certificate, LayerCertificate};
pub use change::{FeatureChange, FeatureOperation};
pub use dictionary::{Dictionary, Fit, Options};
pub use direction_file::{Directions, LayerDirection, check_control_vector, stated};
pub use directions::{Logistic, Probe, Steering, Vectors};
pub use features::Features;
pub use fit::{Accuracy, ProbeMethod, fit_probe, fit_steering, held_out, held_out_warning};
pub use layer::Layer;
pub use measure::{LayerMeasured, Measured, Measuring, measure, measure_in_parts, text};
pub use named::{Dictionaries, Named};
pub use norm::Norm;
pub use place::Place;
pub use statistics::{FeatureStatistics, Keeping, Observed, Occurrence, Statistics};
pub use sweep::{Chosen, FeatureColumns, FeatureSweep, sweep_features};
pub use tap::{FeatureCapture, FeatureEdits, SparseFeatures};
pub use watch::{FeatureWatch, Watched, WatchedRow};
pub use yaml::read as read_yaml;
