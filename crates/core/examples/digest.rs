//! Prints digests of everything that models compute, bit by bit: `digest PATH...`, where each path is a folder with a
//! config.json, a folder of such folders, or a GGUF file. Each line is for one model, instruction set, type and kind of
//! run; two builds with equal lines compute the same bits. The lines hold only for one machine: cosines come from the
//! system's library.
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

use easyroutine::load::{LoadOptions, load};
use easyroutine::patching::{Along, By, Metric, Sweep, sweep};
use easyroutine::sites::{Point, Scope, Site};
use easyroutine::source::{FilesKind, ModelFiles};
use easyroutine::{Batch, Dtype, KvCache, Model, Result, Simd, Tap, Value, Want};

type Failure = Box<dyn std::error::Error>;

fn main() -> std::result::Result<(), Failure> {
    for path in std::env::args().skip(1) {
        for files in models(Path::new(&path))? {
            // One kind of run is enough for a pretrained model.
            let is_large = matches!(&files.kind, FilesKind::Gguf(_));
            for simd in Simd::available() {
                for dtype in [Dtype::F32, Dtype::Bf16] {
                    let options = LoadOptions { simd: Some(simd), dtype, ..LoadOptions::default() };
                    let model = load(&files, &options)?;
                    let runs: &[(&str, Run)] = if is_large { &RUNS[2..4] } else { RUNS };
                    for (name, run) in runs {
                        println!("{} {simd} {dtype:?} {name} {:016x}", files.name, run(&model)?);
                    }
                }
            }
        }
    }
    Ok(())
}

/// The models at a path.
fn models(path: &Path) -> std::io::Result<Vec<ModelFiles>> {
    let files = |kind, path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ModelFiles { kind, name, commit: None, adapter: None }
    };
    if path.is_file() {
        return Ok(vec![files(FilesKind::Gguf(path.to_owned()), path)]);
    }
    if path.join("config.json").exists() {
        return Ok(vec![files(FilesKind::Folder(path.to_owned()), path)]);
    }
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(path)?.map(|entry| entry.map(|e| e.path())).collect::<std::io::Result<_>>()?;
    folders.retain(|folder| folder.join("config.json").exists());
    folders.sort();
    Ok(folders.iter().map(|folder| files(FilesKind::Folder(folder.clone()), folder)).collect())
}

/// One kind of run; returns the digest of its results.
type Run = fn(&Model) -> Result<u64>;

const RUNS: &[(&str, Run)] = &[
    ("every point", |model| watched(model, |_| true, usize::MAX)),
    ("no scores", |model| watched(model, |site| site != Site::Scores, usize::MAX)),
    ("streams", |model| watched(model, is_stream, usize::MAX)),
    ("last logits", |model| watched(model, |site| site == Site::Logits, 1)),
    ("ends", |model| watched(model, |_| true, 2)),
    ("one site each", one_site_each),
    ("edits", edits),
    ("pieces", pieces),
    ("sweep", sweeps),
];

fn is_stream(site: Site) -> bool {
    matches!(site, Site::ResidOut | Site::LastLayernorm | Site::Logits)
}

/// Two rows, the first longer than any window.
fn rows(model: &Model) -> Vec<Vec<u32>> {
    let row = |length: usize, step: u32| {
        let length = length.min(model.arch().context) as u32;
        (0..length).map(|i| (7 + i * step) % model.arch().vocabulary as u32).collect()
    };
    vec![row(27, 31), row(5, 13)]
}

/// Adds everything it sees to a digest.
struct Digest {
    wanted: BTreeSet<Point>,
    /// The number of tokens needed at the end of each row.
    most: usize,
    hasher: DefaultHasher,
}

impl Digest {
    fn new(model: &Model, wanted: impl Fn(Site) -> bool, most: usize) -> Self {
        let wanted = model.arch().points().filter(|point| wanted(point.site())).collect();
        Digest { wanted, most, hasher: DefaultHasher::new() }
    }
}

impl Tap for Digest {
    fn wants(&self, point: Point) -> Want {
        if self.wanted.contains(&point) { Want::Read } else { Want::Nothing }
    }

