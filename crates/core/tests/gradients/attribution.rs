//! Attribution patching and integrated gradients compared with references computed in f64.

use easyroutine::arch::State;
use easyroutine::attribution::{
    Attribution, AttributionSums, Baseline, Estimating, Quadrature, attribution_patching, check_largest,
    estimate, integrated_gradients,
};
use easyroutine::gradients::Rule;
use easyroutine::patching::{Along, By, Metric, Sweep, sweep};
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine::sites::Site;
use easyroutine::{Model, Stop};

use super::pairs::{Case, case};
use crate::common::{assert_same_bits, cases, fixtures, relative_error, tensors_of, tiny};

const AGREEMENT: f64 = 1e-4;

fn rows(ids: &[Vec<u32>]) -> Vec<Row<'_>> {
    ids.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect()
}

fn scores(
    model: &Model,
    base: &[Vec<u32>],
    target: &[Vec<u32>],
    keys: &str,
    metrics: &[Metric],
    rule: Rule,
) -> Attribution {
    let request = Request::parse(keys, "all").unwrap();
    let (base, target) = (rows(base), rows(target));
    attribution_patching(model, &base, &target, &request, metrics, rule, Context::default(), Stop::Never)
        .unwrap()
}

/// Our scores of a site in the references' layout; heads of patterns come from points of their own.
fn ours(model: &Model, found: &Attribution, site: &str, layer: &str) -> Vec<f32> {
    let get = |key: &str| {
        let (_, kept) = found
            .scores
            .iter()
            .find(|(point, _)| point.to_string() == key)
            .unwrap_or_else(|| panic!("no {key}"));
        kept.values().to_vec()
    };
    match site {
        "pattern" => {
            let heads: Vec<Vec<f32>> =
                (0..model.arch().n_heads).map(|head| get(&format!("pattern_L{layer}H{head}"))).collect();
            let half = heads[0].len() / 2;
            (0..2)
                .flat_map(|row| heads.iter().flat_map(move |h| h[row * half..(row + 1) * half].to_vec()))
                .collect()
        }
        "queries" | "keys" | "values" | "z" => get(&format!("{site}_L{layer}")),
        "input_embeddings" => get(site),
        _ => get(&format!("{site}_{layer}")),
    }
}

const EVERYTHING: &str = "input_embeddings,resid_in_*,resid_mid_*,resid_out_*,attn_in_*,attn_raw_*,attn_out_*,mlp_in_*,\
                          mlp_out_*,mlp_hidden_*,queries_L*,keys_L*,values_L*,z_L*,pattern_L*H*";

fn compare(name: &str, prefix: &str, case: &Case, found: &Attribution) -> usize {
    let mut compared = 0;
    for (key, reference) in &case.references {
        let Some(site) = key.strip_prefix(prefix) else { continue };
        let (site, layer) =
            site.rsplit_once('_').filter(|(_, layer)| layer.parse::<usize>().is_ok()).unwrap_or((site, ""));
        let error = relative_error(&ours(&case.model, found, site, layer), &reference.values);
        assert!(error < AGREEMENT, "{name}: {key} differs by {error:.1e}");
        compared += 1;
    }
    compared
}

#[test]
fn scores_of_both_directions_are_those_of_the_references() {
    for name in ["gpt2", "llama"] {
        let case = case(name);
        let of = |base, target| scores(&case.model, base, target, EVERYTHING, &case.metrics, Rule::Gradient);
        let (noise, denoise) = (of(&case.corrupt, &case.clean), of(&case.clean, &case.corrupt));
        assert_eq!(compare(name, "atp.noise.", &case, &noise), 43, "{name}");
        assert_eq!(compare(name, "atp.denoise.", &case, &denoise), 43, "{name}");
        let metric: Vec<f32> = noise.target.iter().map(|x| *x as f32).collect();
        assert!(relative_error(&metric, &case.references["metric.clean"].values) < AGREEMENT);
        let metric: Vec<f32> = noise.base.iter().map(|x| *x as f32).collect();
        assert!(relative_error(&metric, &case.references["metric.corrupt"].values) < AGREEMENT);
    }
}

#[test]
fn scores_by_relp_are_those_of_the_references() {
    let mut case = case("llama");
    case.references = tensors_of(&fixtures().join("tiny/llama/relp_scores.safetensors"));
    let rule = Rule::Relp { halves: true };
    let of = |base, target| scores(&case.model, base, target, EVERYTHING, &case.metrics, rule);
    let (noise, denoise) = (of(&case.corrupt, &case.clean), of(&case.clean, &case.corrupt));
    assert_eq!(compare("llama", "relp.noise.", &case, &noise), 34);
    assert_eq!(compare("llama", "relp.denoise.", &case, &denoise), 34);
}

