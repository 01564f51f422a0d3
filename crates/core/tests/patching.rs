//! Patching and sweeps: equal to whole runs to the bit, and errors for every kind of wrong request.

use crate::common::{assert_same_bits, cases, extract, tiny};
use easyroutine::edit::{Edits, Intervention, Operation, Part, Tensor};
use easyroutine::patching::{Along, By, Labels, Metric, Patch, Sweep, compute_patching, sweep};
use easyroutine::positions::{Context, Row, Specifier};
use easyroutine::request::Request;
use easyroutine::sites::Site;
use easyroutine::{Batch, Model};

const TARGET: std::ops::Range<u32> = 40..52;

pub(crate) fn target() -> Vec<u32> {
    TARGET.collect()
}

pub(crate) fn base() -> Vec<u32> {
    TARGET.rev().map(|id| id * 3 % 200).collect()
}

fn row(ids: &[u32]) -> Row<'_> {
    Row::of(0, ids)
}

/// Logits at the last token of the target from one whole run, with these values, or zeros, put at a point.
pub(crate) fn whole_run(
    model: &Model,
    activation: &str,
    positions: &[usize],
    put: Option<Vec<f32>>,
) -> Vec<f32> {
    let target = target();
    let operation = match put {
        None => Operation::Scale(0.0),
        Some(values) => {
            let shape = [positions.len(), values.len() / positions.len()];
            Operation::Replace(Tensor::new(activation, &shape, values).unwrap())
        }
    };
    let part = Part::Full(positions.iter().map(|p| Specifier::At(*p as i64)).collect());
    let activation = activation.parse().unwrap();
    let intervention = Intervention { activation, entries: Vec::new(), part, operation };
    let rows = [row(&target)];
    let edits = Edits::new(&[intervention], model.arch(), &rows, Context::default()).unwrap();
    let batch = Batch::new(&[&target]).unwrap();
    let cache =
        Request::parse("logits", "last").unwrap().run_under(model, &batch, &rows, Context::default(), edits);
    cache.unwrap().get("logits").unwrap().values().to_vec()
}

/// The values that a sweep's cells put at positions of an activation, read from a run of their own.
fn put(model: &Model, by: &By, activation: &str, positions: &[usize]) -> Option<Vec<f32>> {
    match by {
        By::Zero => None,
        By::Resample(other) | By::Patch(other) => {
            let at = positions.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let cache = extract(model, std::slice::from_ref(other), activation, &at);
            Some(cache.get(activation).unwrap().values().to_vec())
        }
        By::Mean(rows) => {
            let cache = extract(model, rows, activation, "all");
            let kept = cache.get(activation).unwrap();
            let width = kept.row_shapes[0][1];
            let count = (kept.values().len() / width) as f64;
            let mut sums = vec![0f64; width];
            for vector in kept.values().chunks_exact(width) {
                sums.iter_mut().zip(vector).for_each(|(sum, x)| *sum += f64::from(*x));
            }
            let mean: Vec<f32> = sums.into_iter().map(|sum| (sum / count) as f32).collect();
            Some(positions.iter().flat_map(|_| mean.clone()).collect())
        }
        By::MeanOfRows(rows) => {
            let at = positions.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let of = |row: &Vec<u32>| {
                extract(model, std::slice::from_ref(row), activation, &at)
                    .get(activation)
                    .unwrap()
                    .values()
                    .to_vec()
            };
            let each: Vec<Vec<f32>> = rows.iter().map(of).collect();
            let sum = |place: usize| each.iter().map(|row| f64::from(row[place])).sum::<f64>();
            Some((0..each[0].len()).map(|place| (sum(place) / rows.len() as f64) as f32).collect())
        }
    }
}

/// Compares every cell of a sweep with a whole run.
fn check(name: &str, model: &Model, request: &Sweep, places: &dyn Fn(usize) -> Vec<usize>) {
    let mut heard = Vec::new();
    let grid = sweep(model, &target(), request, |done, of| {
        heard.push((done, of));
        Ok(())
    })
    .unwrap_or_else(|e| panic!("{name}: {e}"));
    let n_cells = grid.layers.len() * grid.columns.len();
    assert_eq!(heard, (0..=n_cells).map(|done| (done, n_cells)).collect::<Vec<_>>(), "{name}");
    let last =
        |ids: Vec<u32>| extract(model, &[ids], "logits", "last").get("logits").unwrap().values().to_vec();
    let unchanged = last(target());
    let base = match &request.by {
        By::Patch(base) => Some(last(base.clone())),
        _ => None,
    };
    let of = |logits: &[f32]| request.metric.of(logits, &unchanged, base.as_deref()).unwrap();
    assert_eq!(grid.unchanged.to_bits(), of(&unchanged).to_bits(), "{name}");
    assert_eq!(grid.base.map(f64::to_bits), base.as_ref().map(|base| of(base).to_bits()), "{name}");
    let mut differing = 0;
    for (values, activations) in grid.values.iter().zip(&grid.activations) {
        for (column, (value, activation)) in values.iter().zip(activations).enumerate() {
            let positions = places(column);
            let logits =
                whole_run(model, activation, &positions, put(model, &request.by, activation, &positions));
            assert_eq!(value.to_bits(), of(&logits).to_bits(), "{name}, {activation} at {positions:?}");
            differing += usize::from(*value != grid.unchanged);
        }
    }
    assert!(differing > 0, "{name}: no change changes anything");
}

