//! Throughput of products and attention next to the processor's peak: first a table of products with their shares of
//! the measured peak, then each benchmark alone. Items are floating-point operations, so `Gitem/s` is GFLOP/s. One
//! thread, so that shares of the peak mean something.
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use easyroutine_kernels::{
    Activation, Attention, Cpu, Dtype, NormKind, Operand, PackedMatrix, Rows, RowsMut, Sequence, Simd,
};
use std::convert::Infallible;

fn main() {
    // Only in a plain bench run: `cargo test --benches` and filters pass arguments of their own.
    if std::env::args().skip(1).all(|argument| argument == "--bench") {
        shares();
    }
    divan::main();
}

/// Prints each product's share of the peak: medians of interleaved rounds, so that a change of clock speed affects all
/// alike.
fn shares() {
    const ROUNDS: usize = 15;
    let cpu = Cpu::new(Simd::best(), 1);
    println!("rows x outputs x inputs, dtype: GFLOP/s, share of the peak");
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let Some(peak) = peak::of(dtype) else { continue };
        for (rows, outputs, inputs) in SHAPES {
            let w = packed(&cpu, dtype, outputs, inputs, false);
            let mut x = Operand::default();
            x.resize(dtype, rows, inputs);
            let values = values(rows * inputs);
            cpu.norm(NormKind::Rms, Rows::dense(&values, rows, inputs), inputs, None, None, 1e-5, &mut x);
            let mut out = vec![0.0; rows * outputs];
            let operations = 2 * rows * outputs * inputs;
            let repeats = (20_000_000 / operations).max(1);
            let mut product = || {
                (0..repeats).for_each(|_| {
                    cpu.matmul(black_box(&x), &w, None, RowsMut::dense(&mut out, rows, outputs))
                });
            };
            product();
            let mut rounds: Vec<[f64; 2]> = (0..ROUNDS)
                .map(|_| {
                    let found = (repeats * operations) as f64 / seconds(&mut product) / 1e9;
                    [found, found / peak()]
                })
                .collect();
            rounds.sort_by(|a, b| a[1].total_cmp(&b[1]));
            let [found, share] = rounds[ROUNDS / 2];
            println!("{rows} x {outputs} x {inputs}, {dtype:?}: {found:.1}, {:.0} %", 100.0 * share);
        }
    }
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = std::time::Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect()
}

fn packed(cpu: &Cpu, dtype: Dtype, outputs: usize, inputs: usize, gated: bool) -> PackedMatrix {
    let fill = |output: usize, row: &mut [f32]| {
        row.iter_mut().enumerate().for_each(|(i, w)| *w = ((output + i * 37) % 101) as f32 / 50.0 - 1.0);
        Ok::<(), Infallible>(())
    };
    let result = if gated {
        PackedMatrix::pack_gated(cpu, dtype, outputs / 2, inputs, fill)
    } else {
        PackedMatrix::pack(cpu, dtype, outputs, inputs, fill)
    };
    result.unwrap_or_else(|never| match never {})
}

/// Rows, outputs and inputs of products in SmolLM2-135M, in a larger model, and of a vocabulary.
const SHAPES: [(usize, usize, usize); 12] = [
    (1, 1536, 576),
    (16, 1536, 576),
    (128, 960, 576),
    (128, 3072, 576),
    (512, 3072, 576),
    (512, 576, 1536),
    (1, 8192, 2048),
    (4, 8192, 2048),
    (16, 8192, 2048),
    (128, 8192, 2048),
    (512, 8192, 2048),
    (128, 2048, 8192),
];

