//! Weights stay in memory as their file has them, and products give the same bits as widening first.

use std::path::PathBuf;
use std::sync::Arc;

use crate::common::{assert_same_bits, cases, extract, fixtures, folder, those_of};
use easyroutine::load::{LoadOptions, load, open};
use easyroutine::source::{FilesKind, ModelFiles};
use easyroutine::{Model, Stop};
use easyroutine_files::{Encoding, StoredTensor};
use easyroutine_kernels::{self as kernels, Cpu, Dtype, PackedMatrix, Rows, RowsMut, Simd, Source};
use proptest::prelude::*;

/// Each encoding that products read, with the offsets of its f16 scales within a block; their random bits are made
/// finite.
const ENCODINGS: [(Encoding, kernels::Encoding, &[usize]); 10] = [
    (Encoding::F16, kernels::Encoding::F16, &[0]),
    (Encoding::Bf16, kernels::Encoding::Bf16, &[]),
    (Encoding::Q4_0, kernels::Encoding::Q4_0, &[0]),
    (Encoding::Q4_1, kernels::Encoding::Q4_1, &[0, 2]),
    (Encoding::Q5_0, kernels::Encoding::Q5_0, &[0]),
    (Encoding::Q5_1, kernels::Encoding::Q5_1, &[0, 2]),
    (Encoding::Q8_0, kernels::Encoding::Q8_0, &[0]),
    (Encoding::Q4K, kernels::Encoding::Q4K, &[0, 2]),
    (Encoding::Q5K, kernels::Encoding::Q5K, &[0, 2]),
    (Encoding::Q6K, kernels::Encoding::Q6K, &[208]),
];

/// Rows of a tensor as a matrix requests them: as stored, or widened.
struct Stored {
    bytes: Vec<u8>,
    inputs: usize,
    file: Encoding,
    kernel: kernels::Encoding,
}

impl Stored {
    /// Random bits with finite scales, including small and subnormal ones.
    fn random(seed: u64, which: usize, outputs: usize, inputs: usize) -> Stored {
        let (file, kernel, scales) = ENCODINGS[which];
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u32
        };
        let mut bytes: Vec<u8> = (0..outputs * kernel.bytes_of(inputs)).map(|_| random() as u8).collect();
        for block in bytes.chunks_exact_mut(kernel.bytes_of(kernel.block_len())) {
            for at in scales {
                // The highest bit of the exponent is zero: no infinity, no NaN.
                block[at + 1] &= 0xbf;
            }
            if file == Encoding::Bf16 {
                block[1] = block[1] & 0x80 | 0x3f;
            }
        }
        Stored { bytes, inputs, file, kernel }
    }

    fn outputs(&self) -> usize {
        self.bytes.len() / self.kernel.bytes_of(self.inputs)
    }

    fn widened(&self) -> Vec<f32> {
        let shape = vec![self.outputs(), self.inputs];
        StoredTensor::new("w", shape, self.file, &self.bytes).unwrap().read_all().unwrap()
    }
}

impl Source for Stored {
    fn read(&self, output: usize, weights: &mut [f32]) {
        let bytes =
            &self.bytes[output * self.kernel.bytes_of(self.inputs)..][..self.kernel.bytes_of(self.inputs)];
        let row = StoredTensor::new("row", vec![self.inputs], self.file, bytes).unwrap();
        row.read_row(0, weights).unwrap();
    }

    fn encoding(&self, _output: usize) -> kernels::Encoding {
        self.kernel
    }

    fn read_stored(&self, output: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.bytes[output * bytes.len()..][..bytes.len()]);
    }
}

/// A gate in one encoding, an up projection in another.
struct Mixed(Stored, Stored);

impl Mixed {
    fn of(&self, output: usize) -> (&Stored, usize) {
        let first = self.0.outputs();
        if output < first { (&self.0, output) } else { (&self.1, output - first) }
    }
}

impl Source for Mixed {
    fn read(&self, output: usize, weights: &mut [f32]) {
        let (part, row) = self.of(output);
        part.read(row, weights);
    }

    fn encoding(&self, output: usize) -> kernels::Encoding {
        self.of(output).0.kernel
    }

