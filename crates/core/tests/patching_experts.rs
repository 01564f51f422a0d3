//! Sweeps along experts: equal to whole runs under interventions, and exactly nothing where no token goes.

use std::collections::BTreeMap;

use easyroutine::attribution::{Attribution, Estimating, attribution_patching, check_largest, estimate};
use easyroutine::cache::Numbers;
use easyroutine::gradients::Rule;
use easyroutine::load::LoadOptions;
use easyroutine::patching::{Along, By, Grid, Metric, Sweep, sweep};
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine::sites::Site;
use easyroutine::{Model, Stop};

use crate::common::{cases, extract, tiny, tiny_with};
use crate::patching::{base, target, whole_run};

const METRIC: Metric = Metric::LogitDiff { answer: 7, against: 90 };
const FEW: [usize; 2] = [3, 11];

/// The layers that have experts.
fn with_experts(model: &Model) -> Vec<usize> {
    (0..model.arch().layers.len()).filter(|layer| model.arch().layers[*layer].experts().is_some()).collect()
}

/// The models of fixtures that have experts and can be swept.
fn mixtures() -> Vec<String> {
    let has = |case: &String| !with_experts(&tiny(case)).is_empty();
    let found: Vec<String> = cases("tiny").into_iter().filter(has).collect();
    assert!(found.len() > 10 && found.contains(&"nemotron_h_latent".to_owned()), "{found:?}");
    found
}

fn along(positions: &[usize]) -> Along {
    Along::Experts { experts: None, positions: positions.to_vec() }
}

fn request(model: &Model, by: By) -> Sweep {
    Sweep { layers: (0..model.arch().layers.len()).collect(), along: along(&FEW), by, metric: METRIC }
}

fn swept(model: &Model, request: &Sweep) -> Grid {
    sweep(model, &target(), request, |_, _| Ok(())).unwrap()
}

/// What an expert gives each token of a row that goes through it, by position.
struct Outputs {
    of: BTreeMap<(String, usize), Vec<f32>>,
}

impl Outputs {
    fn new(model: &Model, row: &[u32]) -> Self {
        let keys = "expert_out_*,router_index_*";
        let cache = extract(model, &[row.to_vec()], keys, "all");
        let mut of = BTreeMap::new();
        for layer in with_experts(model) {
            let index = cache.get(format!("router_index_{layer}")).unwrap();
            let k = index.row_shapes[0][1];
            let Numbers::I64(index) = &index.data else { panic!("numbers of experts are whole") };
            for (position, chosen) in index.chunks_exact(k).enumerate() {
                for expert in chosen {
                    let key = format!("expert_out_{layer}E{expert}");
                    let kept = cache.get(key.as_str()).unwrap();
                    let width = kept.row_shapes[0][1];
                    let vector = kept.values()[position * width..(position + 1) * width].to_vec();
                    of.insert((key, position), vector);
                }
            }
        }
        Outputs { of }
    }

    fn at(&self, key: &str, position: usize) -> Option<&Vec<f32>> {
        self.of.get(&(key.to_owned(), position))
    }
}

fn mean(vectors: &[&Vec<f32>]) -> Option<Vec<f32>> {
    let first = vectors.first()?;
    let sum = |i: usize| vectors.iter().map(|vector| f64::from(vector[i])).sum::<f64>();
    Some((0..first.len()).map(|i| (sum(i) / vectors.len() as f64) as f32).collect())
}

/// What each kind of change puts at one position of an expert.
fn put(rows: &[Outputs], by: &By, key: &str, position: usize) -> Option<Vec<f32>> {
    match by {
        By::Zero => None,
        By::Resample(_) | By::Patch(_) => rows[0].at(key, position).cloned(),
        By::Mean(_) => {
            let all = rows.iter().flat_map(|row| (0..64).filter_map(|p| row.at(key, p)));
            mean(&all.collect::<Vec<_>>())
        }
        By::MeanOfRows(_) => mean(&rows.iter().filter_map(|row| row.at(key, position)).collect::<Vec<_>>()),
    }
}

