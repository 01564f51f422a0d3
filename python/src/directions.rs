//! Probes and steering vectors.

use easyroutine_app::reports::{self, LayerAccuracy};
use easyroutine_dictionaries::{
    Directions as Engine, LayerDirection, Logistic, Probe, ProbeMethod, Steering, Vectors, fit_probe,
    fit_steering, held_out, held_out_warning,
};
use easyroutine_view::bars;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::attention::drawing;
use crate::errors::Failure;
use crate::interrupt::waiting;
use crate::tensor::Tensor;

/// Vectors of each activation: its key, its layer, and `[rows, width]`.
type Given = Vec<(String, usize, Py<Tensor>)>;

/// Directions for the layers of one site, with what is known of their accuracy.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct Directions {
    directions: Engine,
    accuracies: Vec<LayerAccuracy>,
    /// What is to be said of how they were fitted.
    warnings: Vec<String>,
}

#[pymethods]
impl Directions {
    /// Reads a .safetensors or .gguf file.
    #[staticmethod]
    fn open(path: std::path::PathBuf) -> Result<Directions, Failure> {
        Ok(Directions { directions: Engine::open(&path)?, accuracies: Vec::new(), warnings: Vec::new() })
    }

    /// Fits a probe of each activation to rows of two classes.
    #[staticmethod]
    #[pyo3(signature = (site, given, labels, *, method, c, standardise, held))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python function")]
    fn probe(
        py: Python<'_>,
        site: String,
        given: Given,
        labels: Vec<bool>,
        method: &str,
        c: f64,
        standardise: bool,
        held: Option<Vec<bool>>,
    ) -> Result<Directions, Failure> {
        let method = match method {
            "logistic" => ProbeMethod::Logistic(Logistic { c, standardise }),
            "mean_difference" => ProbeMethod::MeanDifference,
            other => {
                let what = format!("method is \"logistic\" or \"mean_difference\", not {other:?}");
                return Err(Failure::input(what));
            }
        };
        let held = held.unwrap_or_else(|| held_out(&labels));
        if held.len() != labels.len() {
            return Err(Failure::input(format!("held_out has {} rows, labels {}", held.len(), labels.len())));
        }
        let mut found = Directions::of(site, method.name());
        found.warnings.extend(held_out_warning(&labels, &held));
        for (key, layer, tensor) in given {
            let (values, width) = (tensor.get().floats(), width(&key, tensor.get())?);
            let (labels, held) = (labels.clone(), held.clone());
            let named = key.clone();
            let (probe, accuracy) = waiting(py, move || {
                let rows = Vectors::new(&values, width).map_err(|e| e.at(&named))?;
                fit_probe(rows, &labels, &held, method).map_err(|e| e.at(&named))
            })?;
            found.push(layer, &probe.weight, Some(probe.bias));
            found.accuracies.push(LayerAccuracy { activation: key, accuracy });
        }
        Ok(found)
    }

    /// Makes a steering vector of each activation from pairs of rows.
    #[staticmethod]
    fn steering(
        py: Python<'_>,
        site: String,
        positive: Given,
        negative: Given,
        method: &str,
    ) -> Result<Directions, Failure> {
        let method = match method {
            "caa" => Steering::Caa,
            "pca_diff" => Steering::PcaDiff,
            "pca_center" => Steering::PcaCenter,
            other => {
                let what = format!("method is \"caa\", \"pca_diff\" or \"pca_center\", not {other:?}");
                return Err(Failure::input(what));
            }
        };
        let mut found = Directions::of(site, method.name());
        for ((key, layer, positive), (_, _, negative)) in positive.into_iter().zip(negative) {
            let widths = (width(&key, positive.get())?, width(&key, negative.get())?);
            let (positive, negative) = (positive.get().floats(), negative.get().floats());
            let named = key.clone();
            let (vector, accuracy) = waiting(py, move || {
                let positive = Vectors::new(&positive, widths.0).map_err(|e| e.at(&named))?;
                let negative = Vectors::new(&negative, widths.1).map_err(|e| e.at(&named))?;
                fit_steering(positive, negative, method).map_err(|e| e.at(&named))
            })?;
            found.push(layer, &vector, None);
            found.accuracies.push(LayerAccuracy { activation: key, accuracy });
        }
        Ok(found)
    }

