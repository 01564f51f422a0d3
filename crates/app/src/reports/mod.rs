//! Results on one prompt as the plain data that pictures are drawn from, for every face that draws.

mod accuracy;
mod attention;
mod bars;
mod circuit;
mod comparison;
mod grid;
mod lens;
mod metric;
mod models;

use easyroutine::source::ModelFiles;
use easyroutine::tokens::Tokenizer;
use easyroutine::{Dtype, Model};
use easyroutine_view::lens::{ModelCard, Token};
use serde_json::{Value, json};

pub use accuracy::{LayerAccuracy, accuracies};
pub use attention::attention;
pub use bars::{BarsWords, bars};
pub use circuit::{CircuitWords, circuit, curve_words};
pub use comparison::{comparison, verdict_name, wrong_name};
pub use grid::{
    Estimated, GridPlaces, GridWords, check_words, grid, how_changed, how_experts_changed, rule_name,
};
pub use lens::lens;
pub use metric::metric_words;
pub use models::{ModelsCompared, layer_number};

/// The model and the prompt of a report.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The model's files.
    pub files: &'a ModelFiles,
    /// `model_type` of its config.
    pub model_type: &'a str,
    /// The model.
    pub model: &'a Model,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The prompt.
    pub ids: &'a [u32],
    /// Whether the first id is the beginning-of-sequence token.
    pub starts_with_bos: bool,
}

impl Subject<'_> {
    fn card(&self) -> ModelCard {
        let arch = self.model.arch();
        ModelCard {
            name: self.files.name.clone(),
            commit: self.files.commit.clone(),
            model_type: self.model_type.to_owned(),
            n_layers: arch.layers.len(),
            d_model: arch.d_model,
            vocab_size: arch.vocabulary,
            dtype: dtype_name(self.model.dtype()).to_owned(),
        }
    }

    fn tokens(&self) -> Vec<Token> {
        let token = |(position, id): (usize, &u32)| Token { position, id: *id, text: self.text(*id) };
        self.ids.iter().enumerate().map(token).collect()
    }

    fn text(&self, id: u32) -> String {
        self.tokenizer.token_text(id).to_string()
    }
}

/// The model as named by every JSON report.
pub fn model_json(files: &ModelFiles, model_type: &str, model: &Model) -> Value {
    json!({
        "name": files.name,
        "commit": files.commit,
        "model_type": model_type,
        "dtype": dtype_name(model.dtype()),
    })
}

/// The name of a dtype on the command line, in reports and in records of runs.
pub fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::Bf16 => "bf16",
    }
}
