//! The input and output of a format's reader.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use easyroutine::{Error, ErrorKind, Result};
use easyroutine_files::MappedFile;

use super::Elsewhere;
use crate::activation::Activation;
use crate::dictionary::Options;
use crate::encode::PackedEncoder;
use crate::layer::Layer;
use crate::norm::Norm;
use crate::place::Place;
use crate::problems::Problems;
use crate::settings::Settings;
use crate::tensors::{Matrix, Tensors};

/// Size limit for a configuration, in bytes.
const LARGEST: u64 = 4 << 20;

/// One reading of one folder.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) folder: PathBuf,
    /// The file that identifies the format.
    pub(crate) file: PathBuf,
    pub(crate) options: &'a Options,
    /// Files that a configuration names by an address.
    pub(crate) elsewhere: &'a Elsewhere,
    pub(crate) problems: Problems,
    /// Mapped files.
    pub(crate) files: Vec<MappedFile>,
    pub(crate) names: Vec<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) figures: Vec<(String, f64)>,
    pub(crate) used_norm_factor: bool,
}

/// A dictionary as found by a format's reader.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) architecture: String,
    pub(crate) model: Option<String>,
    pub(crate) drafts: Vec<Draft>,
    pub(crate) is_set: bool,
    pub(crate) is_cross_layer: bool,
}

impl Reading {
    /// A dictionary of one layer.
    pub(crate) fn one(architecture: impl Into<String>, model: Option<String>, draft: Draft) -> Reading {
        let architecture = architecture.into();
        Reading { architecture, model, drafts: vec![draft], is_set: false, is_cross_layer: false }
    }
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        folder: &Path,
        file: PathBuf,
        options: &'a Options,
        elsewhere: &'a Elsewhere,
    ) -> Context<'a> {
        Context {
            folder: folder.to_owned(),
            file,
            options,
            elsewhere,
            problems: Problems::default(),
            files: Vec::new(),
            names: Vec::new(),
            warnings: Vec::new(),
            figures: Vec::new(),
            used_norm_factor: false,
        }
    }

    /// The bytes of a small file in the folder.
    pub(crate) fn small(&mut self, name: &str) -> Result<Vec<u8>> {
        let path = self.folder.join(name);
        let io = |e: std::io::Error| Error::new(ErrorKind::Io, format!("{}: {e}", path.display())).because(e);
        let found = std::fs::metadata(&path).map_err(io)?;
        if !found.is_file() || found.len() > LARGEST {
            let what = format!("{}: not a plain file of at most {LARGEST} bytes", path.display());
            return Err(Error::new(ErrorKind::Format, what));
        }
        self.names.push(name.to_owned());
        std::fs::read(&path).map_err(io)
    }

    /// A JSON configuration in the folder. Where it is none, nothing else is judged: a guess at what it says would make
    /// problems of sound tensors.
    pub(crate) fn json(&mut self, name: &str) -> Result<Settings> {
        let bytes = self.small(name)?;
        let settings = Settings::json(name, &bytes, &self.problems);
        self.readable(settings)
    }

    /// The settings, or the error of what they are instead.
    pub(crate) fn readable(&self, settings: Option<Settings>) -> Result<Settings> {
        settings.ok_or_else(|| {
            let found = self.problems.finish(&self.folder);
            found.err().unwrap_or_else(|| Error::new(ErrorKind::Format, "a configuration cannot be read"))
        })
    }

    /// The tensors of a file in the folder.
    pub(crate) fn tensors(&mut self, name: &str) -> Result<Tensors> {
        self.tensors_at(&self.folder.join(name), name)
    }

    /// The tensors of a file that lies elsewhere, under the name that the configuration has for it.
    pub(crate) fn tensors_at(&mut self, path: &Path, name: &str) -> Result<Tensors> {
        let tensors = Tensors::open(path, &self.problems)?;
        self.files.push(tensors.map().clone());
        self.names.push(name.to_owned());
        Ok(tensors)
    }

    /// The norm x·s, whose factor only the caller knows.
    pub(crate) fn given_norm(&mut self, why: &str) -> Norm {
        self.used_norm_factor = true;
        match self.options.norm_factor {
            Some(factor) if factor.is_finite() && factor > 0.0 => Norm::Scale { factor, undo: factor },
            Some(factor) => {
                self.problems.add(format!("--norm-factor {factor}: a number above 0 is expected"));
                Norm::None
            }
            None => {
                self.problems.add(format!(
                    "{why}, and its files lack the factor s = √D/E‖x‖; without it every number is wrong. Pass it with \
                     --norm-factor"
                ));
                Norm::None
            }
        }
    }

    /// A place from its reader's result; an error is a problem unless the caller named the place.
    pub(crate) fn place(&self, place: std::result::Result<Place, String>) -> Option<Place> {
        match place {
            Ok(place) => Some(place),
            Err(_) if self.options.place.is_some() => None,
            Err(what) => {
                self.problems.add(format!("{what}: name the activation with --place"));
                None
            }
        }
    }
}

/// One layer, as far as its file describes it.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) reads: Option<Place>,
    pub(crate) writes: Option<Place>,
    pub(crate) encoder: Matrix,
    pub(crate) encoder_bias: Vec<f32>,
    pub(crate) decoder: Matrix,
    pub(crate) decoder_bias: Vec<f32>,
    pub(crate) parts: Range<usize>,
    pub(crate) subtracts_bias: bool,
    pub(crate) norm: Norm,
    pub(crate) undoes_norm: bool,
    pub(crate) activation: Activation,
    pub(crate) rescales: bool,
    pub(crate) skip: Option<Matrix>,
}

impl Draft {
    /// A layer that writes where it reads, with no norm.
    pub(crate) fn new(
        (encoder, encoder_bias): (Matrix, Vec<f32>),
        (decoder, decoder_bias): (Matrix, Vec<f32>),
        activation: Activation,
    ) -> Draft {
        Draft {
            reads: None,
            writes: None,
            encoder,
            encoder_bias,
            decoder,
            decoder_bias,
            parts: 0..1,
            subtracts_bias: false,
            norm: Norm::None,
            undoes_norm: true,
            activation,
            rescales: false,
            skip: None,
        }
    }

    /// The same, at these places.
    #[must_use]
    pub(crate) fn at(self, reads: Option<Place>, writes: Option<Place>) -> Draft {
        Draft { reads, writes, ..self }
    }

    pub(crate) fn finish(self) -> Option<Layer> {
        Some(Layer {
            reads: self.reads?,
            writes: self.writes?,
            encoder: self.encoder,
            encoder_bias: self.encoder_bias,
            // Single rows are read all the time.
            decoder: self.decoder.by_features(),
            parts: self.parts,
            decoder_bias: self.decoder_bias,
            subtracts_bias: self.subtracts_bias,
            norm: self.norm,
            undoes_norm: self.undoes_norm,
            activation: self.activation,
            rescales: self.rescales,
            skip: self.skip,
            packed: PackedEncoder::default(),
            packed_skip: OnceLock::new(),
            row_norms: OnceLock::new(),
        })
    }
}