fn bench_product(
    bencher: Bencher<'_, '_>,
    simd: Simd,
    dtype: Dtype,
    (rows, outputs, inputs): (usize, usize, usize),
) {
    let cpu = Cpu::new(simd, 1);
    let w = packed(&cpu, dtype, outputs, inputs, false);
    let (x, mut out) = (values(rows * (inputs + 16)), vec![0.0; rows * outputs]);
    let x = Rows::new(&x, rows, inputs, inputs + 16);
    bencher.counter(ItemsCount::new(2 * rows * outputs * inputs)).bench_local(|| {
        cpu.matmul(black_box(x), &w, None, RowsMut::dense(&mut out, rows, outputs));
    });
}

mod product {
    use super::*;

    #[divan::bench(args = SHAPES, max_time = 0.3)]
    fn f32(bencher: Bencher<'_, '_>, shape: (usize, usize, usize)) {
        bench_product(bencher, Simd::best(), Dtype::F32, shape);
    }

    #[divan::bench(args = SHAPES, max_time = 0.3)]
    fn bf16(bencher: Bencher<'_, '_>, shape: (usize, usize, usize)) {
        bench_product(bencher, Simd::best(), Dtype::Bf16, shape);
    }

    #[divan::bench(args = [Simd::Portable, Simd::Avx2], max_time = 0.3)]
    fn f32_on_other_paths(bencher: Bencher<'_, '_>, simd: Simd) {
        bench_product(bencher, simd, Dtype::F32, (128, 3072, 576));
    }

    #[divan::bench(args = [Simd::Portable, Simd::Avx2], max_time = 0.3)]
    fn bf16_on_other_paths(bencher: Bencher<'_, '_>, simd: Simd) {
        bench_product(bencher, simd, Dtype::Bf16, (128, 3072, 576));
    }

    #[divan::bench(args = [Activation::Silu, Activation::Gelu, Activation::GeluTanh], max_time = 0.3)]
    fn gated(bencher: Bencher<'_, '_>, activation: Activation) {
        let (cpu, rows, neurons, inputs) = (Cpu::new(Simd::best(), 1), 128, 1536, 576);
        let w = packed(&cpu, Dtype::F32, 2 * neurons, inputs, true);
        let (x, mut out) = (values(rows * inputs), vec![0.0; rows * neurons]);
        let x = Rows::dense(&x, rows, inputs);
        bencher.counter(ItemsCount::new(4 * rows * neurons * inputs)).bench_local(|| {
            cpu.matmul_gated(black_box(x), &w, None, activation, RowsMut::dense(&mut out, rows, neurons));
        });
    }

    /// Values, not operations.
    #[divan::bench(max_time = 0.5, args = [Dtype::F32, Dtype::Bf16])]
    fn pack(bencher: Bencher<'_, '_>, dtype: Dtype) {
        let cpu = Cpu::new(Simd::best(), 1);
        bencher
            .counter(ItemsCount::new(3072_usize * 1024))
            .bench_local(|| packed(&cpu, dtype, 3072, 1024, false));
    }
}

/// A walk over the layer matrices of SmolLM2-135M: as in a forward pass, weights come from memory, not from a cache
/// left warm by the last round.
mod walk {
    use super::*;

    const LAYERS: usize = 30;
    /// Outputs and inputs of a layer's products.
    const LAYER: [(usize, usize); 4] = [(960, 576), (576, 576), (3072, 576), (576, 1536)];
    /// Path, rows and threads.
    type Case = (Simd, usize, usize);
    const CASES: [Case; 15] = [
        (Simd::Avx512, 1, 1),
        (Simd::Avx512, 4, 1),
        (Simd::Avx512, 16, 1),
        (Simd::Avx512, 64, 1),
        (Simd::Avx512, 128, 1),
        (Simd::Avx512, 512, 1),
        (Simd::Avx512, 1, 2),
        (Simd::Avx512, 16, 2),
        (Simd::Avx512, 128, 2),
        (Simd::Avx512, 512, 2),
        (Simd::Avx2, 1, 1),
        (Simd::Avx2, 16, 1),
        (Simd::Avx2, 128, 1),
        (Simd::Avx2, 512, 1),
        (Simd::Avx2, 16, 2),
    ];

