//! The effect of each change of a sweep.

use easyroutine::attribution::Check;
use easyroutine::gradients::Rule;
use easyroutine::patching::{Along, By, Grid, Metric};
use easyroutine::sites::Site;
use easyroutine_view::grid::{GridCell, GridColumn, GridReport, GridRow};
use serde_json::{Value, json};

use super::{Subject, dtype_name, metric_words, model_json};

/// How many experts are named with their effects above a grid.
const LARGEST: usize = 5;

/// The texts of a picture of a grid.
#[derive(Debug, Clone)]
pub struct GridWords<'a> {
    /// `Activation patching`.
    pub title: &'a str,
    /// How each place is changed: `set to zero`.
    pub how: &'a str,
    /// The texts by role: `base`, `target`.
    pub prompts: Vec<(String, String)>,
    /// How the cells were estimated, if they were not run.
    pub estimated: Option<Estimated<'a>>,
}

/// What a grid changes.
#[derive(Debug, Clone)]
pub struct GridPlaces<'a> {
    /// Sites, or keys of features: `attn_out, mlp_out`.
    pub names: String,
    /// The sites; none for features.
    pub sites: &'a [Site],
    /// Whether each position is a column.
    pub by_position: bool,
    /// The positions, ascending.
    pub positions: &'a [usize],
    /// The record of the dictionaries whose features are changed.
    pub dictionaries: Option<Value>,
}

impl<'a> From<&'a Along> for GridPlaces<'a> {
    fn from(along: &'a Along) -> Self {
        let by_position = matches!(along, Along::Positions { .. });
        let (sites, positions) = (along.sites(), along.positions());
        let names: Vec<&str> = sites.iter().map(|site| site.name()).collect();
        GridPlaces { names: names.join(", "), sites, by_position, positions, dictionaries: None }
    }
}

/// How cells were estimated.
#[derive(Debug, Clone, Copy)]
pub struct Estimated<'a> {
    /// What replaced the derivatives.
    pub rule: Rule,
    /// The cells that were also run.
    pub check: Option<&'a Check>,
}

impl Estimated<'_> {
    fn to_json(self) -> Value {
        json!({"rule": rule_name(self.rule), "check": self.check.map(Check::to_json)})
    }

    fn lines(self) -> Vec<String> {
        let by = match self.rule {
            Rule::Gradient => "gradient",
            Rule::Relp { .. } => "gradient by RelP",
        };
        let mut lines = vec![format!(
            "each cell: an estimate, (replacement - original) times the {by} of the changed run, summed"
        )];
        lines.extend(self.check.map(check_words));
        lines
    }
}

/// The name of a rule: `gradient`, `relp`.
pub fn rule_name(rule: Rule) -> &'static str {
    match rule {
        Rule::Gradient => "gradient",
        Rule::Relp { .. } => "relp",
    }
}

/// The quality of an estimate, in words.
pub fn check_words(check: &Check) -> String {
    let shown = |r: Option<f64>| r.map_or("none".to_owned(), |r| format!("{r:.4}"));
    // One cell correlates with nothing.
    if let [cell] = &check.cells[..] {
        let (estimate, exact) = (cell.estimate, cell.exact);
        return format!("check: the largest cell was run: estimated {estimate:+.4}, exact {exact:+.4}");
    }
    format!(
        "check: the {} largest cells were run; correlation with the estimates: Pearson {}, Spearman {}",
        check.cells.len(),
        shown(check.pearson),
        shown(check.spearman)
    )
}

fn over(rows: &[Vec<u32>]) -> String {
    match rows.len() {
        1 => "one prompt".to_owned(),
        n => format!("{n} prompts"),
    }
}

/// How each place is changed, in words.
pub fn how_changed(by: &By) -> String {
    match by {
        By::Zero => "set to zero".to_owned(),
        By::Mean(rows) => format!("set to the mean over all tokens of {}", over(rows)),
        By::MeanOfRows(rows) => format!("set to the mean over {}, each position by itself", over(rows)),
        By::Resample(_) => "set to their values in another prompt".to_owned(),
        By::Patch(_) => "activations of the base put into the run of the target".to_owned(),
    }
}

/// How each expert is changed, in words.
pub fn how_experts_changed(by: &By) -> String {
    match by {
        By::Zero => "set to zero".to_owned(),
        By::Mean(rows) => format!("set to its mean over the tokens of {} that go through it", over(rows)),
        By::MeanOfRows(rows) => {
            format!(
                "set to its mean over {}, each position by itself, of tokens that go through it",
                over(rows)
            )
        }
        By::Resample(_) => {
            "set to its values in another prompt, zero where the token there takes other experts".to_owned()
        }
        By::Patch(_) => {
            "of the base put into the run of the target, zero where the base's token takes other experts"
                .to_owned()
        }
    }
}

/// The report of a grid, and its JSON in the schema `easyroutine.grid/1`.
pub fn grid(
    subject: &Subject<'_>,
    places: &GridPlaces<'_>,
    grid: &Grid,
    words: &GridWords<'_>,
) -> (GridReport, Value) {
    let report = report(subject, places, grid, words);
    let mut json = json(subject, grid, &report);
    if let Some(dictionaries) = &places.dictionaries {
        json["dictionaries"] = dictionaries.clone();
    }
    if let Some(estimated) = words.estimated {
        json["estimate"] = estimated.to_json();
    }
    (report, json)
}

