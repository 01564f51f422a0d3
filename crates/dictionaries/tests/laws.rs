//! Laws that hold for every dictionary.

use easyroutine::Cpu;
use easyroutine_dictionaries::Features;
use easyroutine_kernels::Rows;

use crate::common::{Case, cases, cpu};

fn rows(case: &Case, layer: usize, n_layers: usize, width: usize) -> Vec<f32> {
    let (_, x) = case.tensor("x");
    let per_layer = x.len() / n_layers;
    assert!(per_layer.is_multiple_of(width));
    x[layer * per_layer..][..per_layer].to_vec()
}

#[test]
fn a_vector_has_the_same_features_alone_in_any_batch_and_on_any_number_of_threads() {
    let one = Cpu::new(cpu().simd(), 1);
    for case in cases() {
        let dictionary = case.dictionary();
        for (number, layer) in dictionary.layers().iter().enumerate() {
            let width = layer.d_in();
            let x = rows(&case, number, dictionary.layers().len(), width);
            let all = layer.encode(&cpu(), Rows::dense(&x, x.len() / width, width)).unwrap();
            for (token, vector) in x.chunks_exact(width).enumerate() {
                let alone = layer.encode(&one, Rows::dense(vector, 1, width)).unwrap();
                assert_eq!(alone.token(0).0, all.token(token).0, "{}", case.name);
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(alone.token(0).1), bits(all.token(token).1), "{}", case.name);
            }
        }
    }
}

#[test]
fn features_that_did_not_change_make_no_difference_and_others_the_difference_of_what_is_decoded() {
    for case in cases() {
        let dictionary = case.dictionary();
        let layer = dictionary.layer(0).unwrap();
        let width = layer.d_in();
        let x = rows(&case, 0, dictionary.layers().len(), width);
        let x = Rows::dense(&x, x.len() / width, width);
        let before = layer.encode(&cpu(), x).unwrap();
        let same = dictionary.difference((0, 0), &before, &before, x).unwrap();
        assert!(same.iter().all(|x| x.to_bits() == 0), "{}", case.name);
        let after = before.set(3, 2.5).unwrap();
        let difference = dictionary.difference((0, 0), &before, &after, x).unwrap();
        let decoded = |features: &Features| dictionary.decode(&cpu(), 0, &[features], x).unwrap();
        let (before, after) = (decoded(&before), decoded(&after));
        let largest = before.iter().chain(&after).fold(0f32, |most, x| most.max(x.abs()));
        for (i, difference) in difference.iter().enumerate() {
            let expected = after[i] - before[i];
            assert!(
                (difference - expected).abs() <= 2e-6 * largest,
                "{}: {difference} {expected}",
                case.name
            );
        }
    }
}

#[test]
fn what_is_attributed_to_a_feature_is_its_difference_along_the_gradient() {
    for case in cases() {
        let dictionary = case.dictionary();
        let n_layers = dictionary.layers().len();
        for target in 0..n_layers {
            let layer = dictionary.layer(target).unwrap();
            let x = rows(&case, target, n_layers, layer.d_in());
            let n = x.len() / layer.d_in();
            let x = Rows::dense(&x, n, layer.d_in());
            let gradients: Vec<f32> =
                (0..n * layer.d_out()).map(|i| ((i * 7919 + 13) % 997) as f32 / 997.0 - 0.5).collect();
            let gradients = Rows::dense(&gradients, n, layer.d_out());
            for source in dictionary.sources(target) {
                let own = rows(&case, source, n_layers, dictionary.layer(source).unwrap().d_in());
                let width = own.len() / n;
                let coder = dictionary.layer(source).unwrap();
                let features = coder.encode(&cpu(), Rows::dense(&own, n, width)).unwrap();
                let found = dictionary.attribution((source, target), &features, x, gradients).unwrap();
                assert_eq!(found.len(), features.n_active(), "{}", case.name);
                // The very first active feature.
                let Some(token) = (0..n).find(|token| !features.token(*token).0.is_empty()) else { continue };
                let without = features.set(features.token(token).0[0] as usize, 0.0).unwrap();
                let change = dictionary.difference((source, target), &features, &without, x).unwrap();
                let change = &change[token * layer.d_out()..][..layer.d_out()];
                let along =
                    change.iter().zip(gradients.row(token)).map(|(c, g)| f64::from(*c) * f64::from(*g));
                let expected = -along.sum::<f64>();
                assert!(
                    (f64::from(found[0]) - expected).abs() <= 1e-4 * expected.abs().max(1.0),
                    "{}",
                    case.name
                );
            }
        }
    }
}