#[test]
fn scores_have_the_same_bits_alone_and_with_any_number_of_threads() {
    for name in ["gpt2", "llama"] {
        let mut case = case(name);
        let both = scores(&case.model, &case.corrupt, &case.clean, EVERYTHING, &case.metrics, Rule::Gradient);
        for threads in [1, 3] {
            case.model.set_threads(threads);
            for row in 0..2 {
                let one = |ids: &[Vec<u32>]| vec![ids[row].clone()];
                let (base, target) = (one(&case.corrupt), one(&case.clean));
                let metric = &case.metrics[row..=row];
                let alone = scores(&case.model, &base, &target, EVERYTHING, metric, Rule::Gradient);
                for ((point, whole), (_, alone)) in both.scores.iter().zip(&alone.scores) {
                    assert_same_bits(format_args!("{name}: {point}"), alone.values(), whole.row(row));
                }
            }
        }
    }
}

/// A grid's estimates are sums of the scores; its exact cells match a sweep.
#[test]
fn a_grid_is_estimated_and_its_largest_cells_are_run() {
    let case = case("llama");
    let (target, base) = (&case.corrupt[0], &case.clean[0]);
    let positions: Vec<usize> = (0..target.len()).collect();
    for along in [
        Along::Positions { site: Site::ResidIn, positions: positions.clone() },
        Along::Heads { site: Site::HeadOut, positions: positions.clone() },
        Along::Heads { site: Site::HeadQueries, positions: vec![3, 9] },
        Along::Sites { sites: vec![Site::AttnOut, Site::MlpOut], positions: positions.clone() },
    ] {
        let request = Sweep {
            layers: vec![0, 1, 2],
            along: along.clone(),
            by: By::Patch(base.clone()),
            metric: case.metrics[0],
        };
        let estimating = Estimating { check: Some(5), ..Estimating::default() };
        let found = estimate(&case.model, target, &request, estimating, Stop::Never, |_, _| Ok(())).unwrap();
        let exact = sweep(&case.model, target, &request, |_, _| Ok(())).unwrap();
        assert_eq!((found.grid.unchanged, found.grid.base), (exact.unchanged, exact.base));
        assert_eq!(found.grid.activations, exact.activations);
        let check = found.check.unwrap();
        assert_eq!(check.cells.len(), 5);
        let effects = found.grid.effects();
        for cell in &check.cells {
            let row = exact.activations.iter().position(|row| row[cell.column] == cell.activation).unwrap();
            assert_eq!(cell.exact.to_bits(), exact.effects()[row][cell.column].to_bits());
            assert!((cell.estimate - effects[row][cell.column]).abs() < 1e-12);
        }
        let least = check.cells.last().unwrap().estimate.abs();
        let larger = effects.iter().flatten().filter(|effect| effect.abs() > least + 1e-9).count();
        assert!(larger < 5, "{larger}");
        if let Along::Positions { .. } = along {
            for (layer, effects) in effects.iter().enumerate() {
                let reference = &case.references[&format!("atp.denoise.resid_in_{layer}")].values[..10];
                let ours: Vec<f32> = effects.iter().map(|x| *x as f32).collect();
                assert!(relative_error(&ours, reference) < AGREEMENT);
                let reference = &case.references[&format!("exact.denoise.resid_in_{layer}")].values[..10];
                let ours: Vec<f32> = exact.effects()[layer].iter().map(|x| *x as f32).collect();
                assert!(relative_error(&ours, reference) < AGREEMENT);
            }
        }
    }
}

/// The normalised difference is a scaled plain one; ablation is estimated by the same rule.
#[test]
fn estimates_follow_the_metric_and_what_is_put() {
    let case = case("gpt2");
    let (target, base) = (&case.corrupt[0], &case.clean[0]);
    let Metric::LogitDiff { answer, against } = case.metrics[0] else { unreachable!() };
    let along = Along::Heads { site: Site::HeadOut, positions: (0..target.len()).collect() };
    let of = |by: By, metric: Metric| {
        let request = Sweep { layers: vec![0, 1, 2], along: along.clone(), by, metric };
        let found =
            estimate(&case.model, target, &request, Estimating::default(), Stop::Never, |_, _| Ok(()));
        found.unwrap().grid
    };
    let plain = of(By::Patch(base.clone()), case.metrics[0]);
    let scaled = of(By::Patch(base.clone()), Metric::NormalisedLogitDiff { answer, against });
    let whole = plain.base.unwrap() - plain.unchanged;
    for (plain, scaled) in plain.effects().iter().flatten().zip(scaled.effects().iter().flatten()) {
        assert!((plain / whole - scaled).abs() < 1e-9);
    }
    // With zeros patched in, the score is -value · gradient.
    let zero = of(By::Zero, case.metrics[0]);
    assert!(zero.effects().iter().flatten().any(|x| x.abs() > 1e-4));
    let kl = of(By::Patch(base.clone()), Metric::Kl);
    assert!(kl.effects().iter().flatten().any(|x| x.abs() > 1e-4) && kl.unchanged > 0.0);
}

