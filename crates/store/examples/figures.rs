//! One measurement of the store for `bench/store.py`: prints seconds.
//!
//!     figures save|layer|unverified|whole|whole-unverified|rows|stream|runs|query|scan BASE [N]
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "the result")]

use std::time::Instant;

use easyroutine_store::{
    ActivationLoader, ActivationSaver, Begun, Contents, Dtype, Durability, Joining, Kind, Model, Plan,
    Provenance, Query, Run, Store, Tensor,
};
use serde_json::json;

/// 16 layers of bf16 `[256, 128, 1024]`: 1 GiB.
const SHAPE: [usize; 3] = [256, 128, 1024];
const ALL: [usize; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (task, base) = (args[1].as_str(), args[2].as_str());
    let n: u32 = args.get(3).map_or(0, |n| n.parse().unwrap());
    match task {
        "save" => save(base),
        "layer" => read(base, &[7], n.max(1), |run| run),
        "unverified" => read(base, &[7], n.max(1), Run::unverified),
        "whole" => read(base, &ALL, n.max(1), |run| run),
        "whole-unverified" => read(base, &ALL, n.max(1), Run::unverified),
        "rows" => rows(base),
        "stream" => stream(base),
        "runs" => runs(base, n),
        "query" => query(ActivationLoader::new(base, "*").unwrap().indexed_in(format!("{base}-index"))),
        "scan" => query(ActivationLoader::new(base, "*").unwrap()),
        other => panic!("no task {other}"),
    }
}

fn provenance(seed: u32) -> Provenance<'static> {
    let flags = [
        "embed",
        "resid_in",
        "resid_mid",
        "attn_in",
        "queries",
        "keys",
        "values",
        "attn_pattern",
        "head_out",
        "mlp_out",
    ];
    let mut config = json!({"extract_resid_out": true, "save_logits": true, "attn_heads": "all"});
    flags.iter().for_each(|flag| config[format!("extract_{flag}")] = json!(false));
    Provenance {
        model: Model { name: "org/model".to_owned(), ..Model::default() },
        target_token_positions: json!(["last"]),
        extraction_config: config,
        other_metadata: vec![
            ("seed".to_owned(), json!(seed).into()),
            ("split".to_owned(), json!(seed % 500).into()),
        ],
        tags: vec![format!("tag_{}", seed % 500)],
        ..Provenance::default()
    }
}

fn layer(number: usize, bytes: &[u8]) -> Tensor<'_> {
    Tensor::new(format!("resid_out_{number}"), Dtype::Bf16, &SHAPE, bytes).dense()
}

fn save(base: &str) {
    let bytes: Vec<u8> = (0..SHAPE.iter().product::<usize>() * 2).map(|i| ((i * 31) >> 3) as u8).collect();
    let contents = Contents { tensors: (0..16).map(|i| layer(i, &bytes)).collect(), ..Contents::default() };
    let saver = ActivationSaver::new(base, "e").unwrap();
    let begin = Instant::now();
    saver.save(&contents, &provenance(0)).unwrap();
    println!("{}", begin.elapsed().as_secs_f64());
}

/// Finds and opens the run, reads layers, and touches every page of them, `times` times; the last time counts.
fn read(base: &str, layers: &[usize], times: u32, opened: impl Fn(Run) -> Run) {
    let once = || {
        let begin = Instant::now();
        let store = Store::open(base).unwrap();
        let run =
            opened(ActivationLoader::of(store, "e").query(&Query::default()).unwrap().load(-1).unwrap());
        let mut sum = 0u64;
        for layer in layers {
            let loaded = run.read(&format!("resid_out_{layer}")).unwrap();
            sum += loaded.bytes.iter().step_by(4096).map(|x| u64::from(*x)).sum::<u64>();
        }
        (begin.elapsed().as_secs_f64(), sum)
    };
    let (seconds, sum) = (1..times).fold(once(), |_, _| once());
    println!("{seconds} {sum}");
}

fn rows(base: &str) {
    let begin = Instant::now();
    let store = Store::open(base).unwrap();
    let run = ActivationLoader::of(store, "e").query(&Query::default()).unwrap().load(-1).unwrap();
    let mut sum = 0u64;
    for i in 0..100usize {
        let at = i * 7919 % SHAPE[0];
        let row = run.read_rows(&format!("resid_out_{}", i % 16), at..at + 1).unwrap();
        sum += row.bytes.iter().step_by(4096).map(|x| u64::from(*x)).sum::<u64>();
    }
    println!("{} {sum}", begin.elapsed().as_secs_f64());
}

/// 4 GiB in units of 256 MiB; prints seconds, and peak memory in MiB.
fn stream(base: &str) {
    let plan = Plan { n_examples: 16, unit: 1, spec: serde_json::Map::new() };
    let saver = ActivationSaver::new(base, "e").unwrap();
    let begin = Instant::now();
    let Begun::Open(run) = saver.begin("big", &plan, &provenance(0), Joining::New).unwrap() else {
        panic!("committed")
    };
    for unit in 0..16 {
        let bytes = vec![unit as u8; 256 << 20];
        let tensor = Tensor::new("resid_out_0", Dtype::U8, &[1, 256 << 20], bytes);
        let tensors = vec![Tensor { kind: Kind::Dense, ..tensor }];
        run.put(unit, &Contents { tensors, ..Contents::default() }).unwrap();
    }
    run.commit(|_| {}).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak =
        status.lines().find(|line| line.starts_with("VmHWM:")).unwrap().split_whitespace().nth(1).unwrap();
    println!("{} {}", begin.elapsed().as_secs_f64(), peak.parse::<u64>().unwrap() / 1024);
}

fn runs(base: &str, n: u32) {
    let saver = ActivationSaver::new(base, "e").unwrap().with_durability(Durability::Fast);
    let begin = Instant::now();
    for seed in 0..n {
        let contents = Contents {
            tensors: vec![Tensor::f32("resid_out_0", &[1, 8], &[0.5; 8]).dense()],
            ..Contents::default()
        };
        saver.save(&contents, &provenance(seed)).unwrap();
    }
    println!("{}", begin.elapsed().as_secs_f64());
}

fn query(loader: ActivationLoader) {
    let begin = Instant::now();
    let found = loader.query(&Query { tags: vec!["tag_7".to_owned()], ..Query::default() }).unwrap();
    println!("{} {}", begin.elapsed().as_secs_f64(), found.len());
}