    fn read_stored(&self, output: usize, bytes: &mut [u8]) {
        let (part, row) = self.of(output);
        part.read_stored(row, bytes);
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn inputs_of(rows: usize, inputs: usize) -> Vec<f32> {
    (0..rows * inputs).map(|i| ((i * 7919 % 2003) as f32 - 1001.0) / 577.0).collect()
}

/// Compares everything a matrix computes, from a source and from the widened source.
fn check(cpu: &Cpu, source: Arc<dyn Source>, plain: &[f32], inputs: usize, rows: usize, is_gated: bool) {
    let outputs = plain.len() / inputs;
    let fill = |output: usize, row: &mut [f32]| {
        row.copy_from_slice(&plain[output * inputs..][..inputs]);
        Ok::<(), std::convert::Infallible>(())
    };
    let (stored, widened) = if is_gated {
        let widened = PackedMatrix::pack_gated(cpu, Dtype::F32, outputs / 2, inputs, fill).unwrap();
        (PackedMatrix::gated_later(Dtype::F32, outputs / 2, inputs, source), widened)
    } else {
        let widened = PackedMatrix::pack(cpu, Dtype::F32, outputs, inputs, fill).unwrap();
        (PackedMatrix::later(Dtype::F32, outputs, inputs, source), widened)
    };
    let product = |matrix: &PackedMatrix, x: &[f32]| {
        let mut out = vec![0.0; rows * matrix.outputs()];
        let x = Rows::dense(x, rows, matrix.inputs());
        cpu.matmul(x, matrix, None, RowsMut::dense(&mut out, rows, matrix.outputs()));
        bits(&out)
    };
    let x = inputs_of(rows, inputs);
    let expected = product(&widened, &x);
    // While its weights stream past, when it is packed, and afterwards.
    for _ in 0..4 {
        assert_eq!(product(&stored, &x), expected, "{rows} rows, {}", cpu.simd());
    }
    assert!(stored.packed_bytes().is_some());
    let mut row = vec![0.0; inputs];
    for output in 0..outputs {
        stored.read_row(output, &mut row);
        assert_eq!(bits(&row), bits(&plain[output * inputs..][..inputs]), "output {output}");
    }
    let g = inputs_of(rows, outputs);
    assert_eq!(product(&stored.transposed(cpu), &g), product(&widened.transposed(cpu), &g));
}

#[test]
fn products_have_the_bits_of_widening_first() {
    for simd in Simd::available() {
        let cpu = Cpu::new(simd, 2);
        for (which, (_, kernel, _)) in ENCODINGS.into_iter().enumerate() {
            for inputs in [1, 2, 3].map(|blocks| blocks * kernel.block_len().max(75)) {
                let inputs = inputs / kernel.block_len() * kernel.block_len();
                let stored = Arc::new(Stored::random(7 + which as u64, which, 70, inputs));
                let plain = stored.widened();
                for rows in 1..=40 {
                    if inputs < 600 || rows % 7 == 1 {
                        check(&cpu, stored.clone(), &plain, inputs, rows, false);
                    }
                }
            }
        }
    }
}

/// A packed matrix takes as much memory as its file, except for the last panel, and 16 bytes for the 12 of 6-bit
/// scales.
#[test]
fn weights_take_the_bytes_of_their_file() {
    let cpu = Cpu::new(Simd::best(), 1);
    for (which, (encoding, ..)) in ENCODINGS.into_iter().enumerate() {
        let stored = Arc::new(Stored::random(3, which, 64, 512));
        let file = stored.bytes.len();
        let matrix = PackedMatrix::later(Dtype::F32, 64, 512, stored);
        assert_eq!(matrix.packed_bytes(), None);
        matrix.pack_now(&cpu);
        let packed = matrix.packed_bytes().unwrap();
        assert!((file..=file + file / 32).contains(&packed), "{encoding}: {packed} of {file}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_matrix_of_several_encodings_has_the_bits_too(
        (first, second) in (0..ENCODINGS.len(), 0..ENCODINGS.len()),
        (neurons, rows, blocks) in (1_usize..50, 1_usize..41, 1_usize..5),
        is_gated in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let inputs = 256 * blocks;
        let parts = Mixed(
            Stored::random(seed, first, neurons, inputs),
            Stored::random(seed ^ 99, second, neurons, inputs),
        );
        let plain = [parts.0.widened(), parts.1.widened()].concat();
        let source = Arc::new(parts);
        for simd in Simd::available() {
            check(&Cpu::new(simd, 1), source.clone(), &plain, inputs, rows, is_gated);
        }
    }
}

/// What a model computes for one token, and for rows of several.
fn computed(model: &Model) -> Vec<Vec<f32>> {
    let ids = |n: u32| (0..n).map(|i| (i * 7 + 3) % model.arch().vocabulary as u32).collect::<Vec<_>>();
    let keys = those_of(model, "resid_out_*,logits");
    let of = |rows: &[Vec<u32>]| -> Vec<Vec<f32>> {
        let cache = extract(model, rows, &keys, "all");
        let tensors = cache.keys().map(|key| cache.get(key).unwrap().values().to_vec());
        tensors.collect()
    };
    [of(&[ids(1)]), of(&[ids(9), ids(4)])].concat()
}

/// The first runs read weights from the file, later ones from memory.
fn check_runs(name: &str, model: &Model) -> Vec<Vec<f32>> {
    let first = computed(model);
    for run in 1..3 {
        for (number, (one, other)) in first.iter().zip(computed(model)).enumerate() {
            assert_same_bits(format_args!("{name}, run {run}, tensor {number}"), &other, one);
        }
    }
    first
}

#[test]
fn a_model_of_16_bits_has_the_bits_of_the_same_in_f32() {
    for case in cases("tiny") {
        let tiny = folder(fixtures().join("tiny").join(&case));
        let [narrow, wide] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        open(&tiny, &LoadOptions::default())
            .unwrap()
            .export(narrow.path(), Dtype::Bf16, Stop::Never)
            .unwrap();
        let narrow = folder(narrow.path());
        let opened = open(&narrow, &LoadOptions::default()).unwrap();
        opened.export(wide.path(), Dtype::F32, Stop::Never).unwrap();
        let wide = folder(wide.path());
        let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
        let [narrow, wide] = [&narrow, &wide].map(|files| check_runs(&case, &load(files, &options).unwrap()));
        for (number, (one, other)) in narrow.iter().zip(&wide).enumerate() {
            assert_same_bits(format_args!("{case}, tensor {number}"), one, other);
        }
    }
}

#[test]
#[ignore = "needs the real models: EASYROUTINE_SMOLLM2 and EASYROUTINE_GEMMA3"]
fn a_model_of_blocks_has_the_bits_of_its_first_run_in_every_other() {
    for variable in ["EASYROUTINE_SMOLLM2", "EASYROUTINE_GEMMA3"] {
        let kind = FilesKind::Gguf(PathBuf::from(std::env::var(variable).unwrap()));
        let files = ModelFiles { kind, name: variable.to_owned(), commit: None, adapter: None };
        for simd in Simd::available() {
            let options = LoadOptions { simd: Some(simd), ..LoadOptions::default() };
            check_runs(variable, &load(&files, &options).unwrap());
        }
    }
}
