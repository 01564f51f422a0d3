//! A dictionary: one layer, or a set with a layer per layer of a model.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use easyroutine::arch::Arch;
use easyroutine::identity::Identity;
use easyroutine::sites::{Point, Site};
use easyroutine::{Cpu, Error, ErrorKind, Result};
use easyroutine_files::MappedFile;
use easyroutine_kernels::Rows;

use crate::certificate::Certificate;
use crate::features::Features;
use crate::formats;
use crate::layer::Layer;

/// What a reader is told in addition to the files.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where it reads and writes, overriding the files: an activation, or two joined by a comma.
    pub place: Option<String>,
    /// s = √D/E‖x‖, for a format that is trained on x·s but does not store s.
    pub norm_factor: Option<f64>,
}

/// A sparse autoencoder, a transcoder, or a set of transcoders.
#[derive(Debug)]
pub struct Dictionary {
    certificate: Certificate,
    layers: Vec<Layer>,
    /// Whether features write into later layers too.
    is_cross_layer: bool,
    files: Vec<MappedFile>,
    commit: Option<String>,
}

/// The place of a dictionary's layer in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// The activation encoded.
    pub reads: Point,
    /// The activation decoded.
    pub writes: Point,
}

impl Dictionary {
    /// Opens a folder or a file in any supported format. The weights stay in their mapped files and are read on demand.
    ///
    /// # Errors
    /// If there is no dictionary or more than one, configuration keys or tensors are wrong, missing or unknown (all are
    /// named), or a norm lacks its factor.
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Dictionary> {
        formats::open(path.as_ref(), options, &formats::Elsewhere::new())
    }

    pub(crate) fn new(
        certificate: Certificate,
        layers: Vec<Layer>,
        is_cross_layer: bool,
        files: Vec<MappedFile>,
    ) -> Dictionary {
        Dictionary { certificate, layers, is_cross_layer, files, commit: None }
    }

    pub(crate) fn of_commit(self, commit: &str) -> Dictionary {
        Dictionary { commit: Some(commit.to_owned()), ..self }
    }

    /// The commit on the hub, where it came from there.
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// Its certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Its layers: one, or one per layer of a set.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Whether it is a set with a layer per layer of a model.
    pub fn is_set(&self) -> bool {
        self.certificate.is_set
    }

    /// Whether features write into later layers too.
    pub fn is_cross_layer(&self) -> bool {
        self.is_cross_layer
    }

    /// The layers of the set that write to layer `target`.
    pub fn sources(&self, target: usize) -> Range<usize> {
        if self.is_cross_layer { 0..target + 1 } else { target..target + 1 }
    }

    /// The places of its layers in a model.
    ///
    /// # Errors
    /// If the model lacks a place, or a width differs from the place's.
    pub fn fit(&self, arch: &Arch) -> Result<Vec<Fit>> {
        self.layers.iter().map(|layer| fit(layer, arch)).collect()
    }

    /// Reads every number of the weights once.
    ///
    /// # Errors
    /// If a number is NaN or infinite, or files have changed since they were opened.
    pub fn check_numbers(&self) -> Result<()> {
        self.layers.iter().try_for_each(Layer::check_numbers)?;
        self.check_unchanged()
    }

    /// Checks that the files are unchanged since they were opened.
    ///
    /// # Errors
    /// If they were written to or cut short.
    pub fn check_unchanged(&self) -> Result<()> {
        self.files.iter().try_for_each(|file| file.check_unchanged().map_err(Error::from))
    }

    /// A digest of the weight files and the certificate, which distinguishes dictionaries at the same path. The first
    /// call reads each file completely ([`Identity::digest`]).
    ///
    /// # Errors
    /// If files have changed since they were opened, or cannot be read.
    pub fn digest(&self) -> Result<String> {
        let mut identity = Identity::default();
        identity.add("certificate", self.certificate.to_json());
        for (number, file) in self.files.iter().filter_map(MappedFile::opened).enumerate() {
            identity.add_file(number.to_string(), Arc::clone(file));
        }
        identity.digest().map(str::to_owned)
    }

    /// Decodes features: Σ f·W_dec + b_dec (+ x W_skipᵀ), with the norm undone.
    ///
    /// `features` are those of the layer's [`Dictionary::sources`], in order; `x` is the layer's input.
    ///
    /// # Shapes
    /// x: `[T, D_in]`; result: `[T, D_out]`.
    ///
    /// # Errors
    /// If features belong to other layers or another number of tokens, or vectors have another width.
    pub fn decode(&self, cpu: &Cpu, target: usize, features: &[&Features], x: Rows<'_>) -> Result<Vec<f32>> {
        let layer = self.layer(target)?;
        let sources = self.sources(target);
        layer.check_width(x, layer.d_in())?;
        if features.len() != sources.len() || features.iter().any(|f| f.len() != x.n_rows()) {
            return Err(Error::input(format!(
                "layer {target} of the set decodes the features of {} layers, for {} tokens each",
                sources.len(),
                x.n_rows()
            )));
        }
        let skipped = layer.skipped(cpu, x)?;
        let width = layer.d_out();
        let mut out = Vec::with_capacity(x.n_rows() * width);
        let mut sum = vec![0.0f64; width];
        for token in 0..x.n_rows() {
            sum.fill(0.0);
            for (source, features) in sources.clone().zip(features) {
                let (numbers, values) = features.token(token);
                let active = numbers.iter().copied().zip(values.iter().map(|value| f64::from(*value)));
                self.layers[source].add_decoded(target, active, &mut sum)?;
            }
            sum.iter_mut().zip(&layer.decoder_bias).for_each(|(sum, bias)| *sum += f64::from(*bias));
            if let Some(skipped) = &skipped {
                let skipped = &skipped[token * width..][..width];
                sum.iter_mut().zip(skipped).for_each(|(sum, more)| *sum += f64::from(*more));
            }
            let undo = layer.undo(x.row(token))?;
            out.extend(sum.iter().map(|sum| (sum * undo.scale + undo.shift) as f32));
        }
        Ok(out)
    }

