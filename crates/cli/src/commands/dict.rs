//! `dict info`: what a dictionary is, and whether it fits a model.

use easyroutine_dictionaries::{Certificate, LayerCertificate, Options};
use serde_json::{Value, json};

use crate::args::{Args, DictInfo, DictReading};
use crate::failure::{Failure, one_line};
use crate::output::{self, Cell, PLAIN};
use crate::session;

impl DictReading {
    pub(crate) fn options(&self) -> Options {
        Options { place: self.place.clone(), norm_factor: self.norm_factor }
    }
}

pub(crate) fn info(args: &Args, info: &DictInfo) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let dictionary =
        session::dictionary(&info.dictionary.path, &info.dictionary.reading.options(), &info.finding)?;
    dictionary.check_numbers()?;
    let certificate = dictionary.certificate();
    certificate.warnings.iter().for_each(|warning| output::note("warning", &one_line(warning)));
    let fits = match &info.model {
        None => None,
        Some(reference) => {
            let files = session::find(reference, &info.finding)?;
            let opened = session::open(&files, &info.finding)?;
            let fits = dictionary.fit(opened.arch())?;
            if let Some(said) = certificate.other_model(&files) {
                output::note("warning", &one_line(&said));
            }
            let places: Vec<Value> = fits
                .iter()
                .map(|fit| json!({"reads": fit.reads.to_string(), "writes": fit.writes.to_string()}))
                .collect();
            Some((files.name.clone(), places))
        }
    };
    let mut json = certificate.to_json();
    let mut rows = facts(certificate);
    if let Some((model, places)) = fits {
        let text: Vec<String> = places
            .iter()
            .map(|place| match (place["reads"].as_str(), place["writes"].as_str()) {
                (Some(reads), Some(writes)) if reads == writes => reads.to_owned(),
                (reads, writes) => format!("{} to {}", reads.unwrap_or_default(), writes.unwrap_or_default()),
            })
            .collect();
        rows.push(("fits", format!("{}: {}", one_line(&model), text.join(", "))));
        json["fits"] = json!({"model": model, "places": places});
    }
    let rows: Vec<Vec<Cell>> = rows
        .into_iter()
        .map(|(what, value)| vec![what.to_owned().into(), Cell::new(value.clone(), value)])
        .collect();
    output::tables(&targets, &["what", "value"], &rows, &json)
}

/// The certificate as a table. Facts shared by all layers of a set are listed once.
fn facts(certificate: &Certificate) -> Vec<(&'static str, String)> {
    let layers = &certificate.layers;
    let each = |of: &dyn Fn(&LayerCertificate) -> String| {
        let mut values: Vec<String> = layers.iter().map(of).collect();
        values.dedup();
        if values.len() > 4 {
            let (first, last) = (values[0].clone(), values[values.len() - 1].clone());
            return format!("{first}, … {last} ({} layers)", layers.len());
        }
        values.join(", ")
    };
    let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
    let mut facts = vec![
        ("format", certificate.format.to_owned()),
        ("architecture", one_line(&certificate.architecture)),
        ("trained_on", certificate.model.as_deref().map_or_else(|| "unknown".to_owned(), one_line)),
        ("layers", layers.len().to_string()),
        ("reads", each(&|layer| one_line(&layer.reads))),
        ("writes", each(&|layer| one_line(&layer.writes))),
        ("d_in", each(&|layer| layer.d_in.to_string())),
        ("n_features", each(&|layer| layer.n_features.to_string())),
        ("d_out", each(&|layer| layer.d_out.to_string())),
        (
            "activation",
            each(&|layer| match (layer.k, layer.thresholds) {
                (Some(k), _) => format!("{}, k = {k}", layer.activation),
                (None, Some((least, most))) => format!("{}, thresholds {least} to {most}", layer.activation),
                (None, None) => layer.activation.to_owned(),
            }),
        ),
        (
            "norm",
            each(&|layer| match layer.norm_factor {
                Some(factor) => format!("{} by {factor}", layer.norm),
                None => layer.norm.to_owned(),
            }),
        ),
        ("subtracts_decoder_bias", each(&|layer| yes(layer.subtracts_decoder_bias))),
        ("rescales_by_decoder_norm", each(&|layer| yes(layer.rescales_by_decoder_norm))),
        ("skip_connection", each(&|layer| yes(layer.has_skip))),
        ("encoder", each(&|layer| format!("{:?} {}", layer.encoder_shape, layer.encoding))),
        ("decoder", each(&|layer| format!("{:?} {}", layer.decoder_shape, layer.encoding))),
    ];
    for (name, value) in &certificate.figures {
        if name == "l0" {
            facts.push(("publisher_l0", value.to_string()));
        }
    }
    facts.push(("files", certificate.files.iter().map(|file| one_line(file)).collect::<Vec<_>>().join(", ")));
    facts
}
