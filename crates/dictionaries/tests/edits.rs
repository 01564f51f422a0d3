//! Features changed while a model runs, against the references' logits.

use easyroutine::positions::{Context, Row};
use easyroutine::sites::{Point, Site};
use easyroutine::{Batch, Model, Result, Tap, Value, Want};
use easyroutine_dictionaries::{Dictionaries, FeatureCapture, FeatureChange, FeatureEdits};

use crate::common::{Case, assert_near, cases};

/// The logits of each row's last token.
#[derive(Default)]
struct Last(Vec<f32>);

impl Tap for Last {
    fn wants(&self, point: Point) -> Want {
        if point == Point::model(Site::Logits) { Want::Read } else { Want::Nothing }
    }

    fn at(&mut self, _: Point, value: &mut Value<'_>) -> Result<()> {
        for row in 0..value.batch().n_rows() {
            let last = value.batch().length(row) - 1;
            self.0.extend_from_slice(value.vector(row, last).unwrap());
        }
        Ok(())
    }
}

fn logits(model: &Model, dictionaries: &Dictionaries, ids: &[Vec<u32>], changes: &[String]) -> Vec<f32> {
    let changes: Vec<FeatureChange> = changes.iter().map(|text| text.parse().unwrap()).collect();
    let rows: Vec<Row<'_>> = ids.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect();
    let edits = FeatureEdits::new(&changes, dictionaries, model.cpu(), &rows, Context::default()).unwrap();
    let mut taps = (edits, Last::default());
    model.forward(&Batch::new(ids).unwrap(), &mut taps).unwrap();
    taps.1.0
}

fn opened(case: &Case, model: &Model) -> Dictionaries {
    let mut dictionaries = Dictionaries::default();
    dictionaries.add("d", case.dictionary(), model.arch()).unwrap();
    dictionaries
}

#[test]
fn spliced_ablated_clamped_and_steered_runs_have_the_logits_of_the_references() {
    for case in cases() {
        let model = case.model();
        let dictionaries = opened(&case, &model);
        let ids = case.rows();
        let is_set = dictionaries.all()[0].dictionary.is_set();
        let all = if is_set { "features_d_*" } else { "features_d" };
        let one = match is_set {
            true => format!("features_d_{}", case.size("ablated_layer")),
            false => "features_d".to_owned(),
        };
        let ablated = case.size("ablated");
        let mut runs = vec![
            ("clean", vec![]),
            ("spliced", vec![format!("{all}@all=splice")]),
            ("spliced_error", vec![format!("{all}@all=keep-error")]),
            ("ablated", vec![format!("{one}:{ablated}@all=0")]),
        ];
        if !is_set {
            let (steered, clamp, strength) =
                (case.size("steered"), &case.expect["clamp_value"], &case.expect["steer_strength"]);
            runs.extend([
                ("ablated_no_error", vec![format!("{one}:{ablated}@all*0"), format!("{one}@all=splice")]),
                ("clamped", vec![format!("{one}:{steered}@all={clamp}")]),
                ("steered", vec![format!("{one}:{steered}@all+{strength}")]),
            ]);
        }
        let clean = logits(&model, &dictionaries, &ids, &[]);
        for (run, changes) in runs {
            let found = logits(&model, &dictionaries, &ids, &changes);
            let (_, expected) = case.tensor(&format!("logits.{run}"));
            assert_near(&format!("{} {run}", case.name), &found, &expected, 2e-5);
            if run == "spliced_error" {
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&found), bits(&clean), "{}: nothing changes, to the bit", case.name);
            }
        }
    }
}