    fn walk(bencher: Bencher<'_, '_>, dtype: Dtype, (simd, rows, threads): Case) {
        if !simd.is_available() {
            return;
        }
        let cpu = Cpu::new(simd, threads);
        let layer = || LAYER.map(|(outputs, inputs)| packed(&cpu, dtype, outputs, inputs, false));
        let layers: Vec<_> = (0..LAYERS).map(|_| layer()).collect();
        let inputs = LAYER.map(|(_, inputs)| values(rows * inputs));
        let mut outputs = LAYER.map(|(outputs, _)| vec![0.0; rows * outputs]);
        let operations: usize = LAYER.iter().map(|(outputs, inputs)| 2 * rows * outputs * inputs).sum();
        bencher.counter(ItemsCount::new(LAYERS * operations)).bench_local(|| {
            for layer in &layers {
                for (i, w) in layer.iter().enumerate() {
                    let (outputs_of, inputs_of) = LAYER[i];
                    let x = Rows::dense(black_box(&inputs[i]), rows, inputs_of);
                    cpu.matmul(x, w, None, RowsMut::dense(&mut outputs[i], rows, outputs_of));
                }
            }
        });
    }

    #[divan::bench(args = CASES, sample_count = 15, sample_size = 1)]
    fn f32(bencher: Bencher<'_, '_>, case: Case) {
        walk(bencher, Dtype::F32, case);
    }

    #[divan::bench(args = CASES, sample_count = 15, sample_size = 1)]
    fn bf16(bencher: Bencher<'_, '_>, case: Case) {
        walk(bencher, Dtype::Bf16, case);
    }
}

mod attention {
    use super::*;

    /// Queries and keys, with the heads of SmolLM2-135M. Only operations on visible keys count.
    #[divan::bench(args = [(128, 128), (512, 512), (2048, 2048), (1, 512), (1, 4096)], max_time = 0.3)]
    fn fused(bencher: Bencher<'_, '_>, (queries, keys): (usize, usize)) {
        let cpu = Cpu::new(Simd::best(), 1);
        let (n_heads, n_kv_heads, d_head) = (9, 3, 64);
        let (softcap, window, alibi, sinks) = (None, None, None, None);
        let d_value = d_head;
        let spec =
            Attention { n_heads, n_kv_heads, d_head, d_value, scale: 0.125, softcap, window, alibi, sinks };
        let cols = (n_heads + 2 * n_kv_heads) * d_head;
        let qkv = values(keys * (cols + 16));
        let qkv = Rows::new(&qkv, keys, cols, cols + 16);
        let (q, k, v) = (qkv.columns(0..576), qkv.columns(576..768), qkv.columns(768..960));
        let sequences = [Sequence { queries: 0..queries, keys: 0..keys }];
        let mut z = vec![0.0; queries * 576];
        let visible = queries * (keys - queries) + queries * (queries + 1) / 2;
        bencher.counter(ItemsCount::new(4 * visible * n_heads * d_head)).bench_local(|| {
            cpu.attention(&spec, black_box(q), k, v, &sequences, RowsMut::dense(&mut z, queries, 576));
        });
    }
}

/// Values, not operations.
mod rows {
    use super::*;

    #[divan::bench(args = [NormKind::Layer, NormKind::Rms], max_time = 0.3)]
    fn norm(bencher: Bencher<'_, '_>, kind: NormKind) {
        let cpu = Cpu::new(Simd::best(), 1);
        let (x, weight, mut out) = (values(128 * 576), values(576), vec![0.0; 128 * 576]);
        bencher.counter(ItemsCount::new(x.len())).bench_local(|| {
            let out = RowsMut::dense(&mut out, 128, 576);
            cpu.norm(kind, Rows::dense(black_box(&x), 128, 576), 576, Some(&weight), None, 1e-5, out);
        });
    }

