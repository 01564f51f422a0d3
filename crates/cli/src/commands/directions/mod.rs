//! `direction` and `probe`: steering vectors, and vectors that separate two classes.

mod sides;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyroutine::sites::Point;
use easyroutine_app::reports::{self, LayerAccuracy};
use easyroutine_dictionaries::{
    Accuracy, Directions, LayerDirection, Logistic, Probe, ProbeMethod, Steering, Vectors, fit_probe,
    fit_steering, held_out, held_out_warning,
};
use easyroutine_view::bars;
use serde_json::{Value, json};

use crate::args::{Args, Direction, Format, ProbeApply, ProbeArg, ProbeFit, SteeringArg};
use crate::failure::{Failure, one_line};
use crate::output::{self, Cell, DRAWN, Destination, PLAIN};
use sides::{Read, Unsaid};

pub(crate) fn direction(args: &Args, given: &Direction) -> Result<(), Failure> {
    let outputs = Outputs::of(args, &["safetensors", "gguf"])?;
    let read =
        given.sides.read("last", &given.activations, None, Unsaid::Pair, outputs.has_control_vector())?;
    let labels = read.labels.clone().unwrap_or_default();
    let of_side = |wanted: bool| labels.iter().filter(|label| **label == wanted).count();
    let (n, others) = (of_side(true), of_side(false));
    if n != others {
        return Err(Failure::usage(format!("{n} positive and {others} negative prompts are not pairs")).hint(
            "the first of one side belongs to the first of the other; `probe fit --method mean-difference` needs no pairs",
        ));
    }
    let how = match given.method {
        SteeringArg::Caa => Steering::Caa,
        SteeringArg::PcaDiff => Steering::PcaDiff,
        SteeringArg::PcaCenter => Steering::PcaCenter,
    };
    let mut found = Found::new(how.name(), &read);
    for (point, values) in &read.vectors {
        let width = values.len() / read.n.max(1);
        let side = |wanted: bool| -> Vec<f32> {
            let rows = values.chunks_exact(width).zip(&labels).filter(|(_, label)| **label == wanted);
            rows.flat_map(|(row, _)| row.iter().copied()).collect()
        };
        let (positive, negative) = (side(true), side(false));
        let fitted = fit_steering(Vectors::new(&positive, width)?, Vectors::new(&negative, width)?, how);
        let (vector, accuracy) = fitted.map_err(|e| e.at(point))?;
        found.push(*point, &vector, None, accuracy);
    }
    let words = format!("direction, {}", how.name());
    let json = json!({"schema": "easyroutine.direction/1", "model": read.model, "method": how.name(),
        "pairs": n, "layers": found.json()});
    outputs.write(&found, &read, &words, &json)
}

pub(crate) fn fit(args: &Args, given: &ProbeFit) -> Result<(), Failure> {
    let method = match (given.method, given.c) {
        (ProbeArg::Logistic, c) => {
            ProbeMethod::Logistic(Logistic { c: c.unwrap_or(1.0), standardise: given.standardise })
        }
        (ProbeArg::MeanDifference, None) if !given.standardise => ProbeMethod::MeanDifference,
        (ProbeArg::MeanDifference, _) => {
            return Err(Failure::usage("--c and --standardise are for --method logistic"));
        }
    };
    let outputs = Outputs::of(args, &["safetensors"])?;
    let read = given.sides.read("last", &given.activations, given.split.as_deref(), Unsaid::Label, false)?;
    let labels = read.labels.clone().unwrap_or_default();
    let held_out = read.held_out.clone().unwrap_or_else(|| held_out(&labels));
    if let Some(warning) = held_out_warning(&labels, &held_out) {
        output::note("warning", &warning);
    }
    let mut found = Found::new(method.name(), &read);
    for (point, values) in &read.vectors {
        let rows = Vectors::new(values, values.len() / read.n.max(1))?;
        let (probe, accuracy) = fit_probe(rows, &labels, &held_out, method).map_err(|e| e.at(point))?;
        found.push(*point, &probe.weight, Some(probe.bias), accuracy);
    }
    let words = format!("probe, {}", method.name());
    let json = json!({"schema": "easyroutine.probe/1", "model": read.model, "method": method.name(),
        "rows": read.n, "held_out": held_out.iter().filter(|held| **held).count(), "layers": found.json()});
    outputs.write(&found, &read, &words, &json)
}

