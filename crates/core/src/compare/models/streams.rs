//! Both models on the same prompts: how far their streams and predictions part, by layer, head, position and token.

use std::cell::Cell;
use std::collections::BTreeMap;

use easyroutine_kernels::Rows;
use easyroutine_sites::{Point, Selector, Site};

use super::apart::{Mean, Summary, Vector};
use super::{Options, Pair};
use crate::cache::{ActivationCache, Kept};
use crate::error::{Error, ErrorKind, Result};
use crate::extract::{self, Example, Progress, extract};
use crate::lens::LogitLens;
use crate::model::Model;
use crate::positions::Specifier;
use crate::request::Request;

/// Activations of each model held at a time: what memory holds of prompts is bounded, whatever their number.
const LARGEST_WINDOW: u64 = 256 << 20;

/// Where two models part.
#[derive(Debug, Clone, PartialEq)]
pub struct Differences {
    /// The streams, from the embedding up.
    pub layers: Vec<OfLayer>,
    /// The mixed values of each head, before the output projection, layer by layer.
    pub heads: Vec<OfHead>,
    /// The stream that leaves the last layer, by position.
    pub positions: Vec<OfPosition>,
    /// The same by token, those with the largest sums first: of KL, or of errors if there is no unembedding.
    pub tokens: Vec<OfToken>,
    /// The positions with the largest differences after the last layer, the largest first.
    pub worst: Vec<Place>,
    /// Number of prompts.
    pub n_rows: usize,
    /// Number of their tokens.
    pub n_tokens: usize,
    /// The first layer, prompt and position with NaN, in the order of the prompts.
    pub first_nan: Option<(Option<usize>, usize, usize)>,
}

/// The stream that leaves a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct OfLayer {
    /// `None`: the embedding.
    pub layer: Option<usize>,
    /// Over all positions.
    pub summary: Summary,
}

/// One head.
#[derive(Debug, Clone, PartialEq)]
pub struct OfHead {
    /// Its layer.
    pub layer: usize,
    /// Its number there.
    pub head: usize,
    /// Over all positions; without predictions.
    pub summary: Summary,
}

/// One position of all prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct OfPosition {
    /// The position.
    pub position: usize,
    /// Over all prompts that are long enough.
    pub summary: Summary,
}

/// One token wherever it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct OfToken {
    /// Its id.
    pub id: u32,
    /// Over all places where it stands.
    pub summary: Summary,
}

/// One position of one prompt, layer by layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// The number of the prompt.
    pub row: usize,
    /// The position.
    pub position: usize,
    /// Its token.
    pub id: u32,
    /// From the embedding up.
    pub layers: Vec<AtLayer>,
}

/// One layer at one position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AtLayer {
    /// The norm of the difference over the norm of A's stream; NaN if either holds NaN.
    pub error: f64,
    /// The cosine of the angle between both.
    pub cosine: f64,
    /// What each lens predicts, if the models have an unembedding.
    pub prediction: Option<Predicted>,
}

/// What both lenses predict at one layer and position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Predicted {
    /// KL(A ‖ B) in nats.
    pub kl: f64,
    /// The most likely token of A and of B.
    pub top: [u32; 2],
    /// The probability that each gives to its own.
    pub p: [f64; 2],
}

impl AtLayer {
    fn vector(&self) -> Vector {
        Vector { error: self.error, cosine: self.cosine }
    }

    fn changed(&self) -> Option<(f64, bool)> {
        self.prediction.map(|predicted| (predicted.kl, predicted.top[0] != predicted.top[1]))
    }

    /// What places are ranked by: NaN first.
    fn size(&self) -> f64 {
        let size = self.prediction.map_or(self.error, |predicted| predicted.kl);
        if size.is_nan() || self.error.is_nan() { f64::NAN } else { size }
    }
}

impl Place {
    /// The first layer, counted from the embedding, from which on the predictions differ up to the last layer; `None` if
    /// those of the last agree.
    pub fn parts_at(&self) -> Option<usize> {
        let differs = |layer: &AtLayer| layer.changed().is_some_and(|(_, is_changed)| is_changed);
        let agreeing = self.layers.iter().rposition(|layer| !differs(layer)).map_or(0, |last| last + 1);
        (agreeing < self.layers.len()).then_some(agreeing)
    }

    fn size(&self) -> f64 {
        self.layers.last().map_or(0.0, AtLayer::size)
    }
}

impl Pair {
    /// Runs both models on the same prompts. Streams of A are read through A's final norm and unembedding, those of B through
    /// B's: what the last layer says is how far the models' own predictions part.
    ///
    /// Memory holds the activations of some prompts at a time. Results do not depend on how many.
    ///
    /// # Errors
    /// As [`extract()`], for either model; `Interrupted` if it was stopped.
    pub fn differences(&self, examples: &[Example], options: Options<'_>) -> Result<Differences> {
        self.unchanged(|| self.compared(examples, options))
    }

