//! Times gradients and what is built on them, one workload per process so that each has its own peak memory: `cargo run
//! --release -p easyroutine --example attribution MODEL gradients|heads|edges ROWS TOKENS REPEATS [THREADS]`. The ids
//! are those of `bench/attribution.py`.
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::time::Instant;

use easyroutine::attribution::attribution_patching;
use easyroutine::attribution::edges::{EdgeMethod, EdgeScorer};
use easyroutine::edit::Edits;
use easyroutine::gradients::{Output, Rule, gradients};
use easyroutine::load::{LoadOptions, load};
use easyroutine::patching::Metric;
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine::source::{ResolveOptions, resolve};
use easyroutine::{Model, Stop};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("MODEL WORKLOAD ROWS TOKENS REPEATS [THREADS]");
    let (reference, workload) = (next()?, next()?);
    let (n_rows, tokens, repeats): (u32, u32, usize) = (next()?.parse()?, next()?.parse()?, next()?.parse()?);
    let threads = arguments.next().map(|n| n.parse()).transpose()?;
    let files = resolve(&reference, &ResolveOptions { offline: true, ..ResolveOptions::default() })?;
    let model = load(&files, &LoadOptions { threads, ..LoadOptions::default() })?;
    let loaded = peak();
    let row = |number: u32, step: u32| (0..tokens).map(|i| 500 + number + step * i).collect::<Vec<u32>>();
    let target: Vec<Vec<u32>> = (0..n_rows).map(|number| row(number, 37)).collect();
    let base: Vec<Vec<u32>> = (0..n_rows).map(|number| row(number, 41)).collect();
    let mut seconds = Vec::new();
    // The first run packs weights.
    for _ in 0..=repeats {
        let start = Instant::now();
        run(&model, &workload, &target, &base)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    println!("seconds {:.4} loaded_kb {loaded} peak_kb {}", seconds[seconds.len() / 2], peak());
    Ok(())
}

fn run(
    model: &Model,
    workload: &str,
    target: &[Vec<u32>],
    base: &[Vec<u32>],
) -> Result<(), Box<dyn std::error::Error>> {
    let metrics = [Metric::LogitDiff { answer: 300, against: 400 }];
    let (context, stop) = (Context::default(), Stop::Never);
    let targets: Vec<Row<'_>> = target.iter().enumerate().map(|(n, ids)| Row::of(n, ids)).collect();
    let bases: Vec<Row<'_>> = base.iter().enumerate().map(|(n, ids)| Row::of(n, ids)).collect();
    match workload {
        "gradients" => {
            let request = Request::parse("resid_in_*,resid_out_*", "all")?;
            let output = Output::Metric { metrics: &metrics, target: None };
            let mut edits = Edits::default();
            gradients(model, &targets, &request, output, Rule::Gradient, &mut edits, context, stop)?;
        }
        "heads" => {
            let request = Request::parse("z_L*", "all")?;
            attribution_patching(model, &bases, &targets, &request, &metrics, Rule::Gradient, context, stop)?;
        }
        "edges" => {
            let scorer = EdgeScorer::new(model, EdgeMethod::EapIg { steps: 5 }, Rule::Gradient)?;
            for (clean, corrupted) in base.iter().zip(target) {
                scorer.score(clean, corrupted, metrics[0], stop)?;
            }
        }
        other => return Err(format!("no workload `{other}`: gradients, heads, edges").into()),
    }
    Ok(())
}

/// The process's peak memory so far in KiB; 0 if the system does not report it.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}
