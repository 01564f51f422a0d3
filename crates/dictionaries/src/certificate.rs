//! A dictionary's description of itself, and how the reader understood it.

use easyroutine::source::ModelFiles;
use serde_json::{Map, Value, json};

use crate::layer::Layer;

/// The certificate of a dictionary: its format, its place, how its numbers are used, and its publisher's statements.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// The format of its files: `saelens`, `gemma_scope`, …
    pub format: &'static str,
    /// The publisher's name of the architecture.
    pub architecture: String,
    /// The model it was trained on, as named by the publisher.
    pub model: Option<String>,
    /// Whether it is a set with a layer per layer of a model.
    pub is_set: bool,
    /// Its layers.
    pub layers: Vec<LayerCertificate>,
    /// The publisher's figures: `l0`, …
    pub figures: Vec<(String, f64)>,
    /// Files that were read, by their names in the folder.
    pub files: Vec<String>,
    /// Oddities, and the rule followed for each.
    pub warnings: Vec<String>,
}

/// One layer of a [`Certificate`].
#[derive(Debug, Clone, PartialEq)]
pub struct LayerCertificate {
    /// Where it reads, in the publisher's terms.
    pub reads: String,
    /// Where it writes.
    pub writes: String,
    /// The activation that it reads, if that does not depend on the model.
    pub reads_activation: Option<String>,
    /// The activation that it writes.
    pub writes_activation: Option<String>,
    /// Width of its input.
    pub d_in: usize,
    /// Number of features.
    pub n_features: usize,
    /// Width of its output.
    pub d_out: usize,
    /// `relu`, `jumprelu`, `topk`, `groupmax` or `gated`.
    pub activation: &'static str,
    /// k of `topk` and `groupmax`.
    pub k: Option<usize>,
    /// Smallest and largest threshold of `jumprelu`.
    pub thresholds: Option<(f32, f32)>,
    /// How a vector is normalised before encoding.
    pub norm: &'static str,
    /// The factor of the norm `scale`.
    pub norm_factor: Option<f64>,
    /// Whether the decoder's bias is subtracted before encoding.
    pub subtracts_decoder_bias: bool,
    /// Whether features are scaled by the norms of the decoder's rows.
    pub rescales_by_decoder_norm: bool,
    /// Whether the input is also added through a matrix of its own.
    pub has_skip: bool,
    /// Sizes of the encoder's axes in its file.
    pub encoder_shape: Vec<usize>,
    /// Sizes of the decoder's axes in its file.
    pub decoder_shape: Vec<usize>,
    /// The encoding of the encoder's numbers.
    pub encoding: String,
}

impl LayerCertificate {
    pub(crate) fn of(layer: &Layer) -> LayerCertificate {
        use crate::activation::Activation;
        use crate::norm::Norm;
        let (k, thresholds) = match &layer.activation {
            Activation::TopK { k } | Activation::GroupMax { k } => (Some(*k), None),
            Activation::JumpRelu { threshold } => {
                let least = threshold.iter().copied().fold(f32::INFINITY, f32::min);
                let most = threshold.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                (None, Some((least, most)))
            }
            _ => (None, None),
        };
        let fixed = |place: &crate::Place| place.fixed().map(|point| point.to_string());
        LayerCertificate {
            reads: layer.reads.text().to_owned(),
            writes: layer.writes.text().to_owned(),
            reads_activation: fixed(&layer.reads),
            writes_activation: fixed(&layer.writes),
            d_in: layer.d_in(),
            n_features: layer.n_features(),
            d_out: layer.d_out(),
            activation: layer.activation.name(),
            k,
            thresholds,
            norm: layer.norm.name(),
            norm_factor: match layer.norm {
                Norm::Scale { factor, .. } => Some(factor),
                _ => None,
            },
            subtracts_decoder_bias: layer.subtracts_bias,
            rescales_by_decoder_norm: layer.rescales,
            has_skip: layer.skip.is_some(),
            encoder_shape: layer.encoder.shape().to_vec(),
            decoder_shape: layer.decoder.shape().to_vec(),
            encoding: layer.encoder.encoding().to_string(),
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "reads": self.reads,
            "writes": self.writes,
            "reads_activation": self.reads_activation,
            "writes_activation": self.writes_activation,
            "d_in": self.d_in,
            "n_features": self.n_features,
            "d_out": self.d_out,
            "activation": self.activation,
            "k": self.k,
            "thresholds": self.thresholds.map(|(least, most)| [least, most]),
            "norm": self.norm,
            "norm_factor": self.norm_factor,
            "subtracts_decoder_bias": self.subtracts_decoder_bias,
            "rescales_by_decoder_norm": self.rescales_by_decoder_norm,
            "has_skip": self.has_skip,
            "encoder_shape": self.encoder_shape,
            "decoder_shape": self.decoder_shape,
            "encoding": self.encoding,
        })
    }
}

impl Certificate {
    /// What is to be said if its publisher names another model than this one. Names are one model's where the letters and
    /// digits of either's last part stand in the other, or of the publisher's in the path: `google/gemma-2-2b` is trained on
    /// what `gemma-2-2b-it` was tuned from. Folders have any names, so this is a hint and no proof.
    pub fn other_model(&self, model: &ModelFiles) -> Option<String> {
        let plain = |text: &str| -> String {
            text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
        };
        let last = |text: &str| plain(text.trim_end_matches('/').rsplit('/').next().unwrap_or(text));
        let stated = self.model.as_deref().filter(|stated| !plain(stated).is_empty())?;
        let (own, path) = (last(&model.name), plain(&model.path().display().to_string()));
        let theirs = last(stated);
        let is_same = [&own, &path].iter().any(|own| own.contains(&theirs))
            || !own.is_empty() && plain(stated).contains(&own);
        let shown = |text: &str| -> String { text.chars().take(200).flat_map(char::escape_debug).collect() };
        (!is_same).then(|| {
            let (stated, own) = (shown(stated), shown(&model.name));
            format!(
                "the dictionary was trained on `{stated}`, as its files say, and this model is called `{own}`"
            )
        })
    }

    /// As JSON, with the schema `easyroutine.dictionary/1`.
    pub fn to_json(&self) -> Value {
        let figures: Map<String, Value> =
            self.figures.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({
            "schema": "easyroutine.dictionary/1",
            "format": self.format,
            "architecture": self.architecture,
            "model": self.model,
            "is_set": self.is_set,
            "layers": self.layers.iter().map(LayerCertificate::to_json).collect::<Vec<_>>(),
            "publisher_figures": figures,
            "files": self.files,
            "warnings": self.warnings,
        })
    }
}