    /// The change in the decoded vectors caused by a change in features: Σ (after − before)·W_dec, with the norm
    /// undone. Exactly zero for tokens without a changed feature.
    ///
    /// # Shapes
    /// x: `[T, D_in]` of the layer `target`; result: `[T, D_out]`.
    ///
    /// # Errors
    /// As for [`Dictionary::decode`].
    pub fn difference(
        &self,
        (source, target): (usize, usize),
        before: &Features,
        after: &Features,
        x: Rows<'_>,
    ) -> Result<Vec<f32>> {
        let (from, to) = (self.layer(source)?, self.layer(target)?);
        if before.len() != x.n_rows() || after.len() != x.n_rows() {
            return Err(Error::input("features of another number of tokens"));
        }
        let width = to.d_out();
        let mut out = Vec::with_capacity(x.n_rows() * width);
        let mut sum = vec![0.0f64; width];
        for token in 0..x.n_rows() {
            sum.fill(0.0);
            from.add_decoded(target, changes(before.token(token), after.token(token)).into_iter(), &mut sum)?;
            let undo = to.undo(x.row(token))?;
            out.extend(sum.iter().map(|sum| (sum * undo.scale) as f32));
        }
        Ok(out)
    }

    /// The first-order contribution of each active feature to a number: f times the number's gradient along the
    /// feature's direction, an estimate of the number minus its value without the feature. Norm statistics are held
    /// fixed.
    ///
    /// # Shapes
    /// x: `[T, D_in]` of the layer `target`; gradients: `[T, D_out]`, where `target` writes; result: one number per
    /// active feature, token by token, in the order of [`Features::token`].
    ///
    /// # Errors
    /// As for [`Dictionary::difference`], and if gradients have another width.
    pub fn attribution(
        &self,
        (source, target): (usize, usize),
        features: &Features,
        x: Rows<'_>,
        gradients: Rows<'_>,
    ) -> Result<Vec<f32>> {
        let (from, to) = (self.layer(source)?, self.layer(target)?);
        if features.len() != x.n_rows() || gradients.n_rows() != x.n_rows() {
            return Err(Error::input("features, vectors and gradients of different numbers of tokens"));
        }
        to.check_width(x, to.d_in())?;
        to.check_width(gradients, to.d_out())?;
        let mut found = Vec::with_capacity(features.n_active());
        let mut written = vec![0.0f64; to.d_out()];
        for token in 0..x.n_rows() {
            let scale = to.undo(x.row(token))?.scale;
            let (numbers, values) = features.token(token);
            for (number, value) in numbers.iter().zip(values) {
                written.fill(0.0);
                let one = std::iter::once((*number, f64::from(*value)));
                from.add_decoded(target, one, &mut written)?;
                let along = written.iter().zip(gradients.row(token));
                found.push((scale * along.map(|(w, g)| w * f64::from(*g)).sum::<f64>()) as f32);
            }
        }
        Ok(found)
    }

    /// A layer of the set.
    ///
    /// # Errors
    /// If there is no such layer.
    pub fn layer(&self, number: usize) -> Result<&Layer> {
        self.layers.get(number).ok_or_else(|| {
            let n = self.layers.len();
            Error::input(format!(
                "no layer {number} in the dictionary: it has {n}, 0 to {}",
                n.saturating_sub(1)
            ))
        })
    }
}

/// The features that differ, and by how much.
fn changes(before: (&[u32], &[f32]), after: (&[u32], &[f32])) -> Vec<(u32, f64)> {
    let (mut i, mut j) = (0, 0);
    let mut found = Vec::new();
    loop {
        let (left, right) = (before.0.get(i), after.0.get(j));
        let (number, old, new) = match (left, right) {
            (None, None) => return found,
            (Some(l), Some(r)) if l == r => (*l, before.1[i], after.1[j]),
            (Some(l), Some(r)) if l > r => (*r, 0.0, after.1[j]),
            (None, Some(r)) => (*r, 0.0, after.1[j]),
            (Some(l), _) => (*l, before.1[i], 0.0),
        };
        i += usize::from(left == Some(&number));
        j += usize::from(right == Some(&number));
        if old != new {
            found.push((number, f64::from(new) - f64::from(old)));
        }
    }
}

fn fit(layer: &Layer, arch: &Arch) -> Result<Fit> {
    let (reads, writes) = (layer.reads.point(arch)?, layer.writes.point(arch)?);
    for (what, point, ours) in [("reads", reads, layer.d_in()), ("writes", writes, layer.d_out())] {
        let width = arch.width(point).unwrap_or(0);
        if width != ours {
            return Err(Error::new(
                ErrorKind::Input,
                format!("the dictionary {what} vectors of {ours}, but `{point}` of this model has {width}"),
            )
            .hint("a dictionary fits the model that it was trained on"));
        }
    }
    if order(writes) < order(reads) {
        return Err(Error::new(
            ErrorKind::Input,
            format!(
                "the dictionary reads `{reads}`, which this model computes after `{writes}`, where it writes"
            ),
        ));
    }
    Ok(Fit { reads, writes })
}

/// Points of a forward pass in its order.
fn order(point: Point) -> (usize, Point) {
    let end = if point.site() == Site::InputEmbeddings { 0 } else { usize::MAX };
    (point.layer().map_or(end, |layer| layer + 1), point)
}
