//! A file of torch.save: refused, or tensors whose bytes fit their shapes.
#![no_main]

use easyroutine_files::torch::{Item, read};
use libfuzzer_sys::fuzz_target;

fn check(item: &Item) {
    match item {
        Item::Tensor(tensor) => {
            let elements: usize = tensor.shape.iter().product();
            assert_eq!(elements * tensor.encoding.block_bytes(), tensor.bytes.len());
        }
        Item::List(items) => items.iter().for_each(check),
        Item::Map(entries) => entries.iter().for_each(|(key, value)| {
            check(key);
            check(value);
        }),
        Item::Object { state, .. } => check(state),
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let classes = ["easyroutine.interpretability.activation_cache.ActivationCache"];
    if let Ok(item) = read(data, &classes) {
        check(&item);
    }
});