pub(crate) fn apply(args: &Args, given: &ProbeApply) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let directions = Directions::open(&given.probe)?;
    let place = given.probe.display();
    if directions.layers.values().any(|layer| layer.bias.is_none()) {
        return Err(Failure::usage(format!("{place} holds directions without a bias, which are not probes"))
            .hint("`probe fit` writes probes"));
    }
    let of_file: Vec<String> =
        directions.layers.keys().map(|layer| format!("{}_{layer}", directions.site)).collect();
    let activations = match &given.activations {
        Some(activations) => activations.clone(),
        None if directions.site.is_empty() => {
            return Err(Failure::usage(format!("{place} does not say which activations it is of"))
                .hint("name them: -a 'resid_out_*'"));
        }
        None => of_file.join(","),
    };
    let own = |key: &str| directions.about.get(key).map(String::as_str);
    let position = own("position").unwrap_or("last");
    let read = given.sides.read(position, &activations, None, Unsaid::Nothing, false)?;
    for (what, key) in [("model", "model_digest"), ("position", "position")] {
        let (fitted, here) = (own(key), read.about.get(key).map(String::as_str));
        if let (Some(fitted), Some(here)) = (fitted, here)
            && fitted != here
        {
            let named = |about: &BTreeMap<String, String>| about.get(what).cloned().unwrap_or_default();
            let text = format!(
                "{place} was fitted on another {what}: `{}`, and this is `{}`",
                named(&directions.about),
                named(&read.about)
            );
            output::note("warning", &one_line(&text));
        }
    }
    let (mut rows, mut told) = (Vec::new(), Vec::new());
    for (point, values) in &read.vectors {
        let layer = point.layer().and_then(|layer| directions.layers.get(&layer));
        let is_same = directions.site.is_empty() || point.site().name() == directions.site;
        let Some(layer) = layer.filter(|_| is_same) else {
            return Err(Failure::usage(format!("{place} has no probe for {point}"))
                .hint(format!("it has {}", of_file.join(", "))));
        };
        let vectors = Vectors::new(values, values.len() / read.n.max(1))?;
        let weight: Vec<f64> = layer.vector.iter().map(|x| f64::from(*x)).collect();
        if weight.len() != vectors.width() {
            return Err(Failure::usage(format!(
                "{place}: the probe of {point} reads vectors of {}, and these have {}",
                weight.len(),
                vectors.width()
            )));
        }
        let probe = Probe { weight, bias: f64::from(layer.bias.unwrap_or(0.0)) };
        let scores = probe.scores(vectors);
        for (row, score) in scores.iter().enumerate() {
            let label = read.labels.as_ref().map(|labels| labels[row]);
            let mut cells = vec![
                Cell::new(row.to_string(), row),
                point.to_string().into(),
                Cell::new(format!("{score:.4}"), *score),
                Cell::new((*score > 0.0).to_string(), *score > 0.0),
            ];
            cells.extend(label.map(|label| Cell::new(label.to_string(), label)));
            rows.push(cells);
        }
        let accuracy = read.labels.as_ref().map(|labels| probe.accuracy(vectors, labels));
        if let Some(accuracy) = accuracy {
            output::note("accuracy", &format!("{point}: {accuracy:.3} of {} rows", read.n));
        }
        told.push(json!({"activation": point.to_string(), "accuracy": accuracy, "scores": scores}));
    }
    let json = json!({"schema": "easyroutine.probe_scores/1", "model": read.model,
        "method": directions.method, "rows": read.n, "layers": told});
    let header = ["row", "activation", "score", "positive", "label"];
    let header = if read.labels.is_some() { &header[..] } else { &header[..4] };
    output::tables(&targets, header, &rows, &json)
}

