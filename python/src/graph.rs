//! Attribution graphs.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use easyroutine::source::{Environment, ResolveOptions};
use easyroutine::{Error, ErrorKind, Stop};
use easyroutine_dictionaries::{Dictionary, Options as Reading};
use easyroutine_graphs::{Graph, Node, Options, Pruned, Texts, lines, report, to_json};
use easyroutine_view::drawing::{GraphDrawing, Screen};
use easyroutine_view::lens::ColourDepth;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use serde_json::{Value, json};

use crate::attention::drawn;
use crate::errors::Failure;
use crate::interrupt::Signals;
use crate::model::Model;
use crate::patching::Told;
use crate::tensor::Tensor;

/// Which nodes are left, and the remaining edges as target and source.
type Left = (Vec<bool>, Vec<(usize, usize)>);

/// The settings of a graph, as Python writes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct GraphSettings {
    path: String,
    offline: bool,
    place: Option<String>,
    norm_factor: Option<f64>,
    targets: Option<Vec<u32>>,
    max_logits: usize,
    probability: f64,
    max_features: usize,
    skip_first: usize,
    checks: usize,
}

/// An attribution graph.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct AttributionGraph {
    graph: Graph,
    /// As in the viewers' JSON.
    texts: Texts,
    /// For display.
    shown: Texts,
    model: String,
    settings: Value,
}

/// Computes the graph of a row.
pub(crate) fn make(
    py: Python<'_>,
    model: &Model,
    ids: &[u32],
    settings: GraphSettings,
    progress: Option<Py<PyAny>>,
) -> Result<(AttributionGraph, Vec<String>), Failure> {
    let reading = Reading { place: settings.place, norm_factor: settings.norm_factor };
    let options = Options {
        targets: settings.targets,
        max_logits: settings.max_logits,
        probability: settings.probability,
        max_features: settings.max_features,
        zeroed: settings.skip_first,
        checks: settings.checks,
        ..Options::default()
    };
    let signals = Signals::new();
    let mut told = Told::new(progress);
    let raised = AtomicBool::new(false);
    let found = py.detach(|| -> easyroutine::Result<(Graph, Dictionary)> {
        let finding = ResolveOptions { offline: settings.offline, ..ResolveOptions::default() };
        let environment = Environment::from_process();
        let dictionary = Dictionary::open_reference(&settings.path, &reading, &finding, &environment)?;
        let stop = Stop::When(&|| raised.load(Ordering::Relaxed) || signals.is_stopped());
        let graph = Graph::new(&model.model, &dictionary, ids, &options, stop, &mut |done, of| {
            if told.tell(done, of).is_err() {
                raised.store(true, Ordering::Relaxed);
            }
        })?;
        // An exception that `progress` raised at the end counts as well.
        match raised.load(Ordering::Relaxed) {
            true => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
            false => Ok((graph, dictionary)),
        }
    });
    let (graph, dictionary) = found.map_err(|error| told.failure(&signals, error))?;
    let shown = |id: &u32| match &model.tokenizer {
        Some(tokenizer) => tokenizer.token_text(*id).to_string(),
        None => format!("<id {id}>"),
    };
    // The viewers' JSON holds each id decoded alone, as circuit-tracer writes it.
    let decoded = |id: &u32| match &model.tokenizer {
        Some(tokenizer) => tokenizer.decode(&[*id], false),
        None => Ok(format!("<id {id}>")),
    };
    let logits: Vec<u32> = graph.logits.iter().map(|logit| logit.id).collect();
    let folder = Path::new(settings.path.trim_end_matches('/'))
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let texts = Texts {
        slug: "graph".to_owned(),
        scan: folder.unwrap_or_default(),
        prompt: match &model.tokenizer {
            Some(tokenizer) => tokenizer.decode(ids, false)?,
            None => String::new(),
        },
        tokens: ids.iter().map(decoded).collect::<easyroutine::Result<_>>()?,
        logits: logits.iter().map(decoded).collect::<easyroutine::Result<_>>()?,
    };
    let shown_texts = Texts {
        tokens: ids.iter().map(shown).collect(),
        logits: logits.iter().map(shown).collect(),
        ..texts.clone()
    };
    let settings = json!({
        "schema": "easyroutine.graph/1",
        "dictionary": dictionary.certificate().to_json(),
        "settings": {
            "max_logits": options.max_logits,
            "probability": options.probability,
            "answers": options.targets,
            "max_features": options.max_features,
            "skip_first": options.zeroed,
        },
    });
    let mut warnings = dictionary.certificate().warnings.clone();
    warnings.extend(dictionary.certificate().other_model(&model.files));
    let begins = ids.iter().take(options.zeroed).find(|id| !model.special().contains(id));
    if let (Some(id), Some(_)) = (begins, &model.tokenizer) {
        warnings.push(format!(
            "{:?} stands at the beginning, where features and errors are left out: put a special token before it",
            shown(id)
        ));
    }
    Ok((
        AttributionGraph { graph, texts, shown: shown_texts, model: model.name().to_owned(), settings },
        warnings,
    ))
}

