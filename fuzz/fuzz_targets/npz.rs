//! An archive of numpy.savez: refused, or arrays that lie in the file and fit their shapes.
#![no_main]

use easyroutine_files::npz::arrays;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for array in arrays(data).unwrap_or_default() {
        let bytes = &data[array.range.clone()];
        let elements: usize = array.shape.iter().product();
        assert_eq!(elements * array.encoding.block_bytes(), bytes.len());
    }
});
