//! Gemma Scope: `params.npz`; the folder names give layer, width and kind.

use easyroutine::Result;
use easyroutine_sites::{Point, Site};

use super::draft::{Context, Draft, Reading};
use crate::activation::Activation;
use crate::norm::Norm;
use crate::place::Place;
use crate::tensors::Axes;

pub(crate) fn read(context: &mut Context<'_>) -> Result<Option<Reading>> {
    let mut tensors = context.tensors("params.npz")?;
    // Some releases spell the matrices with a lower-case letter.
    let spelt = |upper: &'static str, lower: &'static str| {
        if tensors.has(lower) && !tensors.has(upper) { lower } else { upper }
    };
    let (encoder_name, decoder_name) = (spelt("W_enc", "w_enc"), spelt("W_dec", "w_dec"));
    let (Some((features, d_in)), Some((_, d_out))) =
        (tensors.sizes(encoder_name, Axes::WidthFirst), tensors.sizes(decoder_name, Axes::FeaturesFirst))
    else {
        return Ok(None);
    };
    let encoder = tensors.matrix(encoder_name, Axes::WidthFirst, features, d_in);
    let decoder = tensors.matrix(decoder_name, Axes::FeaturesFirst, features, d_out);
    let encoder_bias = tensors.vector("b_enc", features, "feature");
    let decoder_bias = tensors.vector("b_dec", d_out, "coordinate");
    let threshold = tensors.vector("threshold", features, "feature");
    if tensors.has("scaling_factor") {
        let factor = tensors.vector("scaling_factor", features, "feature").unwrap_or_default();
        if factor.iter().any(|x| (x - 1.0).abs() > 1e-5) {
            context.problems.add("params.npz: a `scaling_factor` other than 1 is not read");
        }
    }
    tensors.finish();
    let names = Names::of(context);
    names.check_width(features, context);
    context.figures.extend(names.l0.map(|l0| ("l0".to_owned(), l0)));
    let place = names.place();
    let place = context.place(place);
    let (Some(encoder), Some(encoder_bias), Some(decoder), Some(decoder_bias), Some(threshold)) =
        (encoder, encoder_bias, decoder, decoder_bias, threshold)
    else {
        return Ok(None);
    };
    let mut draft =
        Draft::new((encoder, encoder_bias), (decoder, decoder_bias), Activation::JumpRelu { threshold });
    if names.is_embedding {
        // Trained on embeddings before the model's factor √D.
        let factor = 1.0 / (d_in as f64).sqrt();
        draft.norm = Norm::Scale { factor, undo: factor };
    }
    Ok(Some(Reading::one("jumprelu", names.model, draft.at(place.clone(), place))))
}

/// The contents of the folder names.
#[derive(Debug, Default)]
struct Names {
    layer: Option<usize>,
    kind: Option<String>,
    width: Option<usize>,
    l0: Option<f64>,
    is_embedding: bool,
    model: Option<String>,
}

impl Names {
    fn of(context: &Context<'_>) -> Names {
        let whole = std::path::absolute(&context.folder).unwrap_or_else(|_| context.folder.clone());
        let mut names = Names::default();
        for part in whole.components().rev().take(12) {
            let part = part.as_os_str().to_string_lossy().to_lowercase();
            if let Some(layer) = part.strip_prefix("layer_").and_then(|n| n.parse::<u32>().ok()) {
                names.layer.get_or_insert(layer as usize);
            } else if let Some(width) = part.strip_prefix("width_") {
                names.width = names.width.or_else(|| number(width));
            } else if let Some(l0) = part.strip_prefix("average_l0_").and_then(|n| n.parse().ok()) {
                names.l0.get_or_insert(l0);
            } else if part == "embedding" {
                names.is_embedding = true;
            } else if names.kind.is_none() && part.contains("gemma") && part.contains("scope") {
                let words: Vec<&str> = part.split(['-', '_']).collect();
                let kinds = ["res", "mlp", "att", "transcoders"];
                names.kind = kinds.iter().find(|kind| words.contains(*kind)).map(|kind| (*kind).to_owned());
                let sized = words.windows(2).find(|pair| matches!(pair[1], "pt" | "it"));
                names.model = sized
                    .map(|pair| format!("gemma-2-{}{}", pair[0], if pair[1] == "it" { "-it" } else { "" }));
            }
        }
        names
    }

    fn check_width(&self, features: usize, context: &Context<'_>) {
        if let Some(width) = self.width.filter(|width| *width != features) {
            context
                .problems
                .add(format!("its folder says a width of {width}, but it has {features} features"));
        }
    }

    fn place(&self) -> Result<Place, String> {
        if self.is_embedding {
            return Place::hook("hook_embed", None);
        }
        let layer = self.layer.ok_or("no folder on its path is called layer_N")?;
        let site = match self.kind.as_deref() {
            Some("res") => Site::ResidOut,
            Some("mlp") => Site::MlpOut,
            Some("att") => Site::Z,
            Some("transcoders") => {
                return Err(
                    "transcoders of Gemma Scope read a norm's output, with or without its weights".to_owned()
                );
            }
            _ => {
                return Err("no folder on its path says the kind, as gemma-scope-2b-pt-res does".to_owned());
            }
        };
        Ok(Place::of(Point::layer_of(site, layer)))
    }
}

/// 16k is 16,384.
fn number(text: &str) -> Option<usize> {
    let (digits, unit) = match text.strip_suffix(['k', 'm']) {
        Some(digits) if text.ends_with('k') => (digits, 1 << 10),
        Some(digits) => (digits, 1 << 20),
        None => (text, 1),
    };
    // 65k and 131k are powers of two named by their thousands.
    let count = digits.parse::<usize>().ok().filter(|n| *n < 1 << 20)?;
    Some(match (count, unit) {
        (65, 1024) => 1 << 16,
        (131, 1024) => 1 << 17,
        (262, 1024) => 1 << 18,
        (524, 1024) => 1 << 19,
        (count, unit) => count * unit,
    })
}
