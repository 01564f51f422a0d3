//! Encodes vectors with a dictionary, and says how long that takes: `encode FOLDER VECTORS.f32 TIMES`. The file holds
//! `[T, D_in]` f32, little endian. Prints JSON: seconds by the clock and of the processor a call, and the sum of all features.

use std::process::ExitCode;
use std::time::Instant;

use easyroutine::{Cpu, Error, Result, Simd};
use easyroutine_dictionaries::{Dictionary, Options};
use easyroutine_kernels::Rows;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(text) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<String> {
    let [folder, file, times] = arguments else {
        return Err(Error::input("encode FOLDER VECTORS.f32 TIMES"));
    };
    let times: u32 = times.parse().map_err(|_| Error::input("TIMES is a number"))?;
    let dictionary = Dictionary::open(folder, &Options::default())?;
    let layer = dictionary.layer(0)?;
    let bytes = std::fs::read(file).map_err(|e| Error::input(format!("{file}: {e}")))?;
    let x: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
    let rows = Rows::dense(&x, x.len() / layer.d_in(), layer.d_in());
    let simd = Simd::from_env().map_err(Error::input)?;
    let cpu = Cpu::new(simd, std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    // The first call packs the encoder.
    let features = layer.encode(&cpu, rows)?;
    let sum: f64 = (0..features.len()).flat_map(|t| features.token(t).1).map(|x| f64::from(*x)).sum();
    let (start, of_processor) = (Instant::now(), processor());
    for _ in 0..times {
        layer.encode(&cpu, rows)?;
    }
    let each = |seconds: f64| seconds / f64::from(times.max(1));
    Ok(format!(
        "{{\"seconds\": {:.6}, \"processor\": {:.6}, \"active\": {}, \"sum\": {sum:.6}}}",
        each(start.elapsed().as_secs_f64()),
        each(processor() - of_processor),
        features.n_active()
    ))
}

/// Seconds of the processor that this process has had, in hundredths (Linux, `proc(5)`); 0 elsewhere.
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = text.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|x| x.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}