/// Exact cells: streams and heads match a sweep; a neuron, whose effect is small, nearly matches its estimate.
#[test]
fn single_neurons_heads_and_entries_of_patterns_are_run_exactly() {
    let case = case("llama");
    let (base, target) = (vec![case.corrupt[1].clone()], vec![case.clean[1].clone()]);
    let metric = &case.metrics[1..];
    let swept = |along: Along, layer: usize, column: usize| {
        let request = Sweep { layers: vec![layer], along, by: By::Patch(base[0].clone()), metric: metric[0] };
        sweep(&case.model, &target[0], &request, |_, _| Ok(())).unwrap().effects()[0][column]
    };
    for key in ["resid_mid_1", "z_L0", "queries_L1", "keys_L2", "mlp_hidden_1", "pattern_L1H2"] {
        let found = scores(&case.model, &base, &target, key, metric, Rule::Gradient);
        let row = Row::of(0, &target[0]);
        let check = check_largest(&case.model, &row, &found, 0, 3, |_, _| Ok(())).unwrap();
        assert_eq!(check.cells.len(), 3, "{key}");
        for cell in &check.cells {
            let expected = match (key, cell.part) {
                ("resid_mid_1", None) => {
                    swept(Along::Positions { site: Site::ResidMid, positions: vec![cell.column] }, 1, 0)
                }
                ("z_L0", Some(head)) => {
                    swept(Along::Heads { site: Site::HeadOut, positions: vec![cell.column] }, 0, head)
                }
                ("queries_L1", Some(head)) => {
                    swept(Along::Heads { site: Site::HeadQueries, positions: vec![cell.column] }, 1, head)
                }
                ("mlp_hidden_1", Some(_)) => {
                    assert!((cell.exact / cell.estimate - 1.0).abs() < 1.0, "{cell:?}");
                    cell.exact
                }
                _ => cell.exact,
            };
            assert!(
                cell.exact != 0.0 && (cell.exact - expected).abs() < 1e-4 * expected.abs().max(0.1),
                "{key}: {cell:?} {expected}"
            );
        }
    }
}

/// KL is measured from the base, both in estimates and in the runs that check them.
#[test]
fn a_check_of_kl_is_measured_from_the_base() {
    let case = case("llama");
    let (base, target) = (&case.clean[..1], &case.corrupt[..1]);
    let found = scores(&case.model, base, target, "resid_mid_1", &[Metric::Kl], Rule::Gradient);
    let row = Row::of(0, &target[0]);
    let check = check_largest(&case.model, &row, &found, 0, 3, |_, _| Ok(())).unwrap();
    for cell in &check.cells {
        let along = Along::Positions { site: Site::ResidMid, positions: vec![cell.column] };
        let by = By::Patch(base[0].clone());
        let request = Sweep { layers: vec![1], along, by, metric: Metric::Kl };
        let swept = sweep(&case.model, &target[0], &request, |_, _| Ok(())).unwrap();
        assert!((found.target[0] - swept.unchanged).abs() < 1e-5, "{} {}", found.target[0], swept.unchanged);
        let expected = swept.effects()[0][0];
        assert!((cell.exact - expected).abs() < 1e-5, "{cell:?} {expected}");
    }
    assert!(check.cells.iter().any(|cell| cell.exact < 0.0), "{check:?}");
    // Without a base it is measured from the run itself, where its gradient is zero.
    let along = Along::Positions { site: Site::ResidMid, positions: vec![3] };
    let request = Sweep { layers: vec![1], along, by: By::Zero, metric: Metric::Kl };
    let refused =
        estimate(&case.model, &target[0], &request, Estimating::default(), Stop::Never, |_, _| Ok(()));
    assert!(refused.unwrap_err().to_string().contains("its gradient there is 0"));
}