#[test]
fn two_dictionaries_at_one_place_change_it_one_after_the_other_in_their_order() {
    let case = Case::named("saelens_standard");
    let model = case.model();
    let ids = case.rows();
    let both = |names: [&str; 2]| {
        let mut dictionaries = Dictionaries::default();
        names.iter().for_each(|name| dictionaries.add(name, case.dictionary(), model.arch()).unwrap());
        dictionaries
    };
    let changes = ["features_first@all=splice".to_owned(), "features_second:7@all+30".to_owned()];
    let found = logits(&model, &both(["first", "second"]), &ids, &changes);
    // A feature's vector that is added to a reconstruction is that of the reconstruction with more of the feature.
    let one = ["features_d:7@all+30".to_owned(), "features_d@all=splice".to_owned()];
    assert_near("splice, then steer", &found, &logits(&model, &opened(&case, &model), &ids, &one), 2e-5);
    let [spliced, steered] = changes.clone();
    let swapped = logits(&model, &both(["first", "second"]), &ids, &[steered, spliced]);
    assert_eq!(swapped, found, "the order of the changes says nothing");
    let reread = logits(&model, &both(["second", "first"]), &ids, &changes);
    let apart = reread.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart > 1e-3, "the second reads what the first has made: {apart}");
}

#[test]
fn a_run_keeps_the_features_of_its_tokens() {
    for case in cases() {
        let model = case.model();
        let dictionaries = opened(&case, &model);
        let ids = case.rows();
        let named = &dictionaries.all()[0];
        let key = if named.dictionary.is_set() { "features_d_*" } else { "features_d" };
        let positions: Vec<Vec<usize>> = ids.iter().map(|row| (0..row.len()).collect()).collect();
        let mut capture =
            FeatureCapture::new(&[key.to_owned()], &dictionaries, model.cpu(), positions).unwrap();
        model.forward(&Batch::new(&ids).unwrap(), &mut capture).unwrap();
        let kept = capture.finish();
        assert_eq!(kept.len(), named.fits.len());
        let (_, expected) = case.tensor("features");
        let per_layer = expected.len() / kept.len();
        for (number, (key, sparse)) in kept.iter().enumerate() {
            let n = sparse.shape[2] as usize;
            let mut dense = vec![0.0; per_layer];
            for ([row, position, feature], value) in sparse.indices.iter().zip(&sparse.values) {
                dense[(*row as usize * ids[0].len() + *position as usize) * n + *feature as usize] = *value;
            }
            assert!(sparse.indices.is_sorted(), "{key}");
            let expected = &expected[number * per_layer..][..per_layer];
            assert_near(&format!("{} {key}", case.name), &dense, expected, 5e-5);
        }
    }
}

#[test]
fn generation_changes_every_new_token_where_all_was_asked_for() {
    use easyroutine::generate::{GenerateOptions, Sampling, generate};
    let case = Case::named("saelens_standard");
    let model = case.model();
    let dictionaries = opened(&case, &model);
    let mut ids = case.rows()[0].clone();
    let change: FeatureChange = "features_d:7@all=40".parse().unwrap();
    let prompt = ids.clone();
    let edits = |ids: &[u32]| {
        FeatureEdits::new(
            std::slice::from_ref(&change),
            &dictionaries,
            model.cpu(),
            &[Row::of(0, ids)],
            Context::default(),
        )
        .unwrap()
    };
    let options =
        GenerateOptions { max_new_tokens: 4, sampling: Sampling::Greedy, ends: Vec::new(), seed: 0 };
    let go_on = |_| Ok(std::ops::ControlFlow::Continue(()));
    let generated = generate(&model, &[&prompt], &options, edits(&prompt), go_on).unwrap();
    // The same token by token, without a cache.
    for id in &generated[0].ids {
        let mut taps = (edits(&ids), Last::default());
        model.forward(&Batch::new(&[&ids]).unwrap(), &mut taps).unwrap();
        let best = taps.1.0.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        assert_eq!(best as u32, *id);
        ids.push(*id);
    }
}