impl AttributionGraph {
    fn pruned(&self, nodes: f64, edges: f64) -> Result<Pruned, Failure> {
        Ok(self.graph.prune(nodes, edges)?)
    }

    fn texts(&self, slug: Option<String>, scan: Option<String>) -> Texts {
        let mut texts = self.texts.clone();
        texts.slug = slug.unwrap_or(texts.slug);
        texts.scan = scan.unwrap_or(texts.scan);
        texts
    }
}

#[pymethods]
impl AttributionGraph {
    /// Every node, as a dict.
    fn nodes<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let influence = py.detach(|| self.graph.influence());
        let mut nodes = Vec::with_capacity(influence.len());
        for (number, influence) in influence.iter().enumerate() {
            let dict = PyDict::new(py);
            match self.graph.node(number) {
                Some(Node::Feature(feature)) => {
                    dict.set_item("kind", "feature")?;
                    dict.set_item("layer", feature.layer)?;
                    dict.set_item("position", feature.position)?;
                    dict.set_item("feature", feature.number)?;
                    dict.set_item("value", feature.value)?;
                }
                Some(Node::Error { layer, position }) => {
                    dict.set_item("kind", "error")?;
                    dict.set_item("layer", layer)?;
                    dict.set_item("position", position)?;
                }
                Some(Node::Token { position }) => {
                    dict.set_item("kind", "token")?;
                    dict.set_item("position", position)?;
                    dict.set_item("id", self.graph.ids[position])?;
                    dict.set_item("text", &self.shown.tokens[position])?;
                }
                Some(Node::Logit(logit)) => {
                    dict.set_item("kind", "logit")?;
                    dict.set_item("position", self.graph.ids.len() - 1)?;
                    dict.set_item("id", logit.id)?;
                    dict.set_item("text", &self.shown.logits[number - self.graph.n_sources()])?;
                    dict.set_item("probability", logit.probability)?;
                }
                None => {}
            }
            dict.set_item("influence", influence)?;
            nodes.push(dict);
        }
        Ok(nodes)
    }

    /// Direct effects, targets by sources.
    fn edges(&self, py: Python<'_>) -> Tensor {
        let rows = || self.graph.targets().filter_map(|target| self.graph.row(target));
        let edges = py.detach(|| rows().flatten().copied().collect());
        Tensor::f32(edges, vec![rows().count(), self.graph.n_sources()])
    }

    /// How many targets and sources there are.
    fn shape(&self) -> (usize, usize) {
        (self.graph.targets().count(), self.graph.n_sources())
    }

    fn scores(&self, py: Python<'_>) -> (f64, f64) {
        let scores = py.detach(|| self.graph.scores());
        (scores.replacement, scores.completeness)
    }

    /// Which nodes are left, and the remaining edges as target and source.
    fn prune(&self, py: Python<'_>, nodes: f64, edges: f64) -> Result<Left, Failure> {
        let pruned = py.detach(|| self.pruned(nodes, edges))?;
        Ok((pruned.nodes, pruned.edges))
    }

    /// As JSON in circuit-tracer's format.
    fn json(
        &self,
        py: Python<'_>,
        nodes: f64,
        edges: f64,
        slug: Option<String>,
        scan: Option<String>,
    ) -> Result<String, Failure> {
        let mut settings = self.settings.clone();
        settings["settings"]["node_threshold"] = json!(nodes);
        settings["settings"]["edge_threshold"] = json!(edges);
        py.detach(|| {
            let (pruned, texts) = (self.pruned(nodes, edges)?, self.texts(slug, scan));
            Ok(to_json(&self.graph, &pruned, nodes, &texts, settings).to_string())
        })
    }

    /// As `html`, `csv`, `markdown` or `terminal`.
    fn draw<'py>(
        &self,
        py: Python<'py>,
        format: &str,
        nodes: f64,
        edges: f64,
        width: usize,
        most: usize,
    ) -> Result<Bound<'py, PyBytes>, Failure> {
        let bytes = py.detach(|| {
            let pruned = self.pruned(nodes, edges)?;
            let mut said = lines(&self.graph, &pruned);
            said.insert(0, format!("{} · {}", self.model, self.texts.scan));
            let report = report(&self.graph, &pruned, &self.shown, said);
            let screen = Screen { width, colour: ColourDepth::None };
            drawn(&GraphDrawing { report: &report, most }, format, screen)
        })?;
        Ok(PyBytes::new(py, &bytes))
    }
}