fn json(subject: &Subject<'_>, grid: &Grid, report: &GridReport) -> Value {
    let token = |id: &u32| json!({"id": id, "text": subject.text(*id)});
    let mut json = grid.to_json();
    json["model"] = model_json(subject.files, subject.model_type, subject.model);
    json["title"] = json!(report.title);
    json["words"] = json!(report.lines);
    json["meaning"] = json!(report.meaning);
    json["prompts"] = report.prompts.iter().map(|(what, text)| (what.clone(), json!(text))).collect();
    json["bos"] = json!(subject.starts_with_bos);
    json["tokens"] = subject.ids.iter().map(token).collect();
    json
}

fn report(subject: &Subject<'_>, changed: &GridPlaces<'_>, grid: &Grid, words: &GridWords<'_>) -> GridReport {
    let text = |id: u32| format!("{:?}", subject.text(id));
    let reference = if grid.base.is_some() { "base" } else { "unchanged" };
    let name = metric_words(grid.metric, &text, [reference, "changed"]);
    let (more, less) = match grid.metric {
        Metric::LogitDiff { answer, against } | Metric::NormalisedLogitDiff { answer, against } => {
            (format!("towards {}", text(answer)), format!("towards {}", text(against)))
        }
        Metric::Logit { token } | Metric::LogProbability { token } | Metric::Probability { token } => {
            (format!("more of {}", text(token)), format!("less of {}", text(token)))
        }
        Metric::CrossEntropy => ("worse".to_owned(), "better".to_owned()),
        Metric::Kl if grid.base.is_some() => {
            ("farther from the base".to_owned(), "nearer to the base".to_owned())
        }
        // The unchanged run can only be left.
        Metric::Kl => ("farther from the unchanged run".to_owned(), String::new()),
        Metric::Rank { token } => (format!("{} falls", text(token)), format!("{} rises", text(token))),
    };
    let GridPlaces { names, by_position, positions, .. } = changed;
    let places = match positions.len() {
        _ if *by_position => "one position at a time".to_owned(),
        n if n == subject.ids.len() => "at all positions".to_owned(),
        1 => format!("at position {}", positions[0]),
        _ => format!(
            "at positions {}",
            positions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ),
    };
    let base = grid.base.map(|base| format!(" · base {base:.4}")).unwrap_or_default();
    let bos = if subject.starts_with_bos { "starts with BOS" } else { "no BOS" };
    let model = &subject.files.name;
    let columns = grid.columns.iter().enumerate().map(|(column, label)| match *by_position {
        true => GridColumn {
            label: positions[column].to_string(),
            token: Some(subject.text(subject.ids[positions[column]])),
        },
        false => GridColumn {
            label: label.strip_prefix("expert ").map_or_else(|| label.clone(), |number| format!("E{number}")),
            token: None,
        },
    });
    let routed = |row: usize| grid.routed.get(row).into_iter().flatten().copied().map(Some);
    let rows = grid.layers.iter().zip(&grid.values).zip(&grid.activations).enumerate().map(
        |(row, ((layer, values), activations))| {
            let cell = |((value, activation), routed): ((&f64, &String), Option<usize>)| GridCell {
                activation: activation.clone(),
                value: *value,
                effect: value - grid.unchanged,
                routed,
            };
            let routed = routed(row).chain(std::iter::repeat(None));
            GridRow {
                label: match (grid.features.is_empty(), activations.first()) {
                    (false, Some(feature)) => feature.clone(),
                    _ => format!("layer {layer}"),
                },
                cells: values.iter().zip(activations).zip(routed).map(cell).collect(),
            }
        },
    );
    let arch = subject.model.arch();
    let lacks = |layer: &usize| !changed.sites.iter().any(|site| arch.has(*site, *layer));
    let without = match (0..arch.layers.len()).filter(lacks).count() {
        n if n > 0 && !changed.sites.is_empty() => format!(", {n} without {names}"),
        _ => String::new(),
    };
    let n_layers = arch.layers.len();
    let mut lines = vec![
        format!("{model} · {n_layers} layers{without} · {} · {bos}", dtype_name(subject.model.dtype())),
        format!("{names} {}, {places}", words.how),
        format!("metric: {name}, at the last token · unchanged {:.4}{base}", grid.unchanged),
    ];
    lines.extend(words.estimated.map_or_else(
        || vec!["each cell: the metric with the change minus the metric without it".to_owned()],
        Estimated::lines,
    ));
    lines.extend(of_experts(grid));
    GridReport {
        row_kind: if grid.features.is_empty() { "layer" } else { "feature" },
        title: words.title.to_owned(),
        lines,
        prompts: words.prompts.clone(),
        meaning: [more, less],
        columns: columns.collect(),
        rows: rows.collect(),
    }
}

/// What a grid of experts says besides its numbers: the largest of a grid that is wider than a screen, and what a mark in
/// place of a number means.
fn of_experts(grid: &Grid) -> Vec<String> {
    let cells = grid.effects().into_iter().flatten().zip(grid.activations.iter().flatten());
    let routed = grid.routed.iter().flatten();
    let mut largest: Vec<(f64, &String)> =
        cells.zip(routed).filter(|(_, routed)| **routed > 0).map(|(cell, _)| cell).collect();
    largest.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
    let named: Vec<String> =
        largest.iter().take(LARGEST).map(|(effect, name)| format!("{name} {effect:+.4}")).collect();
    let mut lines = Vec::new();
    if !named.is_empty() {
        lines.push(format!("largest: {}", named.join(" · ")));
    }
    if grid.routed.iter().flatten().any(|routed| *routed == 0) {
        lines.push("-: none of these tokens goes through that expert, so it has no effect".to_owned());
    }
    lines
}