#[test]
fn every_cell_of_a_sweep_has_the_bits_of_a_whole_run() {
    let metric = Metric::LogitDiff { answer: 7, against: 90 };
    for case in cases("tiny") {
        let model = tiny(&case);
        let with = |sites: &[Site]| -> Vec<usize> {
            let has = |layer: &usize| {
                let lacks = |site: &Site| model.arch().points_of(*site, *layer).is_err();
                !sites.iter().any(lacks)
            };
            (0..model.arch().layers.len()).filter(has).collect()
        };
        let few = vec![11usize, 3, 3];
        let sites = [
            Site::ResidIn,
            Site::ResidOut,
            Site::AttnOut,
            Site::MixerZ,
            Site::MixerOut,
            Site::MlpIn,
            Site::Keys,
        ];
        for site in sites {
            let layers = with(&[site]);
            if layers.is_empty() {
                continue;
            }
            for by in [By::Zero, By::Patch(base())] {
                let along = Along::Positions { site, positions: (0..12).collect() };
                let request = Sweep { layers: layers.clone(), along, by, metric: Metric::Kl };
                check(&format!("{case} {site:?}"), &model, &request, &|column| vec![column]);
            }
        }
        for site in [Site::HeadOut, Site::HeadValues, Site::HeadKeys] {
            let layers = with(&[site]);
            if layers.is_empty() || model.arch().n_heads == 0 {
                continue;
            }
            for by in [By::Zero, By::Resample(base())] {
                let along = Along::Heads { site, positions: few.clone() };
                let request = Sweep { layers: layers.clone(), along, by, metric };
                check(&format!("{case} {site:?}"), &model, &request, &|_| vec![3, 11]);
            }
        }
        let sites = vec![Site::AttnOut, Site::MlpOut];
        let layers = with(&sites);
        if layers.is_empty() {
            continue;
        }
        let along = Along::Sites { sites, positions: few };
        let other: Vec<u32> = base().iter().rev().copied().collect();
        for by in [By::Mean(vec![base(), vec![1, 2, 3]]), By::MeanOfRows(vec![base(), other, target()])] {
            let metric = Metric::Probability { token: 9 };
            let request = Sweep { layers: layers.clone(), along: along.clone(), by, metric };
            check(&case, &model, &request, &|_| vec![3, 11]);
        }
    }
}

#[test]
fn a_mean_over_rows_is_one_position_by_position_where_their_lengths_agree() {
    assert_eq!(By::mean_of(vec![vec![4, 5, 6]], &[1, 2, 3]), By::MeanOfRows(vec![vec![4, 5, 6]]));
    let several = vec![vec![4, 5, 6], vec![1, 2, 3]];
    assert_eq!(By::mean_of(several.clone(), &[1, 2, 3]), By::MeanOfRows(several));
    for rows in [vec![vec![4, 5, 6], vec![1, 2]], vec![vec![1, 2, 3]], vec![]] {
        assert_eq!(By::mean_of(rows.clone(), &[1, 2, 3]), By::Mean(rows));
    }
}

#[test]
fn patching_everything_of_the_base_gives_the_base() {
    for case in cases("tiny") {
        let model = tiny(&case);
        let last = model.arch().layers.len() - 1;
        let along = Along::Sites { sites: vec![Site::ResidOut], positions: (0..12).collect() };
        let metric = Metric::NormalisedLogitDiff { answer: 7, against: 90 };
        let request = Sweep { layers: vec![last], along, by: By::Patch(base()), metric };
        let grid = sweep(&model, &target(), &request, |_, _| Ok(())).unwrap();
        assert_eq!((grid.values[0][0], grid.unchanged, grid.base), (1.0, 0.0, Some(1.0)), "{case}");
        assert_eq!(grid.effects(), [[1.0]]);
    }
}