    #[getter]
    fn site(&self) -> &str {
        &self.directions.site
    }

    #[getter]
    fn method(&self) -> &str {
        &self.directions.method
    }

    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    /// For each layer its number, its vector and, for a probe, its bias.
    fn layers(&self) -> Vec<(usize, Tensor, Option<f32>)> {
        let layers = self.directions.layers.iter();
        let of_layer = |(number, layer): (&usize, &LayerDirection)| {
            (*number, Tensor::f32(layer.vector.clone(), vec![layer.vector.len()]), layer.bias)
        };
        layers.map(of_layer).collect()
    }

    /// For each activation the accuracy on the fitted rows and on the held-out rows, and the accuracy of chance.
    fn accuracies(&self) -> Vec<(String, f64, Option<f64>, f64)> {
        let of_layer = |LayerAccuracy { activation, accuracy }: &LayerAccuracy| {
            (activation.clone(), accuracy.fitted, accuracy.held_out, accuracy.chance)
        };
        self.accuracies.iter().map(of_layer).collect()
    }

    /// vector · x + bias for each vector `[..., width]`.
    fn scores(&self, layer: usize, x: &Tensor) -> Result<Tensor, Failure> {
        let Some(found) = self.directions.layers.get(&layer) else {
            return Err(Failure::input(format!("no direction of layer {layer}")));
        };
        let width = width("x", x)?;
        if width != found.vector.len() {
            let what =
                format!("the direction reads vectors of {}, and these have {width}", found.vector.len());
            return Err(Failure::input(what));
        }
        let probe = Probe {
            weight: found.vector.iter().map(|x| f64::from(*x)).collect(),
            bias: f64::from(found.bias.unwrap_or(0.0)),
        };
        let values = x.floats();
        let scores = probe.scores(Vectors::new(&values, width)?);
        let shape = x.shape[..x.shape.len() - 1].to_vec();
        Ok(Tensor::f32(scores.iter().map(|score| *score as f32).collect(), shape))
    }

    /// The bytes of a safetensors file.
    fn safetensors<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyBytes>, Failure> {
        Ok(PyBytes::new(py, &self.directions.to_safetensors()?))
    }

    /// The bytes of a llama.cpp control vector.
    fn control_vector<'py>(&self, py: Python<'py>, hint: &str) -> Result<Bound<'py, PyBytes>, Failure> {
        Ok(PyBytes::new(py, &self.directions.to_control_vector(hint)?))
    }

    /// Accuracies by layer as a page.
    fn html(&self) -> String {
        bars::html(&self.picture())
    }

    fn svg(&self) -> String {
        bars::svg(&self.picture())
    }

    fn png<'py>(&self, py: Python<'py>, scale: f32) -> Result<Bound<'py, PyBytes>, Failure> {
        Ok(PyBytes::new(py, &bars::png(&self.picture(), scale).map_err(drawing)?))
    }
}

impl Directions {
    fn of(site: String, method: &str) -> Directions {
        let directions = Engine { site, method: method.to_owned(), ..Engine::default() };
        Directions { directions, accuracies: Vec::new(), warnings: Vec::new() }
    }

    fn push(&mut self, layer: usize, vector: &[f64], bias: Option<f64>) {
        let vector = vector.iter().map(|x| *x as f32).collect();
        self.directions.layers.insert(layer, LayerDirection { vector, bias: bias.map(|bias| bias as f32) });
    }

    fn picture(&self) -> bars::BarsReport {
        let kind = if self.directions.layers.values().any(|layer| layer.bias.is_some()) {
            "probe"
        } else {
            "direction"
        };
        reports::accuracies(&format!("{kind}, {}", self.directions.method), &[], &self.accuracies)
    }
}

fn width(key: &str, x: &Tensor) -> Result<usize, Failure> {
    match x.shape.last() {
        Some(width) if *width > 0 => Ok(*width),
        _ => Err(Failure::input(format!("{key}: vectors are expected, and the shape is {:?}", x.shape))),
    }
}