    fn tokens(&self, _: Point, batch: &Batch) -> Option<Vec<usize>> {
        let end = |span: std::ops::Range<usize>| span.end - span.len().min(self.most)..span.end;
        (self.most < usize::MAX).then(|| batch.spans().flat_map(end).collect())
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        self.hasher.write(point.to_string().as_bytes());
        for row in 0..value.batch().n_rows() {
            for position in value.batch().first(row)..value.batch().length(row) {
                let Some(vector) = value.vector(row, position) else { continue };
                self.hasher.write_usize(position);
                vector.iter().for_each(|x| self.hasher.write_u32(x.to_bits()));
            }
        }
        Ok(())
    }
}

fn watched(model: &Model, wanted: fn(Site) -> bool, most: usize) -> Result<u64> {
    let mut digest = Digest::new(model, wanted, most);
    model.forward(&Batch::new(&rows(model))?, &mut digest)?;
    Ok(digest.hasher.finish())
}

fn one_site_each(model: &Model) -> Result<u64> {
    let mut all = DefaultHasher::new();
    for site in Site::ALL {
        let mut digest = Digest::new(model, |other| other == *site, usize::MAX);
        model.forward(&Batch::new(&rows(model))?, &mut digest)?;
        all.write_u64(digest.hasher.finish());
    }
    Ok(all.finish())
}

/// Halves the values of one site at every other layer, only in the second row.
struct Halve<'a>(&'a BTreeSet<Point>);

impl Tap for Halve<'_> {
    fn wants(&self, point: Point) -> Want {
        if self.0.contains(&point) { Want::Edit } else { Want::Nothing }
    }

    fn at(&mut self, _: Point, value: &mut Value<'_>) -> Result<()> {
        for position in value.batch().first(1)..value.batch().length(1) {
            let visible = value.visible(1, position);
            if let Some(vector) = value.vector_mut(1, position) {
                vector[visible].iter_mut().for_each(|x| *x *= 0.5);
            }
        }
        Ok(())
    }
}

fn edits(model: &Model) -> Result<u64> {
    let mut all = DefaultHasher::new();
    for site in Site::ALL {
        let is_changed = |p: &Point| {
            p.site() == *site && (p.layer().unwrap_or(0) + p.head().unwrap_or(0)).is_multiple_of(2)
        };
        let points: BTreeSet<Point> = model.arch().points().filter(is_changed).collect();
        let mut taps = (Halve(&points), Digest::new(model, is_stream, usize::MAX));
        model.forward(&Batch::new(&rows(model))?, &mut taps)?;
        all.write_u64(taps.1.hasher.finish());
    }
    Ok(all.finish())
}

fn pieces(model: &Model) -> Result<u64> {
    let mut all = DefaultHasher::new();
    let rows = rows(model);
    let kinds: [fn(Site) -> bool; 4] = [|_| true, is_stream, |_| false, |site| site == Site::HeadKeys];
    for kind in kinds {
        let mut cache = KvCache::new(model.arch(), rows.len());
        for (start, end) in [(0, 3), (3, 4), (4, 5), (5, 99)] {
            let piece = |row: &Vec<u32>| row[start.min(row.len())..end.min(row.len())].to_vec();
            let new: Vec<Vec<u32>> = rows.iter().map(piece).collect();
            // The first pieces are watched in each way, the last for its logits.
            let mut digest = Digest::new(
                model,
                if end == 99 { is_stream } else { kind },
                if end == 99 { 1 } else { usize::MAX },
            );
            model.forward_cached(&new, &mut cache, &mut digest)?;
            all.write_u64(digest.hasher.finish());
        }
    }
    Ok(all.finish())
}

fn sweeps(model: &Model) -> Result<u64> {
    let mut all = DefaultHasher::new();
    let row = &rows(model)[0];
    let layers: Vec<usize> = (0..model.arch().layers.len()).collect();
    for site in Site::ALL {
        let positions = vec![1, row.len() - 1];
        let along = match site.scope() {
            Scope::Head => Along::Heads { site: *site, positions },
            _ => Along::Positions { site: *site, positions },
        };
        let metric = Metric::LogitDiff { answer: 1, against: 2 };
        let options = Sweep { layers: layers.clone(), along, by: By::Zero, metric };
        // Some sites cannot be columns of a grid.
        let Ok(grid) = sweep(model, row, &options, |_, _| Ok(())) else { continue };
        all.write(site.name().as_bytes());
        grid.values.iter().flatten().for_each(|x| all.write_u64(x.to_bits()));
    }
    Ok(all.finish())
}