#[test]
fn a_layer_without_any_of_the_sites_has_no_row_and_without_one_of_them_an_empty_cell() {
    let metric = Metric::LogitDiff { answer: 7, against: 90 };
    let (mut rows, mut cells) = (0, 0);
    for case in ["nemotron_h", "qwen3_next", "lfm2", "falcon_h1", "mamba"] {
        let model = tiny(case);
        let arch = model.arch();
        let all: Vec<usize> = (0..arch.layers.len()).collect();
        let run = |along: Along| {
            let request = Sweep { layers: all.clone(), along, by: By::Zero, metric };
            sweep(&model, &target(), &request, |_, _| Ok(()))
        };
        let positions = vec![3, 11];
        let parts = Along::parts(&model);
        let grid = run(Along::Sites { sites: parts.clone(), positions: positions.clone() }).unwrap();
        assert_eq!(grid.layers, all, "{case}");
        for (column, site) in parts.iter().enumerate() {
            let alone = run(Along::Sites { sites: vec![*site], positions: positions.clone() }).unwrap();
            for layer in &all {
                let (value, name) = (grid.values[*layer][column], &grid.activations[*layer][column]);
                match alone.layers.iter().position(|other| other == layer) {
                    Some(row) => {
                        assert_eq!(value.to_bits(), alone.values[row][0].to_bits(), "{case}, {name}");
                        assert_eq!(name, &alone.activations[row][0]);
                    }
                    None => {
                        assert!(!arch.has(*site, *layer) && value.is_nan() && name.is_empty(), "{case}");
                        cells += 1;
                    }
                }
            }
        }
        let heads = run(Along::Heads { site: Site::HeadOut, positions });
        match all.iter().filter(|layer| arch.has(Site::HeadOut, **layer)).count() {
            0 => assert!(heads.unwrap_err().to_string().contains("no layer of this model has `head_out`")),
            with => {
                assert_eq!(heads.unwrap().layers.len(), with, "{case}");
                rows += usize::from(with < all.len());
            }
        }
    }
    assert!(rows > 1 && cells > 1, "no model lacks anything");
    let model = tiny("nemotron_h");
    let along = Along::Heads { site: Site::HeadOut, positions: vec![1] };
    let request = Sweep { layers: vec![0], along, by: By::Zero, metric };
    let error = sweep(&model, &target(), &request, |_, _| Ok(())).unwrap_err().to_string();
    assert!(error.contains("none of these layers has `head_out`"), "{error}");
}

#[test]
fn patching_rows_of_a_batch_gives_logits_differences_and_divergences() {
    let model = tiny("qwen2");
    let (targets, bases) = ([target(), base()], [base(), target()]);
    let patches = |position: &str| {
        vec![Patch {
            activation: "resid_out_0".parse().unwrap(),
            positions: Specifier::parse_list(position).unwrap(),
        }]
    };
    let labels = [Labels { base: 5, target: 6 }, Labels { base: 7, target: 8 }];
    let run = |patches: &[Patch], n: usize| {
        let (base, target): (Vec<Row<'_>>, Vec<Row<'_>>) =
            (bases[..n].iter().map(|r| row(r)).collect(), targets[..n].iter().map(|r| row(r)).collect());
        compute_patching(&model, &base, &target, patches, Some(&labels[..n]), Context::default()).unwrap()
    };
    let both = run(&patches("last,2"), 2);
    // A batch equals its rows, whatever their number: one value per row, never ragged.
    let alone = run(&patches("last,2"), 1);
    assert_same_bits("row 0", &both.target_patched_logits[0], &alone.target_patched_logits[0]);
    assert_eq!(both.kl_difference.len(), 2);
    let put = extract(&model, &[base()], "resid_out_0", "last,2");
    let expected =
        whole_run(&model, "resid_out_0", &[11, 2], Some(put.get("resid_out_0").unwrap().values().to_vec()));
    assert_same_bits("patched", &both.target_patched_logits[0], &expected);
    let diffs = both.logit_diffs.clone().unwrap();
    let by_hand = |logits: &[f32]| f64::from(logits[6]) - f64::from(logits[5]);
    assert_eq!(diffs.clean[0], by_hand(&both.target_clean_logits[0]));
    assert_eq!(diffs.patched[0], by_hand(&both.target_patched_logits[0]));
    assert_eq!(diffs.variation[0], diffs.patched[0] - diffs.clean[0]);
    let kl = |p: &[f32], q: &[f32]| Metric::Kl.of(q, p, None).unwrap();
    assert_eq!(both.kl_clean_base[1], kl(&both.base_logits[1], &both.target_clean_logits[1]));
    assert_eq!(both.kl_patched_base[1], kl(&both.base_logits[1], &both.target_patched_logits[1]));
    assert_eq!(both.kl_patched_clean[1], kl(&both.target_clean_logits[1], &both.target_patched_logits[1]));
    assert_eq!(both.kl_difference[1], both.kl_patched_base[1] - both.kl_clean_base[1]);
    // With every position of a layer patched, the target answers like the base.
    let whole = run(&patches("all"), 2);
    assert_same_bits("all", &whole.target_patched_logits[0], &whole.base_logits[0]);
    assert_eq!(whole.kl_patched_base, [0.0, 0.0]);
}

