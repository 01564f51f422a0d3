//! Direct logit attribution as bars.

use easyroutine::Model;
use easyroutine::dla::{By, Direct};
use easyroutine_view::bars::{BarRow, BarsReport};

use super::dtype_name;

/// The texts of a picture of contributions.
#[derive(Debug, Clone)]
pub struct BarsWords {
    /// The model's name.
    pub model: String,
    /// The number, in words.
    pub metric: String,
    /// The prompt.
    pub prompt: String,
    /// The meaning of positive and negative contributions.
    pub meaning: [String; 2],
    /// Number of neurons drawn, largest first.
    pub neurons: usize,
}

/// Contributions in the first row at its position index `at`: parts and heads by layer with the running sum, the
/// largest neurons as a list.
pub fn bars(model: &Model, found: &Direct, by: By, at: usize, words: BarsWords) -> BarsReport {
    let arch = model.arch();
    let n_layers = arch.layers.len();
    let value = |name: &str| {
        let found = found.contributions.iter().find(|(own, _)| own == name);
        found.and_then(|(_, kept)| kept.row(0).get(at)).map(|x| f64::from(*x))
    };
    let (mut columns, mut rows, mut total): (Vec<String>, Vec<BarRow>, f64) = (Vec::new(), Vec::new(), 0.0);
    let mut push = |label: String, values: Vec<Option<f64>>| {
        total += values.iter().flatten().sum::<f64>();
        rows.push(BarRow { label, values, sum: total });
    };
    let sum = match by {
        By::Part => {
            columns = ["attention", "recurrence", "MLP"].map(str::to_owned).to_vec();
            let has_recurrence = arch.layers.iter().any(|layer| layer.recurrence.is_some());
            let kept = |values: [Option<f64>; 3]| {
                let all = values.into_iter().enumerate();
                all.filter(|(i, _)| *i != 1 || has_recurrence).map(|(_, value)| value).collect()
            };
            if !has_recurrence {
                columns.remove(1);
            }
            push("bias".to_owned(), kept([Some(found.bias[0]), None, None]));
            push("embedding".to_owned(), kept([value("input_embeddings"), None, None]));
            for layer in 0..n_layers {
                let names =
                    ["attn_out", "mixer_out", "mlp_out"].map(|name| value(&format!("{name}_{layer}")));
                push(format!("layer {layer}"), kept(names));
            }
            Some("running sum of everything")
        }
        By::Head => {
            columns = (0..arch.n_heads).map(|head| format!("head {head}")).collect();
            columns.push("bias".to_owned());
            for layer in 0..n_layers {
                let heads = (0..arch.n_heads).map(|head| value(&format!("head_out_L{layer}H{head}")));
                let all = heads.chain([value(&format!("attn_bias_{layer}"))]).collect();
                push(format!("layer {layer}"), all);
            }
            Some("running sum of heads")
        }
        By::Neuron => {
            columns.push("neuron".to_owned());
            let mut all = Vec::new();
            for (name, kept) in found.contributions.iter().filter(|(_, kept)| kept.row_shapes[0].len() == 2) {
                let width = kept.row_shapes[0][1];
                let here = &kept.row(0)[at * width..(at + 1) * width];
                all.extend(here.iter().enumerate().map(|(i, x)| (format!("{name}:{i}"), f64::from(*x))));
            }
            all.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then_with(|| a.0.cmp(&b.0)));
            all.truncate(words.neurons);
            // The picture's first row is at the bottom.
            all.into_iter().rev().for_each(|(name, value)| push(name, vec![Some(value)]));
            None
        }
    };
    let position = found.selection.rows[0].indices[at];
    BarsReport {
        title: "Direct logit attribution".to_owned(),
        lines: vec![
            format!("{} · {n_layers} layers · {}", words.model, dtype_name(model.dtype())),
            format!("{} at position {position}: {:.4}", words.metric, found.logit_diff.row(0)[at]),
            "each bar: the direct contribution, with the final norm's statistics of this run".to_owned(),
        ],
        prompts: vec![("prompt".to_owned(), words.prompt)],
        meaning: words.meaning,
        columns,
        rows,
        sum: sum.map(str::to_owned),
    }
}
