//! Runs named workloads on request, for side-by-side measurements: `forward MODEL DTYPE THREADS`. Each line on standard
//! input (`CASE LENGTHS`) is one run and gives one line of milliseconds on standard output. `peak` prints the process's
//! peak memory in MB; `forget` prints the current memory and restarts the peak from there.
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::io::BufRead;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use easyroutine::cache::{Capture, RunningMean};
use easyroutine::generate::{GenerateOptions, Sampling, generate};
use easyroutine::lens::{Component, LensNorm, SurveyOptions, survey};
use easyroutine::load::{LoadOptions, load};
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine::sites::{Point, Site};
use easyroutine::source::{FilesKind, ModelFiles};
use easyroutine::{Batch, Dtype, Model, Tap, Value, Want};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().ok_or(format!("missing argument: {what}"));
    let path = PathBuf::from(next("model folder or GGUF file")?);
    let dtype = if next("dtype")? == "bf16" { Dtype::Bf16 } else { Dtype::F32 };
    let threads: usize = next("threads")?.parse()?;
    let kind = if path.is_file() { FilesKind::Gguf(path) } else { FilesKind::Folder(path) };
    let files = ModelFiles { kind, name: "bench".into(), commit: None, adapter: None };
    let model = load(&files, &LoadOptions { dtype, threads: Some(threads), ..LoadOptions::default() })?;
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line == "peak" || line == "forget" {
            if line == "forget" {
                std::fs::write("/proc/self/clear_refs", "5")?;
            }
            println!("{:.1}", peak_memory()?);
            continue;
        }
        let (name, lengths) = line.split_once(' ').ok_or("CASE LENGTHS")?;
        let lengths: Vec<usize> = lengths.split(',').map(str::parse).collect::<Result<_, _>>()?;
        println!("{:.4}", run(&model, name, &lengths)?);
    }
    Ok(())
}

/// Peak memory as Linux counts it.
fn peak_memory() -> Result<f64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// Milliseconds of one run; its results are dropped after the clock has stopped.
fn run(model: &Model, case: &str, lengths: &[usize]) -> Result<f64, Failure> {
    let vocabulary = model.arch().vocabulary;
    let id = |row: usize, i: usize| ((row * 7919 + i * 104_729 + i * i * 31 + 17) % vocabulary) as u32;
    let ids: Vec<Vec<u32>> =
        lengths.iter().enumerate().map(|(row, n)| (0..*n).map(|i| id(row, i)).collect()).collect();
    let rows: Vec<Row<'_>> = ids.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect();
    let start = Instant::now();
    let batch = Batch::new(&ids)?;
    let extracted = |activations: &str, positions: &str| -> Result<f64, Failure> {
        let cache = Request::parse(activations, positions)?.run(model, &batch, &rows, Context::default())?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        drop(cache);
        Ok(milliseconds)
    };
    match case {
        "residuals" => extracted("resid_out_*,logits", "all"),
        // All residuals, but logits of only the last token.
        "end" => {
            let capture = |activations: &str, positions: &str| -> Result<Capture, Failure> {
                let request = Request::parse(activations, positions)?;
                let tokens = request.tokens(&rows, Context::default())?;
                Ok(request.capture(model.arch(), tokens, RunningMean::default())?)
            };
            let mut both = (capture("resid_out_*", "all")?, capture("logits", "last")?);
            model.forward(&batch, &mut both)?;
            let milliseconds = start.elapsed().as_secs_f64() * 1e3;
            drop((both.0.finish(&batch), both.1.finish(&batch)));
            Ok(milliseconds)
        }
        "patterns" => extracted("resid_out_*,pattern_*,logits", "all"),
        "last" => extracted("resid_out_*", "last"),
        "lens" => {
            let options = SurveyOptions {
                component: Component::RESID_OUT,
                norm: LensNorm::Own,
                top_k: 10,
                positions: (0..lengths[0]).collect(),
                layers: (-1..model.arch().layers.len() as i64).collect(),
                tracked: Vec::new(),
            };
            survey(model, &batch, &options)?;
            Ok(start.elapsed().as_secs_f64() * 1e3)
        }
        // A prompt of the first length, then as many greedy tokens as the second length says: the time per token after
        // the first. `watched` also keeps every layer's stream.
        "generate" | "watched" => {
            let [_, new] = lengths[..] else { return Err("PROMPT,NEW".into()) };
            let options = GenerateOptions {
                max_new_tokens: new + 1,
                sampling: Sampling::Greedy,
                ends: Vec::new(),
                seed: 0,
            };
            let mut tap = Streams { watches: case == "watched", kept: Vec::new() };
            let mut first = None;
            generate(model, &ids[..1], &options, &mut tap, |_| {
                first.get_or_insert_with(Instant::now);
                Ok(ControlFlow::Continue(()))
            })?;
            let first: Instant = first.ok_or("no token")?;
            Ok(first.elapsed().as_secs_f64() * 1e3 / new as f64)
        }
        _ => Err(format!("no case {case}").into()),
    }
}

/// Keeps every layer's stream of every token.
struct Streams {
    watches: bool,
    kept: Vec<f32>,
}

impl Tap for Streams {
    fn wants(&self, point: Point) -> Want {
        if self.watches && point.site() == Site::ResidOut { Want::Read } else { Want::Nothing }
    }

    fn at(&mut self, _point: Point, value: &mut Value<'_>) -> easyroutine::Result<()> {
        let batch = value.batch();
        for position in batch.first(0)..batch.length(0) {
            self.kept.extend(value.vector(0, position).unwrap_or_default());
        }
        Ok(())
    }
}