#[test]
fn features_of_a_prompt_outlast_the_tokens_that_are_generated_after_it() {
    use easyroutine::generate::{GenerateOptions, Sampling, generate};
    let case = Case::named("saelens_standard");
    let model = case.model();
    let dictionaries = opened(&case, &model);
    let prompt = case.rows()[0].clone();
    let capture = || {
        let positions = vec![(0..prompt.len()).collect()];
        FeatureCapture::new(&["features_d".to_owned()], &dictionaries, model.cpu(), positions).unwrap()
    };
    let (mut expected, mut found) = (capture(), capture());
    model.forward(&Batch::new(&[&prompt]).unwrap(), &mut expected).unwrap();
    let options =
        GenerateOptions { max_new_tokens: 3, sampling: Sampling::Greedy, ends: Vec::new(), seed: 0 };
    let go_on = |_| Ok(std::ops::ControlFlow::Continue(()));
    generate(&model, &[&prompt], &options, &mut found, go_on).unwrap();
    let expected = expected.finish();
    assert!(!expected[0].1.values.is_empty());
    assert_eq!(found.finish(), expected);
}

#[test]
fn changes_of_what_is_not_there_are_refused_by_name() {
    let case = Case::named("saelens_standard");
    let model = case.model();
    let mut dictionaries = opened(&case, &model);
    let ids = case.rows();
    let row = Row::of(0, &ids[0]);
    for (text, words) in [
        ("features_d:64@all=0", ["no feature 64", "0 to 63"]),
        ("features_e:1@all=0", ["features_e", "features_d"]),
        ("features_d_1:1@all=0", ["one layer", "features_d_1"]),
        ("features_d:1@99=0", ["99", "features_d"]),
    ] {
        let change: FeatureChange = text.parse().unwrap();
        let error =
            FeatureEdits::new(&[change], &dictionaries, model.cpu(), &[row], Context::default()).unwrap_err();
        let said = format!("{error} {}", error.hint_text().unwrap_or_default());
        assert!(words.iter().all(|word| said.contains(word)), "{text}: {said}");
    }
    let again = dictionaries.add("d", case.dictionary(), model.arch()).unwrap_err().to_string();
    assert!(again.contains("two dictionaries"), "{again}");
}

#[test]
fn a_transcoder_in_the_place_of_its_mlp_gives_the_same_bits_whether_the_mlp_ran_or_not() {
    /// Reads every MLP's output, so that it must be computed.
    struct Looks;
    impl Tap for Looks {
        fn wants(&self, point: Point) -> Want {
            if point.site() == Site::MlpOut { Want::Read } else { Want::Nothing }
        }

        fn at(&mut self, _: Point, _: &mut Value<'_>) -> Result<()> {
            Ok(())
        }
    }
    for name in ["sparsify_skip_transcoder", "circuit_tracer_plt", "circuit_tracer_clt", "saelens_transcoder"]
    {
        let case = Case::named(name);
        let (model, ids) = (case.model(), case.rows());
        let dictionaries = opened(&case, &model);
        let is_set = dictionaries.all()[0].dictionary.is_set();
        let key = if is_set { "features_d_*" } else { "features_d" };
        let rows: Vec<Row<'_>> = ids.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect();
        let edits = |positions: &str| {
            let mut changes: Vec<FeatureChange> = vec![format!("{key}@{positions}=splice").parse().unwrap()];
            changes.push(format!("{}:3@all+2", key.replace('*', "1")).parse().unwrap());
            FeatureEdits::new(&changes, &dictionaries, model.cpu(), &rows, Context::default()).unwrap()
        };
        let writes = dictionaries.all()[0].fits.last().unwrap().writes;
        assert_eq!(edits("all").wants(writes), Want::Replace, "{name}");
        assert_eq!(edits("0").wants(writes), Want::Edit, "{name}");
        let batch = Batch::new(&ids).unwrap();
        let mut skipped = (edits("all"), Last::default());
        model.forward(&batch, &mut skipped).unwrap();
        let mut computed = ((Looks, edits("all")), Last::default());
        assert_eq!(computed.0.wants(writes), Want::Edit, "{name}");
        model.forward(&batch, &mut computed).unwrap();
        assert_eq!(skipped.1.0, computed.1.0, "{name}");
    }
}
