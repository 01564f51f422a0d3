//! Times a patching sweep over layers by positions against one whole run a cell:
//! `cargo run --release -p easyroutine --example sweep MODEL [TOKENS] [THREADS]`.
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::time::Instant;

use easyroutine::Batch;
use easyroutine::edit::{Edits, Intervention, Operation, Part, Tensor};
use easyroutine::load::{LoadOptions, load};
use easyroutine::patching::{Along, By, Metric, Sweep, sweep};
use easyroutine::positions::{Context, Row, Specifier};
use easyroutine::request::Request;
use easyroutine::sites::Site;
use easyroutine::source::{ResolveOptions, resolve};

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
    let positions = || (0..tokens as usize).collect::<Vec<_>>();
    let sweeps = [
        ("layers x positions of resid_in", Along::Positions { site: Site::ResidIn, positions: positions() }),
        (
            "layers x heads of head_out at the last position",
            Along::Heads { site: Site::HeadOut, positions: vec![tokens as usize - 1] },
        ),
    ];
    for (what, along) in sweeps {
        let request = Sweep { layers: layers.clone(), along, by: By::Patch(base.clone()), metric };
        let start = Instant::now();
        let grid = sweep(&model, &target, &request, |_, _| Ok(()))?;
        let swept = start.elapsed().as_secs_f64();

        // A sample of the cells, each as one whole run with the logits of the last token.
        let cells = grid.layers.len() * grid.columns.len();
        let sample: Vec<usize> = (0..cells).step_by(cells / 30 + 1).collect();
        let rows = [Row::of(0, &target)];
        let batch = Batch::new(&[&target])?;
        let last = Request::parse("logits", "last")?;
        let start = Instant::now();
        for cell in &sample {
            let (layer, column) = (cell / grid.columns.len(), cell % grid.columns.len());
            let position = match request.along {
                Along::Positions { .. } => column as i64,
                _ => -1,
            };
            let name = &grid.activations[layer][column];
            let width = model.arch().d_model;
            let intervention = Intervention {
                activation: name.parse()?,
                part: Part::Full(vec![Specifier::At(position)]),
                operation: Operation::Replace(Tensor::new("zeros", &[width], vec![0.0; width])?),
            };
            let edits = Edits::new(&[intervention], model.arch(), &rows, Context::default())?;
            last.run_under(&model, &batch, &rows, Context::default(), edits)?;
        }
        let whole = start.elapsed().as_secs_f64() / sample.len() as f64 * cells as f64;
        println!(
            "{what}: {cells} cells in {swept:.2} s; one whole run a cell takes {whole:.2} s, {:.1} times as long",
            whole / swept
        );
    }
    Ok(())
}