#[test]
fn wrong_patches_are_errors_that_name_what_is_wrong() {
    let model = tiny("llama");
    let refused = |base: &[u32], activation: &str, positions: &str| {
        let target = target();
        let patch = Patch {
            activation: activation.parse().unwrap(),
            positions: Specifier::parse_list(positions).unwrap(),
        };
        let error =
            compute_patching(&model, &[row(base)], &[row(&target)], &[patch], None, Context::default())
                .unwrap_err();
        error.to_string()
    };
    let short: Vec<u32> = (1..8).collect();
    let message = refused(&short, "resid_out_0", "all");
    assert!(
        message.contains("7 tokens of the base (7 long)") && message.contains("12 of the target"),
        "{message}"
    );
    assert!(refused(&short, "resid_out_0", "9").contains("position `9`"));
    assert!(refused(&base(), "resid_out_9", "last").contains("layers"));
    assert!(refused(&base(), "pattern_L0H0", "last").contains("columns, rows or a grid"));
    assert!(refused(&base(), "logits", "last").contains("can be read, not changed"));
    assert!(compute_patching(&model, &[], &[row(&short)], &[], None, Context::default()).is_err());
    assert!(compute_patching(&model, &[row(&short)], &[row(&short)], &[], None, Context::default()).is_err());
}

#[test]
fn wrong_sweeps_are_errors_that_name_what_is_wrong() {
    let model = tiny("gpt_neox");
    let good = Sweep {
        layers: vec![0, 1],
        along: Along::Positions { site: Site::ResidIn, positions: vec![0, 1] },
        by: By::Zero,
        metric: Metric::Kl,
    };
    assert!(sweep(&model, &target(), &good, |_, _| Ok(())).is_ok());
    let positions = |site, positions| Along::Positions { site, positions };
    let heads = |site, positions| Along::Heads { site, positions };
    for (request, part) in [
        (Sweep { layers: vec![9], ..good.clone() }, "no layer 9"),
        (Sweep { layers: vec![], ..good.clone() }, "no layers"),
        (Sweep { along: positions(Site::ResidIn, vec![12]), ..good.clone() }, "position 12"),
        (Sweep { along: positions(Site::ResidIn, vec![]), ..good.clone() }, "changes something"),
        (Sweep { along: positions(Site::ResidMid, vec![1]), ..good.clone() }, "parallel"),
        (Sweep { along: positions(Site::Logits, vec![1]), ..good.clone() }, "`logits` is not a column"),
        (
            Sweep { along: positions(Site::HeadOut, vec![1]), ..good.clone() },
            "not a column of a grid along positions",
        ),
        (
            Sweep { along: heads(Site::ResidIn, vec![1]), ..good.clone() },
            "not a column of a grid along heads",
        ),
        (Sweep { by: By::Patch(vec![1, 2]), ..good.clone() }, "2 tokens"),
        (Sweep { by: By::MeanOfRows(vec![target(), vec![1, 2]]), ..good.clone() }, "2 tokens"),
        (Sweep { metric: Metric::Rank { token: 100_000 }, ..good.clone() }, "vocabulary"),
        (Sweep { metric: Metric::NormalisedLogitDiff { answer: 1, against: 2 }, ..good.clone() }, "base run"),
    ] {
        let message = sweep(&model, &target(), &request, |_, _| Ok(())).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    let stop = |done, _| match done {
        3 => Err(easyroutine::Error::new(easyroutine::ErrorKind::Interrupted, "enough")),
        _ => Ok(()),
    };
    assert!(sweep(&model, &target(), &good, stop).is_err());
    let json = sweep(&model, &target(), &good, |_, _| Ok(())).unwrap().to_json();
    assert_eq!((&json["schema"], &json["columns"][1]), (&"easyroutine.grid/1".into(), &"position 1".into()));
}
