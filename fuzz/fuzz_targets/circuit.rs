//! The JSON of a circuit: what parses is written back and parses to the same.
#![no_main]

use easyroutine::attribution::edges::{Circuit, Graph};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(json) = serde_json::from_slice(data) else { return };
    let graph = Graph { n_layers: 2, n_heads: 3, d_model: 48, parallel: vec![false, true] };
    let Ok((circuit, scores)) = Circuit::from_json(&graph, &json) else { return };
    let written = circuit.to_json(&graph, &scores);
    let (again, same) = Circuit::from_json(&graph, &written).expect("a written circuit");
    assert_eq!(again, circuit);
    assert!(scores.iter().zip(&same).all(|(a, b)| a.to_bits() == b.to_bits()));
});