    #[divan::bench(max_time = 0.3)]
    fn exp_sums(bencher: Bencher<'_, '_>) {
        let (cpu, x) = (Cpu::new(Simd::best(), 1), values(1024));
        bencher.counter(ItemsCount::new(x.len())).bench_local(|| cpu.exp_sums(black_box(&x), 1.0));
    }
}

/// The peak: sums of products in registers and nothing else. Shares are relative to it.
#[cfg(target_arch = "x86_64")]
mod peak {
    use super::*;
    use std::arch::x86_64::*;

    const ROUNDS: usize = 100_000;

    #[target_feature(enable = "avx2,fma")]
    fn avx2() -> f32 {
        let mut sums = [_mm256_setzero_ps(); 12];
        let (a, b) = (_mm256_set1_ps(black_box(1.0)), _mm256_set1_ps(black_box(1e-9)));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(a, b, *sum);
            }
        }
        let total = sums.into_iter().reduce(|a, b| _mm256_add_ps(a, b));
        total.map_or(0.0, |total| _mm256_cvtss_f32(total))
    }

    #[target_feature(enable = "avx512f")]
    fn avx512() -> f32 {
        let mut sums = [_mm512_setzero_ps(); 24];
        let (a, b) = (_mm512_set1_ps(black_box(1.0)), _mm512_set1_ps(black_box(1e-9)));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(a, b, *sum);
            }
        }
        let total = sums.into_iter().reduce(|a, b| _mm512_add_ps(a, b));
        total.map_or(0.0, |total| _mm512_reduce_add_ps(total))
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn avx512_bf16() -> f32 {
        let mut sums = [_mm512_setzero_ps(); 24];
        let ones = _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(1.0)), _mm512_set1_ps(black_box(1.0)));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, ones, ones);
            }
        }
        let total = sums.into_iter().reduce(|a, b| _mm512_add_ps(a, b));
        total.map_or(0.0, |total| _mm512_reduce_add_ps(total))
    }

    /// One thread's work, and its number of operations.
    type Peak = (fn() -> f32, usize);

    fn gflops((work, operations): Peak) -> f64 {
        operations as f64 / seconds(|| _ = black_box(work())) / 1e9
    }

    /// `None` for the portable path. Where bf16 instructions are missing or slow, bf16 products are f32 products.
    fn work(dtype: Dtype) -> Option<Peak> {
        let f32: Peak = match Simd::best() {
            // SAFETY: the processor has AVX-512.
            Simd::Avx512 => (|| unsafe { avx512() }, ROUNDS * 24 * 16 * 2),
            // SAFETY: the processor has AVX2 and FMA.
            Simd::Avx2 => (|| unsafe { avx2() }, ROUNDS * 12 * 8 * 2),
            Simd::Portable => return None,
        };
        if dtype == Dtype::F32 || !is_x86_feature_detected!("avx512bf16") {
            return Some(f32);
        }
        // SAFETY: the processor has AVX-512 BF16, and with it AVX-512 F.
        let bf16: Peak = (|| unsafe { avx512_bf16() }, ROUNDS * 24 * 16 * 4);
        Some(if gflops(bf16) > gflops(f32) { bf16 } else { f32 })
    }

    /// Measures GFLOP/s of one thread; `None` if this path has no such measurement.
    pub(super) fn of(dtype: Dtype) -> Option<impl Fn() -> f64> {
        let work = work(dtype)?;
        Some(move || gflops(work))
    }

    #[divan::bench(max_time = 0.5, args = [Dtype::F32, Dtype::Bf16])]
    fn registers(bencher: Bencher<'_, '_>, dtype: Dtype) {
        if let Some((work, operations)) = work(dtype) {
            bencher.counter(ItemsCount::new(operations)).bench_local(work);
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod peak {
    use super::*;

    pub(super) fn of(_dtype: Dtype) -> Option<fn() -> f64> {
        None
    }
}
