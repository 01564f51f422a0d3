//! Two checkpoints of one architecture side by side, as JSON.

use easyroutine::compare::models::{
    AtLayer, Cause, Causes, Differences, Direction, Effect, Place, Summary, WeightsApart,
};
use easyroutine::extract::Example;
use easyroutine::tokens::Tokenizer;
use serde_json::{Map, Value, json};

/// How kl is taken, in words.
const LENS: &str = "each model's stream through its own final norm and unembedding; kl is KL(A || B) in nats";
/// Number of tokens shown before a position, and after it.
const AROUND: (usize, usize) = (12, 4);

/// What was found of two models.
#[derive(Debug, Clone, Copy)]
pub struct ModelsCompared<'a> {
    /// Both models as every report names them.
    pub models: [&'a Value; 2],
    /// The tokenizer, to show tokens.
    pub tokenizer: Option<&'a Tokenizer>,
    /// The prompts.
    pub examples: &'a [Example],
    /// Their runs.
    pub differences: &'a Differences,
    /// Their tensors.
    pub weights: &'a [WeightsApart],
    /// The tensors that were patched, and how.
    pub causes: Option<(&'a Causes, Direction)>,
}

/// The number of a layer in reports: -1 for the embedding.
pub fn layer_number(layer: Option<usize>) -> i64 {
    layer.map_or(-1, |layer| layer as i64)
}

impl ModelsCompared<'_> {
    /// Whether all tensors hold the same numbers.
    pub fn is_equal(&self) -> bool {
        self.weights.iter().all(|weights| weights.is_equal)
    }

    /// A token's text, or its id where there is no tokenizer.
    pub fn text(&self, id: u32) -> String {
        self.tokenizer.map_or_else(|| id.to_string(), |tokenizer| tokenizer.token_text(id).to_string())
    }

    /// The tensors with what each causes: first those that were patched, the largest cause first, then the others.
    pub fn tensors(&self) -> Vec<(&WeightsApart, Option<&Cause>)> {
        let causes = self.causes.map_or(&[][..], |(causes, _)| &causes.causes);
        let patched = causes.iter().filter_map(|cause| Some((self.weights.get(cause.tensor)?, Some(cause))));
        let is_patched = |tensor: usize| causes.iter().any(|cause| cause.tensor == tensor);
        let others = self.weights.iter().enumerate().filter(|(tensor, _)| !is_patched(*tensor));
        patched.chain(others.map(|(_, weights)| (weights, None))).collect()
    }

    /// The JSON `easyroutine.compare_models/1`.
    pub fn json(&self) -> Value {
        let found = self.differences;
        let layers =
            found.layers.iter().map(|of| with_summary(json!({"layer": layer_number(of.layer)}), &of.summary));
        let heads = found.heads.iter().map(|of| {
            let mut json = with_summary(json!({"layer": of.layer, "head": of.head}), &of.summary);
            // Heads predict nothing.
            if let Value::Object(map) = &mut json {
                ["kl", "kl_max", "top_changed"].iter().for_each(|key| drop(map.remove(*key)));
            }
            json
        });
        let positions =
            found.positions.iter().map(|of| with_summary(json!({"position": of.position}), &of.summary));
        let tokens = found
            .tokens
            .iter()
            .map(|of| with_summary(json!({"id": of.id, "text": self.text(of.id)}), &of.summary));
        let first_nan = found.first_nan.map(
            |(layer, row, position)| json!({"layer": layer_number(layer), "row": row, "position": position}),
        );
        json!({
            "schema": "easyroutine.compare_models/1",
            "a": self.models[0],
            "b": self.models[1],
            "lens": LENS,
            "equal": self.is_equal(),
            "rows": found.n_rows,
            "tokens": found.n_tokens,
            "first_nan": first_nan,
            "layers": layers.collect::<Vec<_>>(),
            "heads": heads.collect::<Vec<_>>(),
            "by_position": positions.collect::<Vec<_>>(),
            "by_token": tokens.collect::<Vec<_>>(),
            "worst": found.worst.iter().map(|place| self.place(place)).collect::<Vec<_>>(),
            "tensors": self.tensors().into_iter().map(|(w, cause)| self.tensor(w, cause)).collect::<Vec<_>>(),
            "patched": self.causes.map(|(causes, direction)| json!({
                "direction": direction_name(direction),
                "rows": causes.n_rows,
                "tokens": causes.n_tokens,
                "error": finite(causes.whole.error),
                "kl": causes.whole.kl.and_then(finite),
            })),
        })
    }

    fn place(&self, place: &Place) -> Value {
        let parts_at = place.parts_at().and_then(|at| self.differences.layers.get(at));
        let at = |(of, at): (_, &AtLayer)| self.at(of, at);
        let layers = self.differences.layers.iter().map(|of| layer_number(of.layer));
        json!({
            "row": place.row,
            "position": place.position,
            "id": place.id,
            "text": self.text(place.id),
            "context": self.context(place),
            "parts_at": parts_at.map(|of| layer_number(of.layer)),
            "layers": layers.zip(&place.layers).map(at).collect::<Vec<_>>(),
        })
    }

    /// The text around a position: before it, its token, after it.
    fn context(&self, place: &Place) -> [String; 3] {
        let Some(example) = self.examples.iter().find(|example| example.number == place.row) else {
            return [String::new(), self.text(place.id), String::new()];
        };
        let text = |ids: &[u32]| ids.iter().map(|id| self.text(*id)).collect::<String>();
        let (ids, at) = (&example.ids, place.position);
        let before = &ids[at.saturating_sub(AROUND.0).min(ids.len())..at.min(ids.len())];
        let after = ids.get(at + 1..ids.len().min(at + 1 + AROUND.1)).unwrap_or(&[]);
        [text(before), self.text(place.id), text(after)]
    }

    fn at(&self, layer: i64, at: &AtLayer) -> Value {
        let mut json = json!({"layer": layer, "error": finite(at.error), "cosine": finite(at.cosine)});
        if let Some(predicted) = &at.prediction {
            json["kl"] = json!(finite(predicted.kl));
            let both = predicted.top.iter().zip(predicted.p);
            let top = both.map(|(id, p)| json!({"id": id, "text": self.text(*id), "p": finite(p)}));
            json["top"] = top.collect();
        }
        json
    }

    fn tensor(&self, weights: &WeightsApart, cause: Option<&Cause>) -> Value {
        let mut json = json!({
            "name": weights.name,
            "layer": layer_number(weights.layer),
            "shape": weights.shape,
            "a": weights.encodings[0],
            "b": weights.encodings[1],
            "error": finite(weights.error),
            "equal": weights.is_equal,
        });
        if let (Some(cause), Some((causes, _))) = (cause, self.causes) {
            let sides = [
                ("b_with_a", cause.without, "removed", causes.removed(cause)),
                ("a_with_b", cause.alone, "added", causes.added(cause)),
            ];
            for (name, found, part_name, part) in sides {
                if let Some(found) = found {
                    json[name] = effect(found);
                    json[part_name] = json!(part.and_then(finite));
                }
            }
        }
        json
    }
}

/// `removes`, `adds`, `both`.
fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Removes => "removes",
        Direction::Adds => "adds",
        Direction::Both => "both",
    }
}

fn effect(effect: Effect) -> Value {
    json!({"error": finite(effect.error), "kl": effect.kl.and_then(finite)})
}

/// The object with what a summary says.
fn with_summary(json: Value, summary: &Summary) -> Value {
    let mut map = match json {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    map.insert("places".to_owned(), json!(summary.error.count()));
    map.insert("error".to_owned(), json!(finite(summary.error.mean())));
    map.insert("error_max".to_owned(), json!(finite(summary.error.most())));
    map.insert("cosine".to_owned(), json!(finite(summary.cosine())));
    map.insert("cosine_min".to_owned(), json!(finite(summary.least_cosine())));
    if summary.kl.count() > 0 {
        map.insert("kl".to_owned(), json!(finite(summary.kl.mean())));
        map.insert("kl_max".to_owned(), json!(finite(summary.kl.most())));
        map.insert("top_changed".to_owned(), json!(summary.top_changed));
    }
    map.insert("nan".to_owned(), json!(summary.nan));
    Value::Object(map)
}

/// JSON has no infinity.
fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}