    fn compared(&self, examples: &[Example], options: Options<'_>) -> Result<Differences> {
        if examples.is_empty() {
            return Err(Error::input("no prompt given"));
        }
        let request = request(&self.models[0])?;
        let lenses = match self.models[0].unembedding() {
            Ok(_) => Some([LogitLens::from_model(&self.models[0])?, LogitLens::from_model(&self.models[1])?]),
            Err(_) => None,
        };
        let mut found = Found::new(&self.models[0]);
        let tokens_of =
            |examples: &[Example]| examples.iter().map(|example| example.ids.len()).sum::<usize>();
        let (all_rows, all_tokens) = (examples.len(), tokens_of(examples));
        let (rows, tokens) = (Cell::new(0), Cell::new(0));
        for window in self.windows(examples, &request)? {
            let of_window = tokens_of(window);
            // Running A and B, and reading both, take about a third each.
            let tell = |thirds: usize, of: usize| {
                if let Some(tell) = options.progress {
                    let tokens = tokens.get() + (thirds * of_window + of) / 3;
                    tell(Progress { rows: rows.get(), all_rows, tokens, all_tokens });
                }
            };
            let run = |model: &Model, third: usize| {
                let inner = |progress: Progress| tell(third, progress.tokens);
                let options = extract::Options {
                    batch_tokens: options.batch_tokens,
                    folder: options.folder,
                    progress: Some(&inner),
                    stop: options.stop,
                    ..extract::Options::default()
                };
                extract(model, &request, window, options)
            };
            let caches = [run(&self.models[0], 0)?, run(&self.models[1], 1)?];
            found.window(window, &caches, lenses.as_ref(), options)?;
            rows.set(rows.get() + window.len());
            tokens.set(tokens.get() + of_window);
            tell(0, 0);
        }
        Ok(found.finish(all_rows, all_tokens, options.worst))
    }

    /// The examples, cut where memory ends.
    fn windows<'a>(&self, examples: &'a [Example], request: &Request) -> Result<Vec<&'a [Example]>> {
        let arch = self.models[0].arch();
        let width: usize = request.points(arch)?.into_iter().filter_map(|point| arch.width(point)).sum();
        let of_token = 4 * width.max(1) as u64;
        let room = self.models.iter().filter_map(Model::room).map(|room| room / 4).min();
        let most = (room.unwrap_or(LARGEST_WINDOW).min(LARGEST_WINDOW) / of_token).max(1) as usize;
        let mut windows = Vec::new();
        let (mut start, mut tokens) = (0, 0);
        for (end, example) in examples.iter().enumerate() {
            if end > start && tokens + example.ids.len() > most {
                windows.push(&examples[start..end]);
                (start, tokens) = (end, 0);
            }
            tokens += example.ids.len();
        }
        windows.push(&examples[start..]);
        Ok(windows)
    }
}

/// The streams, and the values of heads where there are any.
fn request(model: &Model) -> Result<Request> {
    let arch = model.arch();
    let has_heads = (0..arch.layers.len()).any(|layer| arch.lacks(Point::layer_of(Site::Z, layer)).is_none());
    let names = if has_heads { "input_embeddings,resid_out_*,z_L*" } else { "input_embeddings,resid_out_*" };
    let activations = Selector::parse_list(names)?;
    Ok(Request { activations, positions: vec![Specifier::All], ..Request::default() })
}

/// What was found so far.
struct Found {
    layers: Vec<OfLayer>,
    heads: Vec<OfHead>,
    positions: Vec<Summary>,
    tokens: BTreeMap<u32, Summary>,
    worst: Vec<Place>,
    first_nan: Option<(Option<usize>, usize, usize)>,
}

impl Found {
    fn new(model: &Model) -> Found {
        let arch = model.arch();
        let layers = std::iter::once(None).chain((0..arch.layers.len()).map(Some));
        let has_heads = |layer: &usize| arch.lacks(Point::layer_of(Site::Z, *layer)).is_none();
        let heads = (0..arch.layers.len()).filter(has_heads).flat_map(|layer| {
            let of = move |head| OfHead { layer, head, summary: Summary::default() };
            (0..arch.heads(layer).n).map(of)
        });
        Found {
            layers: layers.map(|layer| OfLayer { layer, summary: Summary::default() }).collect(),
            heads: heads.collect(),
            positions: Vec::new(),
            tokens: BTreeMap::new(),
            worst: Vec::new(),
            first_nan: None,
        }
    }

