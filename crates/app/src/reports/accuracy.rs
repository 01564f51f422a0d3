//! How well directions separate two sides, layer by layer, as bars.

use easyroutine_dictionaries::Accuracy;
use easyroutine_view::bars::{BarRow, BarsReport};

/// The accuracy of one layer's direction.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerAccuracy {
    /// The activation that it reads: `resid_out_5`.
    pub activation: String,
    /// Its accuracy.
    pub accuracy: Accuracy,
}

/// Accuracies by layer: bars show how far each is above chance, labels the held-out accuracy.
pub fn accuracies(title: &str, lines: &[String], layers: &[LayerAccuracy]) -> BarsReport {
    let has_held_out = layers.iter().any(|layer| layer.accuracy.held_out.is_some());
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let row = |LayerAccuracy { activation, accuracy }: &LayerAccuracy| {
        let above = |share: f64| share - accuracy.chance;
        let mut values = vec![Some(above(accuracy.fitted))];
        if has_held_out {
            values.insert(0, accuracy.held_out.map(above));
        }
        let shown = accuracy.held_out.unwrap_or(accuracy.fitted);
        BarRow { label: format!("{activation}: {}", percent(shown)), values, sum: 0.0 }
    };
    let columns = ["held out", "fitted on"];
    let chance = layers.first().map_or(0.5, |layer| layer.accuracy.chance);
    BarsReport {
        title: title.to_owned(),
        lines: lines.iter().filter(|line| !line.is_empty()).cloned().collect(),
        prompts: Vec::new(),
        meaning: [format!("accuracy above chance, which is {}", percent(chance)), "below it".to_owned()],
        columns: columns[usize::from(!has_held_out)..].iter().map(|name| (*name).to_owned()).collect(),
        rows: layers.iter().map(row).collect(),
        sum: None,
    }
}
