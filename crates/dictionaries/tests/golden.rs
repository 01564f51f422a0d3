//! Every dictionary against its references: computed from the files by NumPy in float64, and by the libraries themselves.

use easyroutine_dictionaries::Features;
use easyroutine_kernels::Rows;

use crate::common::{assert_near, cases, cpu};

/// The precision of float32, relative to the largest value.
const SHARE: f32 = 1e-5;

#[test]
fn every_dictionary_encodes_and_decodes_to_its_references() {
    let cpu = cpu();
    for case in cases() {
        let dictionary = case.dictionary();
        dictionary.check_numbers().unwrap();
        let n_layers = dictionary.layers().len();
        let (_, x) = case.tensor("x");
        let (_, expected) = case.tensor("features");
        let (_, decoded) = case.tensor("reconstruction");
        let (per_layer, features_per_layer) = (x.len() / n_layers, expected.len() / n_layers);
        let mut features: Vec<Features> = Vec::new();
        for (number, layer) in dictionary.layers().iter().enumerate() {
            let what = format!("{} layer {number}", case.name);
            assert_eq!(layer.n_features(), case.size("d_dict"), "{what}");
            let x = &x[number * per_layer..][..per_layer];
            let rows = Rows::dense(x, per_layer / layer.d_in(), layer.d_in());
            let found = layer.encode(&cpu, rows).unwrap();
            assert_near(
                &what,
                &found.dense(),
                &expected[number * features_per_layer..][..features_per_layer],
                SHARE,
            );
            features.push(found);
            let sources: Vec<&Features> = features[dictionary.sources(number)].iter().collect();
            let found = dictionary.decode(&cpu, number, &sources, rows).unwrap();
            let per_layer = decoded.len() / n_layers;
            assert_near(&what, &found, &decoded[number * per_layer..][..per_layer], SHARE);
        }
    }
}

#[test]
fn every_dictionary_finds_its_place_in_its_model() {
    for case in cases() {
        let model = case.model();
        let fits = case.dictionary().fit(model.arch()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        for (number, fit) in fits.iter().enumerate() {
            let is_set = case.expect.get("layers").is_some();
            // The references write z_2, the tables z_L2.
            let spelt = |key: &str| match case.text(key) {
                name if is_set => format!("{name}_{number}"),
                name => name.replace("z_", "z_L"),
            };
            assert_eq!(fit.reads.to_string(), spelt("site_in"), "{}", case.name);
            assert_eq!(fit.writes.to_string(), spelt("site_out"), "{}", case.name);
        }
    }
}

#[test]
fn what_a_feature_writes_has_the_logits_of_the_references() {
    for case in cases().iter().filter(|case| case.reference.tensor("feature_logits.ids").is_some()) {
        let dictionary = case.dictionary();
        let layer = dictionary.layer(0).unwrap();
        let features: Vec<usize> = ids(case, "feature_logits.ids");
        let (shape, expected) = case.tensor("feature_logits.raw");
        let model = case.model();
        let Ok(fits) = dictionary.fit(model.arch()) else { panic!("{}", case.name) };
        // Mixed values would first have to pass the output projection.
        if fits[0].writes.to_string().starts_with('z') {
            continue;
        }
        let unembedding = model.unembedding().unwrap();
        let mut found = Vec::new();
        for feature in features {
            let row = layer.direction(feature, 0).unwrap();
            let logits = unembedding.multiply(&cpu(), Rows::dense(&row, 1, row.len())).unwrap();
            assert_eq!(logits.len(), shape[1]);
            found.extend(logits);
        }
        assert_near(&case.name, &found, &expected, SHARE);
    }
}

fn ids(case: &crate::common::Case, name: &str) -> Vec<usize> {
    let tensor = case.reference.tensor(name).unwrap();
    tensor.bytes().as_chunks::<8>().0.iter().map(|id| i64::from_le_bytes(*id) as usize).collect()
}