    /// Adds what both models did with some examples.
    fn window(
        &mut self,
        examples: &[Example],
        caches: &[ActivationCache; 2],
        lenses: Option<&[LogitLens; 2]>,
        options: Options<'_>,
    ) -> Result<()> {
        let place = |example: &Example| -> Vec<(usize, usize, u32)> {
            let ids = example.ids.iter().enumerate();
            ids.map(|(position, id)| (example.number, position, *id)).collect()
        };
        let places: Vec<(usize, usize, u32)> = examples.iter().flat_map(place).collect();
        let mut profiles: Vec<Vec<AtLayer>> = vec![Vec::with_capacity(self.layers.len()); places.len()];
        for OfLayer { layer, summary } in &mut self.layers {
            let point = match layer {
                None => Point::model(Site::InputEmbeddings),
                Some(layer) => Point::layer_of(Site::ResidOut, *layer),
            };
            let [a, b] = both(caches, point)?;
            let width = a.len() / places.len().max(1);
            let predicted = match lenses {
                Some([of_a, of_b]) => {
                    let streams = [a, b].map(|values| Rows::dense(values, places.len(), width));
                    Some(LogitLens::divergences([of_a, of_b], streams, options.stop)?)
                }
                None => None,
            };
            let vectors = a.chunks_exact(width.max(1)).zip(b.chunks_exact(width.max(1)));
            for (n, (a, b)) in vectors.enumerate() {
                let Vector { error, cosine } = Vector::of(a, b);
                let prediction = predicted.as_ref().map(|all| all[n]);
                let prediction =
                    prediction.map(|found| Predicted { kl: found.kl, top: found.top, p: found.p });
                let at = AtLayer { error, cosine, prediction };
                summary.add(at.vector(), at.changed());
                profiles[n].push(at);
            }
        }
        self.heads(caches, places.len())?;
        for ((row, position, id), layers) in places.into_iter().zip(profiles) {
            if self.first_nan.is_none() {
                let nan = layers.iter().position(|at| at.size().is_nan());
                self.first_nan = nan.map(|at| (self.layers[at].layer, row, position));
            }
            if let Some(last) = layers.last() {
                if self.positions.len() <= position {
                    self.positions.resize(position + 1, Summary::default());
                }
                self.positions[position].add(last.vector(), last.changed());
                self.tokens.entry(id).or_default().add(last.vector(), last.changed());
            }
            self.worst.push(Place { row, position, id, layers });
        }
        self.keep_worst(options.worst);
        Ok(())
    }

    fn heads(&mut self, caches: &[ActivationCache; 2], n: usize) -> Result<()> {
        for of_layer in self.heads.chunk_by_mut(|one, next| one.layer == next.layer) {
            let Some(layer) = of_layer.first().map(|head| head.layer) else { continue };
            let [a, b] = both(caches, Point::layer_of(Site::Z, layer))?;
            let width = (a.len() / n.max(1) / of_layer.len()).max(1);
            let heads = of_layer.len();
            for (number, (a, b)) in a.chunks_exact(width).zip(b.chunks_exact(width)).enumerate() {
                of_layer[number % heads].summary.add(Vector::of(a, b), None);
            }
        }
        Ok(())
    }

    /// Lets go of all places but the largest; of equal ones the first stay.
    fn keep_worst(&mut self, worst: usize) {
        // NaN sorts above infinity.
        self.worst.sort_by(|one, other| other.size().abs().total_cmp(&one.size().abs()));
        self.worst.truncate(worst);
    }

    fn finish(self, n_rows: usize, n_tokens: usize, listed: usize) -> Differences {
        let sum = |of: &Mean| of.mean() * of.count() as f64;
        let size = |summary: &Summary| match summary.kl.count() {
            0 => sum(&summary.error),
            _ => sum(&summary.kl),
        };
        let of_token = |(id, summary): (u32, Summary)| OfToken { id, summary };
        let mut tokens: Vec<OfToken> = self.tokens.into_iter().map(of_token).collect();
        tokens.sort_by(|one, other| size(&other.summary).total_cmp(&size(&one.summary)));
        tokens.truncate(listed);
        let of_position = |(position, summary): (usize, Summary)| OfPosition { position, summary };
        Differences {
            layers: self.layers,
            heads: self.heads,
            positions: self.positions.into_iter().enumerate().map(of_position).collect(),
            tokens,
            worst: self.worst,
            n_rows,
            n_tokens,
            first_nan: self.first_nan,
        }
    }
}

/// An activation of both models, all rows in turn.
fn both(caches: &[ActivationCache; 2], point: Point) -> Result<[&[f32]; 2]> {
    match caches.each_ref().map(|cache| cache.get(point).map(Kept::values)) {
        [Some(a), Some(b)] if a.len() == b.len() => Ok([a, b]),
        _ => Err(Error::new(ErrorKind::Unsupported, format!("`{point}` is not the same in both models"))),
    }
}