#[test]
fn every_cell_of_an_expert_has_the_bits_of_a_run_with_that_intervention() {
    let (mut reached, mut unreached, mut differing, mut elsewhere) = (0, 0, 0, 0);
    for case in mixtures() {
        let model = tiny(&case);
        let own = Outputs::new(&model, &target());
        let others: Vec<u32> = base().iter().rev().copied().collect();
        for by in [
            By::Zero,
            By::Patch(base()),
            By::Resample(others.clone()),
            By::Mean(vec![target(), base(), vec![1, 2, 3]]),
            By::MeanOfRows(vec![base(), others, target()]),
        ] {
            let rows: Vec<Outputs> = match &by {
                By::Zero => Vec::new(),
                By::Resample(row) | By::Patch(row) => vec![Outputs::new(&model, row)],
                By::Mean(rows) | By::MeanOfRows(rows) => {
                    rows.iter().map(|row| Outputs::new(&model, row)).collect()
                }
            };
            let request = request(&model, by.clone());
            let mut heard = Vec::new();
            let grid = sweep(&model, &target(), &request, |done, of| {
                heard.push((done, of));
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{case}: {e}"));
            assert_eq!(grid.layers, with_experts(&model), "{case}");
            let runs = grid.routed.iter().flatten().filter(|routed| **routed > 0).count();
            // Only these were run.
            assert_eq!(heard, (0..=runs).map(|done| (done, runs)).collect::<Vec<_>>(), "{case}");
            for (row, names) in grid.activations.iter().enumerate() {
                for (column, key) in names.iter().enumerate() {
                    assert_eq!(*key, format!("expert_out_{}E{column}", grid.layers[row]));
                    let value = grid.values[row][column];
                    let width = model.arch().width(key.parse().unwrap()).unwrap();
                    let through = FEW.iter().filter(|p| own.at(key, **p).is_some()).count();
                    assert_eq!(grid.routed[row][column], through, "{case}, {key}");
                    // At tokens that take other experts any values do, so that all positions can be changed.
                    let at = |p: &usize| match (own.at(key, *p), put(&rows, &by, key, *p)) {
                        (Some(_), Some(vector)) => vector,
                        (Some(_), None) => {
                            elsewhere += usize::from(by != By::Zero);
                            vec![0.0; width]
                        }
                        (None, _) => vec![1e30; width],
                    };
                    let vectors = FEW.iter().flat_map(at).collect();
                    let logits = whole_run(&model, key, &FEW, Some(vectors));
                    let expected = METRIC.of(&logits, &logits, None).unwrap();
                    assert_eq!(value.to_bits(), expected.to_bits(), "{case}, {key}, {by:?}");
                    reached += usize::from(through > 0);
                    differing += usize::from(value != grid.unchanged);
                    if through == 0 {
                        assert_eq!(value.to_bits(), grid.unchanged.to_bits(), "{case}, {key}");
                        unreached += 1;
                    }
                }
            }
        }
    }
    assert!(unreached > 100 && elsewhere > 100, "{unreached} {elsewhere}");
    // Some have none on the last token: those of the last layer at an earlier one.
    assert!(differing * 2 > reached, "{differing} of {reached} cells differ");
}

#[test]
fn a_grid_of_experts_has_the_same_bits_on_any_number_of_threads() {
    for case in ["qwen3_moe", "deepseek_v3", "nemotron_h_latent"] {
        let on = |threads| tiny_with(case, &LoadOptions { threads: Some(threads), ..LoadOptions::default() });
        let models = [on(1), on(3)];
        let all = along(&(0..12).collect::<Vec<_>>());
        let [one, three] = models.map(|model| {
            let request = Sweep { along: all.clone(), ..request(&model, By::Patch(base())) };
            let whole = swept(&model, &request);
            // A row of the grid is the same alone, and so is a column.
            let last = whole.layers.len() - 1;
            let layers = vec![whole.layers[last]];
            assert_eq!(swept(&model, &Sweep { layers, ..request.clone() }).values[0], whole.values[last]);
            let few = Along::Experts { experts: Some(vec![3, 1, 3]), positions: (0..12).collect() };
            let columns = swept(&model, &Sweep { along: few, ..request });
            assert_eq!(columns.columns, ["expert 3", "expert 1"]);
            for (few, all) in columns.values.iter().zip(&whole.values) {
                assert_eq!(*few, [all[3], all[1]]);
            }
            whole
        });
        let bits = |grid: &Grid| grid.values.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&one), bits(&three), "{case}");
    }
}

#[test]
fn a_prompt_patched_with_itself_stays_as_it_is() {
    for case in mixtures() {
        let model = tiny(&case);
        let grid = swept(&model, &request(&model, By::Patch(target())));
        let same = |value: &f64| value.to_bits() == grid.unchanged.to_bits();
        assert!(grid.values.iter().flatten().all(same), "{case}: {:?}", grid.values);
    }
}

#[test]
fn experts_are_estimated_and_the_largest_are_run() {
    for case in ["qwen2_moe", "qwen3_moe", "gpt_oss", "nemotron_h_latent"] {
        let model = tiny(case);
        let request = request(&model, By::Patch(base()));
        let exact = swept(&model, &request);
        let how = Estimating { check: Some(1000), ..Estimating::default() };
        let found = estimate(&model, &target(), &request, how, Stop::Never, |_, _| Ok(())).unwrap();
        assert_eq!((&found.grid.routed, &found.grid.activations), (&exact.routed, &exact.activations));
        let check = found.check.unwrap();
        let reached = exact.routed.iter().flatten().filter(|routed| **routed > 0).count();
        assert_eq!(check.cells.len(), reached, "{case}");
        for cell in &check.cells {
            let row = exact.activations.iter().position(|row| row.contains(&cell.activation)).unwrap();
            assert_eq!(exact.activations[row][cell.column], cell.activation);
            assert_eq!(cell.exact.to_bits(), exact.effects()[row][cell.column].to_bits(), "{case}");
        }
        // Choices of later experts jump, so the estimates may be far from the runs; they are sums of the scores of tokens.
        let scores = attributed(&model);
        let names = exact.activations.iter().flatten();
        let routed = exact.routed.iter().flatten();
        for ((effect, name), routed) in found.grid.effects().iter().flatten().zip(names).zip(routed) {
            let (_, kept) = scores.scores.iter().find(|(point, _)| point.to_string() == *name).unwrap();
            let sum: f64 = FEW.iter().map(|position| f64::from(kept.row(0)[*position])).sum();
            assert!((effect - sum).abs() < 1e-6 * (1.0 + sum.abs()), "{case}, {name}: {effect} {sum}");
            assert!(*routed > 0 || (*effect == 0.0 && sum == 0.0), "{case}, {name}: {effect} {sum}");
        }
        // Nothing is left to estimate where no expert is reached.
        let lone = exact.routed[0].iter().position(|routed| *routed == 0).unwrap();
        let along = Along::Experts { experts: Some(vec![lone]), positions: FEW.to_vec() };
        let none = Sweep { layers: vec![exact.layers[0]], along, ..request };
        let found = estimate(&model, &target(), &none, Estimating::default(), Stop::Never, |_, _| Ok(()));
        assert_eq!(found.unwrap().grid.values, [[exact.unchanged]], "{case}");
    }
}