#[test]
fn integrated_gradients_are_those_of_the_references() {
    for name in ["gpt2", "llama"] {
        let case = case(name);
        let (clean, corrupt) = (rows(&case.clean), rows(&case.corrupt));
        let mut compared = 0;
        for (prefix, baseline) in [("ig.corrupt", Baseline::Rows(&corrupt)), ("ig.zero", Baseline::Zero)] {
            for rule in ["left", "right", "midpoint", "gausslegendre"] {
                let Some(reference) = case.references.get(&format!("{prefix}.{rule}")) else { continue };
                let quadrature = Quadrature::from_name(rule).unwrap();
                let found = integrated_gradients(
                    &case.model,
                    &clean,
                    baseline,
                    &case.metrics,
                    None,
                    quadrature,
                    8,
                    Stop::Never,
                    |_, _| Ok(()),
                )
                .unwrap();
                let error = relative_error(found.attributions.values(), &reference.values);
                assert!(error < AGREEMENT, "{name}: {prefix}.{rule} differs by {error:.1e}");
                let total: Vec<f32> =
                    found.values.iter().zip(&found.baselines).map(|(a, b)| (a - b) as f32).collect();
                assert!(
                    relative_error(&total, &case.references[&format!("{prefix}.total")].values) < AGREEMENT
                );
                for (row, missing) in found.missing.iter().enumerate() {
                    let sum: f64 = found.attributions.row(row).iter().map(|x| f64::from(*x)).sum();
                    assert!((f64::from(total[row]) - sum - missing).abs() < 1e-4);
                }
                compared += 1;
            }
        }
        assert_eq!(compared, 7, "{name}");
    }
}

/// Completeness: with many points nothing is missing.
#[test]
fn what_is_missing_falls_with_the_number_of_steps() {
    let case = case("llama");
    let (clean, corrupt) = (rows(&case.clean), rows(&case.corrupt));
    let missing = |steps: usize| {
        let found = integrated_gradients(
            &case.model,
            &clean,
            Baseline::Rows(&corrupt),
            &case.metrics,
            None,
            Quadrature::GaussLegendre,
            steps,
            Stop::Never,
            |_, _| Ok(()),
        )
        .unwrap();
        found.missing.iter().fold(0.0_f64, |most, x| most.max(x.abs()))
    };
    let (few, many) = (missing(2), missing(24));
    assert!(many < 1e-2 * few && many < 5e-3, "{few} {many}");
}

/// Completeness on recurrences. The choice of experts jumps, so models with experts have no such law. A delta rule norms its
/// keys, and turns so sharply where one passes near zero that no fixed points sum its gradients.
#[test]
fn integrated_gradients_of_recurrences_are_complete() {
    /// What 1,024 points may miss: this share of the metric's difference, and this much of any.
    const MISSING: (f64, f64) = (1e-3, 1e-3);
    let (ids, base) = (vec![5, 90, 17, 200], vec![44, 3, 121, 9]);
    let (ids, base) = ([Row::of(0, &ids)], [Row::of(0, &base)]);
    let mut n_models = 0;
    for name in cases("tiny") {
        let model = tiny(&name);
        let layers = &model.arch().layers;
        let states: Vec<State> = layers.iter().filter_map(|layer| Some(layer.recurrence?.state)).collect();
        let has_delta = states.iter().any(|state| matches!(state, State::Delta { .. }));
        if states.is_empty()
            || has_delta
            || model.arch().points().any(|point| point.site() == Site::RouterLogits)
        {
            continue;
        }
        n_models += 1;
        let found = integrated_gradients(
            &model,
            &ids,
            Baseline::Rows(&base),
            &[Metric::LogitDiff { answer: 7, against: 100 }],
            None,
            Quadrature::GaussLegendre,
            1024,
            Stop::Never,
            |_, _| Ok(()),
        )
        .unwrap();
        let allowed = MISSING.0 * (found.values[0] - found.baselines[0]).abs() + MISSING.1;
        assert!(found.missing[0].abs() <= allowed, "{name}: {} of {allowed}", found.missing[0]);
    }
    assert!(n_models >= 5, "{n_models} models");
}

