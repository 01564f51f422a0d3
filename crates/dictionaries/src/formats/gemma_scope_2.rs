//! Gemma Scope 2: `config.json` with `params.safetensors`, or `params_layer_N.safetensors` for a cross-layer
//! transcoder.

use easyroutine::Result;
use serde_json::json;

use super::draft::{Context, Draft, Reading};
use crate::activation::Activation;
use crate::place::Place;
use crate::settings::Settings;
use crate::tensors::{Axes, Tensors};

/// Limit on the layers of a set.
const MOST_LAYERS: usize = 1000;

pub(crate) fn read(context: &mut Context<'_>) -> Result<Option<Reading>> {
    let config = context.json("config.json")?;
    let declared = Declared::read(&config, &["sae", "transcoder"]);
    let mut tensors = context.tensors("params.safetensors")?;
    let Some((features, d_in)) = tensors.sizes("w_enc", Axes::WidthFirst) else { return Ok(None) };
    let d_out = tensors.sizes("w_dec", Axes::FeaturesFirst).map_or(d_in, |(_, width)| width);
    let decoder = tensors.matrix("w_dec", Axes::FeaturesFirst, features, d_out);
    let draft = layer(&mut tensors, decoder, (features, d_in, d_out), declared.is_affine);
    tensors.finish();
    declared.check_width(features, &config);
    context.figures.extend(declared.l0.map(|l0| ("l0".to_owned(), l0)));
    let place = |names: &[String]| match names {
        [name] => context.place(Place::module(name, None)),
        _ => {
            context.problems.add("config.json: one place is expected");
            None
        }
    };
    let reads = place(&declared.reads);
    let writes = if declared.writes.is_empty() { reads.clone() } else { place(&declared.writes) };
    let Some(draft) = draft else { return Ok(None) };
    Ok(Some(Reading::one(declared.kind, declared.model, draft.at(reads, writes))))
}

pub(crate) fn read_cross_layer(context: &mut Context<'_>) -> Result<Option<Reading>> {
    let config = context.json("config.json")?;
    let declared = Declared::read(&config, &["clt"]);
    let n = declared.reads.len();
    if n == 0 || n > MOST_LAYERS || declared.writes.len() != n {
        context.problems.add("config.json: as many places to write as to read are expected");
        return Ok(None);
    }
    let beyond = format!("params_layer_{n}.safetensors");
    if context.folder.join(&beyond).exists() {
        context.problems.add(format!("{beyond}: config.json names {n} layers"));
    }
    let mut drafts = Vec::new();
    for number in 0..n {
        let mut tensors = context.tensors(&format!("params_layer_{number}.safetensors"))?;
        let Some((features, d_in)) = tensors.sizes("w_enc", Axes::WidthFirst) else { continue };
        let shape = tensors.shape("w_dec").unwrap_or_default();
        let d_out = shape.last().copied().unwrap_or(0);
        let decoder = tensors.layered("w_dec", features, n, d_out);
        let draft = layer(&mut tensors, decoder, (features, d_in, d_out), declared.is_affine);
        tensors.finish();
        declared.check_width(features, &config);
        let reads = context.place(Place::module(&declared.reads[number], None));
        let writes = context.place(Place::module(&declared.writes[number], None));
        drafts.extend(draft.map(|draft| Draft { parts: 0..n, ..draft.at(reads, writes) }));
    }
    let (architecture, model) = (declared.kind, declared.model);
    Ok(Some(Reading { architecture, model, drafts, is_set: true, is_cross_layer: true }))
}

/// One file of a set.
pub(super) fn transcoder(tensors: &mut Tensors) -> Option<Draft> {
    let (features, d_in) = tensors.sizes("w_enc", Axes::WidthFirst)?;
    let (_, d_out) = tensors.sizes("w_dec", Axes::FeaturesFirst)?;
    let decoder = tensors.matrix("w_dec", Axes::FeaturesFirst, features, d_out);
    let is_affine = tensors.has("affine_skip_connection");
    layer(tensors, decoder, (features, d_in, d_out), is_affine)
}

fn layer(
    tensors: &mut Tensors,
    decoder: Option<crate::tensors::Matrix>,
    (features, d_in, d_out): (usize, usize, usize),
    is_affine: bool,
) -> Option<Draft> {
    let encoder = tensors.matrix("w_enc", Axes::WidthFirst, features, d_in);
    let encoder_bias = tensors.vector("b_enc", features, "feature");
    let decoder_bias = tensors.vector("b_dec", d_out, "coordinate");
    let threshold = tensors.vector("threshold", features, "feature");
    // `[in, out]`: for a square matrix only the format says so.
    let skip = is_affine.then(|| tensors.matrix("affine_skip_connection", Axes::WidthFirst, d_out, d_in));
    let activation = Activation::JumpRelu { threshold: threshold? };
    let draft = Draft::new((encoder?, encoder_bias?), (decoder?, decoder_bias?), activation);
    Some(Draft { skip: skip.flatten(), ..draft })
}

/// The contents of the configuration.
struct Declared {
    kind: String,
    model: Option<String>,
    reads: Vec<String>,
    writes: Vec<String>,
    width: Option<usize>,
    l0: Option<f64>,
    is_affine: bool,
}

impl Declared {
    fn read(config: &Settings, kinds: &[&str]) -> Declared {
        config.only("architecture", &[json!("jump_relu")]);
        let kind = config.text("type").unwrap_or_else(|| kinds[0].to_owned());
        if !kinds.contains(&kind.as_str()) {
            config.refuse("type", &kinds.join(", "));
        }
        let declared = Declared {
            model: config.text("model_name"),
            reads: config.texts("hf_hook_point_in").unwrap_or_default(),
            writes: config.texts("hf_hook_point_out").unwrap_or_default(),
            width: config.size("width"),
            l0: config.number("l0"),
            is_affine: config.flag("affine_connection").unwrap_or(false),
            kind,
        };
        if declared.reads.is_empty() {
            config.missing("hf_hook_point_in");
        }
        config.finish(&[]);
        declared
    }

    fn check_width(&self, features: usize, config: &Settings) {
        if self.width.is_some_and(|width| width != features) {
            config.refuse("width", &format!("{features}, which the weights have"));
        }
    }
}
