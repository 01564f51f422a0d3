//! Times patching sweeps against one whole run per cell, for all cells: `cargo run --release -p easyroutine --example
//! sweep MODEL [TOKENS] [THREADS]`. The ids are those of `bench/sweep.py`.
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::time::Instant;

use easyroutine::edit::{Edits, Intervention, Operation, Part, Tensor};
use easyroutine::load::{LoadOptions, load};
use easyroutine::patching::{Along, By, Grid, Metric, Sweep, sweep};
use easyroutine::positions::{Context, Row, Specifier};
use easyroutine::request::Request;
use easyroutine::sites::Site;
use easyroutine::source::{ResolveOptions, resolve};
use easyroutine::{Batch, Model};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let reference = arguments.next().ok_or("name a model")?;
    let tokens: u32 = arguments.next().map_or(Ok(32), |n| n.parse())?;
    let threads = arguments.next().map(|n| n.parse()).transpose()?;
    let files = resolve(&reference, &ResolveOptions { offline: true, ..ResolveOptions::default() })?;
    let model = load(&files, &LoadOptions { threads, ..LoadOptions::default() })?;
    let target: Vec<u32> = (0..tokens).map(|i| 500 + 37 * i).collect();
    let base: Vec<u32> = (0..tokens).map(|i| 700 + 41 * i).collect();
    let layers: Vec<usize> = (0..model.arch().layers.len()).collect();
    let metric = Metric::LogitDiff { answer: 300, against: 400 };
    let every: Vec<usize> = (0..tokens as usize).collect();
    let sweeps = [
        ("positions of resid_in", Along::Positions { site: Site::ResidIn, positions: every }),
        (
            "heads of head_out at the last position",
            Along::Heads { site: Site::HeadOut, positions: vec![tokens as usize - 1] },
        ),
    ];
    for (what, along) in sweeps {
        let request = Sweep { layers: layers.clone(), along, by: By::Patch(base.clone()), metric };
        let start = Instant::now();
        let grid = sweep(&model, &target, &request, |_, _| Ok(()))?;
        let swept = start.elapsed().as_secs_f64();
        let start = Instant::now();
        one_run_a_cell(&model, &target, &grid, matches!(request.along, Along::Positions { .. }))?;
        let whole = start.elapsed().as_secs_f64();
        println!(
            "{} layers x {} {what}: {swept:.2} s; one whole run a cell: {whole:.2} s, {:.1} times as long",
            grid.layers.len(),
            grid.columns.len(),
            whole / swept
        );
    }
    Ok(())
}

/// Each cell as one whole run with the logits of the last token. It patches in zeros, which takes the same time.
fn one_run_a_cell(
    model: &Model,
    target: &[u32],
    grid: &Grid,
    by_position: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let rows = [Row::of(0, target)];
    let batch = Batch::new(&[target])?;
    let last = Request::parse("logits", "last")?;
    let width = model.arch().d_model;
    for column in 0..grid.columns.len() {
        let position = if by_position { column as i64 } else { -1 };
        for names in &grid.activations {
            let intervention = Intervention {
                activation: names[column].parse()?,
                entries: Vec::new(),
                part: Part::Full(vec![Specifier::At(position)]),
                operation: Operation::Replace(Tensor::new("zeros", &[width], vec![0.0; width])?),
            };
            let edits = Edits::new(&[intervention], model.arch(), &rows, Context::default())?;
            last.run_under(model, &batch, &rows, Context::default(), edits)?;
        }
    }
    Ok(())
}