#[test]
fn sums_of_pairs_are_read_as_they_were_written() {
    let case = case("llama");
    let pair = |row: usize| {
        let (clean, corrupt) = ([case.clean[row].clone()], [case.corrupt[row].clone()]);
        let keys = "z_L*,resid_in_1,pattern_L0H1";
        scores(&case.model, &clean, &corrupt, keys, &case.metrics[row..=row], Rule::Gradient)
    };
    let add = |sums: &mut AttributionSums, row: usize| {
        let (ids, metric) = ([&case.clean[row][..], &case.corrupt[row][..]], case.metrics[row]);
        if !sums.has(ids, metric).unwrap() {
            sums.add(ids, metric, &pair(row));
        }
    };
    let (mut whole, mut first) = (AttributionSums::default(), AttributionSums::default());
    add(&mut whole, 0);
    add(&mut whole, 1);
    add(&mut first, 0);
    let origin = serde_json::json!({"rule": "gradient"});
    let file = tempfile::NamedTempFile::new().unwrap();
    first.write(&origin, &mut file.as_file()).unwrap();
    let mut resumed = AttributionSums::read(file.path(), &origin).unwrap();
    (0..2).for_each(|row| add(&mut resumed, row));
    assert_eq!((resumed.means(), resumed.metrics()), (whole.means(), whole.metrics()));
    assert_eq!(whole.summed().n(), 2);
    let other = AttributionSums::read(file.path(), &serde_json::json!({"rule": "relp"})).unwrap_err();
    assert!(other.to_string().contains("another `rule` (\"gradient\", here \"relp\")"), "{other}");
}

#[test]
fn a_token_that_is_named_twice_counts_once() {
    let case = case("llama");
    let (base, target) = ([case.clean[0].clone()], [case.corrupt[0].clone()]);
    let of = |positions: &str| {
        let request = Request::parse("z_L1,resid_in_1,mlp_hidden_0,pattern_L0H1", positions).unwrap();
        let (base, target, metrics) = (rows(&base), rows(&target), &case.metrics[..1]);
        let (rule, context) = (Rule::Gradient, Context::default());
        attribution_patching(&case.model, &base, &target, &request, metrics, rule, context, Stop::Never)
            .unwrap()
    };
    let (once, twice) = (of("2:6"), of("2:6,3,5,-5"));
    assert_eq!(case.clean[0].len(), 10, "-5 is the token 5");
    let means = |found: &Attribution| {
        let mut sums = AttributionSums::default();
        sums.add([&base[0], &target[0]], case.metrics[0], found);
        sums.means()
    };
    assert_eq!(means(&once), means(&twice));
    assert_eq!(once.largest(0, 500), twice.largest(0, 500));
}

#[test]
fn wrong_requests_are_refused_by_name() {
    let case = case("llama");
    let (clean, corrupt) = (rows(&case.clean), rows(&case.corrupt));
    let request = Request::parse("resid_in_1", "all").unwrap();
    let of = |base: &[Row<'_>], target: &[Row<'_>], metrics: &[Metric]| {
        attribution_patching(
            &case.model,
            base,
            target,
            &request,
            metrics,
            Rule::Gradient,
            Context::default(),
            Stop::Never,
        )
        .unwrap_err()
        .to_string()
    };
    assert!(of(&clean[..1], &corrupt, &case.metrics).contains("1 rows of base but 2"));
    let short = [Row::of(0, &case.clean[0][..4]), clean[1]];
    assert!(of(&short, &corrupt, &case.metrics).contains("the base has 4 tokens and the target 10"));
    assert!(of(&clean, &corrupt, &[Metric::Rank { token: 3 }]).contains("`rank` has no gradient"));
    let integrate = |baseline, quadrature, steps| {
        integrated_gradients(
            &case.model,
            &clean,
            baseline,
            &case.metrics,
            None,
            quadrature,
            steps,
            Stop::Never,
            |_, _| Ok(()),
        )
        .unwrap_err()
        .to_string()
    };
    assert!(integrate(Baseline::Rows(&short), Quadrature::Right, 4).contains("4 tokens"));
    assert!(integrate(Baseline::Zero, Quadrature::Left, 4).contains("singular"));
    assert!(integrate(Baseline::Zero, Quadrature::Right, 0).contains("0 steps"));
    assert!(Quadrature::from_name("simpson").unwrap_err().hint_text().unwrap().contains("midpoint"));
    let sweep = Sweep {
        layers: vec![0],
        along: Along::Positions { site: Site::ResidIn, positions: vec![0] },
        by: By::Patch(case.clean[0].clone()),
        metric: case.metrics[0],
    };
    let none = Estimating { check: Some(0), ..Estimating::default() };
    let refused = estimate(&case.model, &case.corrupt[0], &sweep, none, Stop::Never, |_, _| Ok(()));
    assert!(refused.unwrap_err().to_string().contains("0 cells"));
    let found =
        scores(&case.model, &case.clean, &case.corrupt, "final_norm_out", &case.metrics, Rule::Gradient);
    let refused = check_largest(&case.model, &corrupt[0], &found, 0, 2, |_, _| Ok(()));
    assert!(refused.unwrap_err().to_string().contains("can be read, not changed"));
}