/// Scores of every expert's output at every token.
fn attributed(model: &Model) -> Attribution {
    let (target, base) = (target(), base());
    let (rows, others) = ([Row::of(0, &target)], [Row::of(0, &base)]);
    let asked = Request::parse("expert_out_*", "all").unwrap();
    let context = Context::default();
    attribution_patching(model, &others, &rows, &asked, &[METRIC], Rule::Gradient, context, Stop::Never)
        .unwrap()
}

/// Attribution patching scores an expert's outputs one token at a time, and its check runs them as a sweep does.
#[test]
fn outputs_of_experts_are_attributed_under_their_own_names() {
    for case in ["qwen3_moe", "deepseek_v3", "nemotron_h_latent"] {
        let model = tiny(case);
        let (target, base) = (target(), base());
        let (rows, found) = ([Row::of(0, &target)], attributed(&model));
        let own = Outputs::new(&model, &target);
        let check = check_largest(&model, &rows[0], &found, 0, 12, |_, _| Ok(())).unwrap();
        assert_eq!(check.cells.len(), 12);
        for cell in &check.cells {
            assert!(own.at(&cell.activation, cell.column).is_some() && cell.part.is_none(), "{cell:?}");
            let request = Sweep { along: along(&[cell.column]), ..request(&model, By::Patch(base.clone())) };
            let grid = swept(&model, &request);
            let row = grid.activations.iter().position(|row| row.contains(&cell.activation)).unwrap();
            let column = grid.activations[row].iter().position(|name| *name == cell.activation).unwrap();
            assert_eq!(cell.exact.to_bits(), grid.effects()[row][column].to_bits(), "{case}: {cell:?}");
        }
    }
}

#[test]
fn wrong_sweeps_of_experts_are_errors_that_name_what_is_wrong() {
    let refused = |model: &Model, request: &Sweep, words: &str| {
        let error = sweep(model, &target(), request, |_, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        error.hint_text().unwrap_or_default().to_owned()
    };
    let dense = tiny("llama");
    refused(&dense, &request(&dense, By::Zero), "this model has no experts");
    // Layer 1 is dense.
    let model = tiny("qwen2_moe");
    assert_eq!(swept(&model, &request(&model, By::Zero)).layers, [0, 2, 3]);
    let good = request(&model, By::Zero);
    let hint =
        refused(&model, &Sweep { layers: vec![1], ..good.clone() }, "none of these layers has experts");
    assert_eq!(hint, "layers with experts: 0, 2, 3");
    let chosen = |experts, positions| Along::Experts { experts: Some(experts), positions };
    for (along, words) in [
        (chosen(vec![5], vec![1]), "layer 0 has 5 experts, 0 to 4"),
        (chosen(vec![], vec![1]), "changes something"),
        (along(&[]), "changes something"),
        (along(&[12]), "position 12"),
    ] {
        refused(&model, &Sweep { along, ..good.clone() }, words);
    }
    let heads = Along::Heads { site: Site::ExpertOut, positions: vec![1] };
    refused(&model, &Sweep { along: heads, ..good.clone() }, "not a column of a grid along heads");
    refused(&model, &request(&model, By::Patch(vec![1, 2])), "2 tokens");
    // An expert that no token of the mean goes through has none.
    let all =
        Sweep { along: along(&(0..12).collect::<Vec<_>>()), ..request(&model, By::Mean(vec![vec![1]])) };
    refused(&model, &all, "no token of the rows that the mean is over goes through `expert_out_0E");
    let rows = Sweep { by: By::MeanOfRows(vec![base()]), ..all };
    let hint = refused(&model, &rows, "` at position 0, ");
    assert!(hint.contains("over all tokens"), "{hint}");
    let json = swept(&model, &good).to_json();
    assert_eq!(json["columns"][4], "expert 4");
    assert_eq!(json["routed"].as_array().unwrap().len(), 3);
}
