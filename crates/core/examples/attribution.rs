//! Times gradients and what is built on them, one workload per process so that each has its own peak memory: `cargo run
//! --release -p easyroutine --example attribution MODEL WORKLOAD ROWS TOKENS REPEATS [THREADS]`, where WORKLOAD is
//! `gradients`, `heads`, `eap`, `edges` (EAP-IG) or `exact` (eight edges, one run each). The ids are those of
//! `bench/attribution.py`.
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::time::Instant;

use easyroutine::attribution::attribution_patching;
use easyroutine::attribution::edges::{Circuit, CircuitRunner, EdgeMethod, EdgeScorer, Graph};
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
    // The other side sets its hooks once, too.
    let method = match workload.as_str() {
        "eap" => Some(EdgeMethod::Eap),
        "edges" => Some(EdgeMethod::EapIg { steps: 5 }),
        _ => None,
    };
    let scorer = method.map(|method| EdgeScorer::new(&model, method, Rule::Gradient)).transpose()?;
    let (mut seconds, mut of_processor) = (Vec::new(), Vec::new());
    // The first run packs weights.
    for _ in 0..=repeats {
        let (start, before) = (Instant::now(), processor());
        run(&model, scorer.as_ref(), &workload, &target, &base)?;
        seconds.push(start.elapsed().as_secs_f64());
        of_processor.push(processor() - before);
    }
    let [seconds, of_processor] = [seconds, of_processor].map(|mut all| {
        all.remove(0);
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    });
    let edges = Graph::of(model.arch())?.n_edges();
    println!(
        "seconds {seconds:.4} processor {of_processor:.4} loaded_kb {loaded} peak_kb {} edges {edges}",
        peak()
    );
    Ok(())
}

fn run(
    model: &Model,
    scorer: Option<&EdgeScorer<'_>>,
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
        "eap" | "edges" => {
            let scorer = scorer.ok_or("no scorer")?;
            for (clean, corrupted) in base.iter().zip(target) {
                scorer.score(clean, corrupted, metrics[0], stop)?;
            }
        }
        "exact" => {
            let graph = Graph::of(model.arch())?;
            let (runner, step) = (CircuitRunner::new(model)?, graph.n_readers() + 3);
            let without = |at: usize| {
                // All edges but one: the one that is left out has the smallest score.
                let mut scores = vec![1.0; graph.n_writers() * graph.n_readers()];
                scores[at * step] = 0.0;
                Circuit::top(&graph, &scores, graph.n_edges() - 1)
            };
            let circuits = (0..8).map(without).collect::<easyroutine::Result<Vec<_>>>()?;
            runner.run(&base[0], &target[0], metrics[0], &circuits, stop)?;
        }
        other => return Err(format!("no workload `{other}`").into()),
    }
    Ok(())
}

/// Seconds of the processor so far, all threads together; 0 where the system does not say.
fn processor() -> f64 {
    let of = |task: std::fs::DirEntry| -> Option<f64> {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        Some(text.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
    };
    std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten().filter_map(of).sum()
}

/// The process's peak memory so far in KiB; 0 if the system does not report it.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}