/// The fitted directions, layer by layer.
struct Found {
    directions: Directions,
    accuracies: Vec<LayerAccuracy>,
}

impl Found {
    fn new(method: &str, read: &Read) -> Found {
        let site = read.vectors.first().map_or("", |(point, _)| point.site().name());
        let directions = Directions {
            site: site.to_owned(),
            method: method.to_owned(),
            about: read.about.clone(),
            layers: BTreeMap::new(),
        };
        Found { directions, accuracies: Vec::new() }
    }

    fn push(&mut self, point: Point, vector: &[f64], bias: Option<f64>, accuracy: Accuracy) {
        let vector = vector.iter().map(|x| *x as f32).collect();
        let layer = LayerDirection { vector, bias: bias.map(|bias| bias as f32) };
        self.directions.layers.insert(point.layer().unwrap_or(0), layer);
        self.accuracies.push(LayerAccuracy { activation: point.to_string(), accuracy });
    }

    fn json(&self) -> Vec<Value> {
        let of_layer = |LayerAccuracy { activation, accuracy }: &LayerAccuracy| {
            json!({"activation": activation, "accuracy_fitted": accuracy.fitted,
                "accuracy_held_out": accuracy.held_out, "chance": accuracy.chance})
        };
        self.accuracies.iter().map(of_layer).collect()
    }
}

fn is_control_vector(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == "gguf")
}

/// Files of directions, and destinations for the figures.
struct Outputs {
    directions: Vec<PathBuf>,
    figures: Vec<Destination>,
}

impl Outputs {
    fn of(args: &Args, endings: &[&str]) -> Result<Outputs, Failure> {
        let is_direction =
            |file: &&PathBuf| file.extension().is_some_and(|ending| endings.iter().any(|one| ending == *one));
        let (directions, others): (Vec<&PathBuf>, Vec<&PathBuf>) = args.output.iter().partition(is_direction);
        directions.iter().try_for_each(|file| output::folder_exists(file))?;
        let figures = match others.is_empty() {
            true => vec![output::standard_output(args, DRAWN)?],
            false => output::targets_of(args, others.into_iter(), DRAWN)?,
        };
        Ok(Outputs { directions: directions.into_iter().cloned().collect(), figures })
    }

    /// Whether one of the files is a control vector.
    fn has_control_vector(&self) -> bool {
        self.directions.iter().any(|file| is_control_vector(file))
    }

    /// Writes the directions and their accuracy.
    fn write(&self, found: &Found, read: &Read, words: &str, json: &Value) -> Result<(), Failure> {
        for file in &self.directions {
            let bytes = match is_control_vector(file) {
                true => found.directions.to_control_vector(&read.model_type)?,
                false => found.directions.to_safetensors()?,
            };
            output::replace(file, |at: &Path| std::fs::write(at, &bytes))?;
        }
        let share = |share: f64| Cell::new(format!("{share:.3}"), share);
        let rows: Vec<Vec<Cell>> = found
            .accuracies
            .iter()
            .map(|LayerAccuracy { activation, accuracy }| {
                let held_out = accuracy.held_out.map_or_else(|| Cell::from(String::new()), share);
                vec![activation.clone().into(), share(accuracy.fitted), held_out, share(accuracy.chance)]
            })
            .collect();
        let about = |key: &str| read.about.get(key).cloned().unwrap_or_default();
        let picture = || reports::accuracies(words, &[about("model"), about("data")], &found.accuracies);
        for target in &self.figures {
            let content = match target.format {
                Format::Html => bars::html(&picture()).into_bytes(),
                Format::Svg => bars::svg(&picture()).into_bytes(),
                Format::Png => bars::png(&picture(), 2.0)?,
                format => {
                    let header = ["activation", "accuracy_fitted", "accuracy_held_out", "chance"];
                    output::render(format, &header, &rows, json)?.into_bytes()
                }
            };
            output::write(target, &content)?;
        }
        Ok(())
    }
}
