//! `extract … -o BASE/`: a run in a store, written shard by shard.

use std::io::{self, IsTerminal};
use std::ops::Range;
use std::path::Path;

use easyroutine::Batch;
use easyroutine::cache::{ActivationCache, Numbers};
use easyroutine::edit::{Edits, Intervention, Operation};
use easyroutine::positions::{self, Context, Row, Selected};
use easyroutine::request::Request;
use easyroutine::sites::Site;
use easyroutine_store::{
    ActivationSaver, Begun, Contents, Dtype, Joining, Kind, Model, OpenRun, Plan, SHARD_BYTES, Story, Tensor,
    checksum,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::dtype_name;
use super::runs::{pair, position};
use crate::args::{Args, Extract, Format, Saving};
use crate::failure::Failure;
use crate::session::Session;
use crate::{changes, output};

/// The rows of a data set and what is asked of them.
pub(super) struct Job<'a> {
    pub(super) session: &'a Session,
    pub(super) request: &'a Request,
    pub(super) rows: Vec<Row<'a>>,
    pub(super) context: Context<'a>,
    /// Checked against all rows already.
    pub(super) interventions: &'a [Intervention],
    pub(super) extract: &'a Extract,
}

/// Whether a target is a store: a folder, or what ends like one.
pub(super) fn is_store(target: &Path) -> bool {
    target.is_dir() || target.as_os_str().to_string_lossy().ends_with(std::path::is_separator)
}

/// Writes the units that are missing, or this process's share of them, and commits the run if none is left.
pub(super) fn run(args: &Args, base: &Path, job: &Job<'_>) -> Result<(), Failure> {
    let saving = &job.extract.saving;
    job.interventions.iter().try_for_each(speaks_of_one_row)?;
    let selected = job.rows.iter().map(|row| positions::select(&job.request.positions, *row, job.context));
    let selected = selected.collect::<Result<Vec<Selected>, _>>()?;
    let plan = plan(job, &selected)?;
    let saver = ActivationSaver::new(base, saving.experiment.as_deref().unwrap_or("default"))?;
    let (name, joining) = match (&saving.run, saving.part) {
        (Some(name), Some(_)) => (name.clone(), Joining::Share),
        (Some(name), None) if saving.resume => (name.clone(), Joining::Resume),
        (Some(name), None) => (name.clone(), Joining::New),
        (None, _) => (easyroutine_store::fresh_name(), Joining::New),
    };
    let run = match saver.begin(&name, &plan, &story(job)?, joining)? {
        Begun::Committed(path) => return done(args, base, &path),
        Begun::Open(run) => run,
    };
    write_units(job, &selected, &run, saving)?;
    let missing = run.missing()?.len();
    if missing > 0 {
        output::note("note", &format!("{missing} of {} units are left to other parts", run.n_units()));
        return Ok(());
    }
    done(args, base, &run.commit(finish_values)?)
}

/// Says where the run is.
fn done(args: &Args, base: &Path, path: &str) -> Result<(), Failure> {
    let place = base.join(path).display().to_string();
    let text = match args.format {
        Format::Json | Format::Jsonl => {
            json!({"schema": "easyroutine.run_saved/1", "base": base.display().to_string(), "path": path})
                .to_string()
        }
        _ => place,
    };
    let target = output::Target { format: args.format, file: None };
    output::write(&target, format!("{text}\n").as_bytes())
}

fn write_units(job: &Job<'_>, selected: &[Selected], run: &OpenRun, saving: &Saving) -> Result<(), Failure> {
    let (part, parts) = saving.part.map_or((0, 1), |part| (part.number - 1, part.of));
    let mine: Vec<usize> = run.missing()?.into_iter().filter(|unit| unit % parts == part).collect();
    let tokens = |unit: &usize| range(run, *unit).map(|row| job.rows[row].ids.len() as u64).sum::<u64>();
    let bar = io::stderr().is_terminal().then(|| progress(mine.iter().map(tokens).sum()));
    for unit in &mine {
        let contents = contents(job, selected, range(run, *unit), bar.as_ref())?;
        run.put(*unit, &contents)?;
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(())
}

fn range(run: &OpenRun, unit: usize) -> Range<usize> {
    let examples = run.examples(unit);
    examples.start as usize..examples.end as usize
}

fn progress(tokens: u64) -> ProgressBar {
    let bar = ProgressBar::new(tokens);
    match ProgressStyle::with_template("extracting {wide_bar} {pos}/{len} tokens, {per_sec}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// All that makes the run what it is: whoever joins must want the same.
fn plan(job: &Job<'_>, selected: &[Selected]) -> Result<Plan, Failure> {
    let ids: Vec<u8> = job
        .rows
        .iter()
        .flat_map(|row| [&[row.ids.len() as u32], row.ids].concat())
        .flat_map(u32::to_le_bytes)
        .collect();
    let chosen = json!(selected.iter().map(|s| &s.indices).collect::<Vec<_>>()).to_string();
    let spec = json!({
        "model": job.session.files.name,
        "commit": job.session.files.commit,
        "dtype": dtype_name(job.session.model.dtype()),
        "instructions": easyroutine::Simd::from_env().map_or_else(|e| e, |simd| simd.to_string()),
        "activations": job.extract.activations.join(","),
        "positions": job.extract.positions,
        "interventions": interventions(job),
        "rows": checksum(&ids),
        "tokens": checksum(chosen.as_bytes()),
    });
    let n_examples = job.rows.len() as u64;
    let unit = match job.extract.saving.unit {
        Some(unit) => unit,
        None => SHARD_BYTES.div_euclid(bytes_of_a_row(job, selected)?.max(1)).clamp(1, n_examples),
    };
    Ok(Plan { n_examples, unit, spec: spec.as_object().cloned().unwrap_or_default() })
}

/// What a row of mean length takes, as the first row shows.
fn bytes_of_a_row(job: &Job<'_>, selected: &[Selected]) -> Result<u64, Failure> {
    let cache = run_rows(job, 0..1)?;
    let bytes: usize = cache.iter().map(|(_, kept)| kept.bytes()).sum();
    let t = |selected: &Selected| selected.indices.len() as u64;
    let all: u64 = selected.iter().map(t).sum();
    let first = selected.first().map_or(1, t).max(1);
    Ok(bytes as u64 * all.div_ceil(selected.len() as u64) / first)
}

fn run_rows(job: &Job<'_>, range: Range<usize>) -> Result<ActivationCache, Failure> {
    let rows = &job.rows[range];
    let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids).collect();
    let model = &job.session.model;
    let edits = Edits::new(job.interventions, model.arch(), rows, job.context)?;
    Ok(job.request.run_under(model, &Batch::new(&ids)?, rows, job.context, edits)?)
}

/// Rows of a store run apart, in other batches each time: what one becomes cannot hang on another.
fn speaks_of_one_row(intervention: &Intervention) -> Result<(), Failure> {
    if !changes::speaks_of_rows(intervention) {
        return Ok(());
    }
    Err(Failure::usage("--intervene: values for single rows of a batch, or from another row, are for files")
        .hint("write to a file: -o activations.safetensors"))
}

/// The interventions as they were written, with the digest of the values that they name.
fn interventions(job: &Job<'_>) -> Option<Value> {
    let written = job.extract.changes.intervene.iter().zip(job.interventions);
    let one = |(text, intervention): (&String, &Intervention)| match &intervention.operation {
        Operation::Replace(values) | Operation::Mean(values) | Operation::Add { values, .. } => {
            let bytes: Vec<u8> = values.values().iter().flat_map(|x| x.to_le_bytes()).collect();
            json!({"intervene": text, "values": checksum(&bytes), "shape": values.shape()})
        }
        Operation::Scale(_) | Operation::Set(_) | Operation::Resample { .. } => json!({"intervene": text}),
    };
    (!job.interventions.is_empty()).then(|| written.map(one).collect())
}

/// The rows of a unit, in packed batches, end to end.
fn contents(
    job: &Job<'_>,
    selected: &[Selected],
    unit: Range<usize>,
    bar: Option<&ProgressBar>,
) -> Result<Contents<'static>, Failure> {
    let mut columns: Vec<Column> = Vec::new();
    let mut begin = unit.start;
    while begin < unit.end {
        let mut end = begin + 1;
        let mut tokens = job.rows[begin].ids.len();
        while end < unit.end && tokens + job.rows[end].ids.len() <= job.extract.batch_tokens as usize {
            tokens += job.rows[end].ids.len();
            end += 1;
        }
        let cache = run_rows(job, begin..end)?;
        for (place, (key, kept)) in cache.iter().enumerate() {
            if columns.len() <= place {
                columns.push(Column {
                    key: key.to_owned(),
                    bytes: Vec::new(),
                    dtype: Dtype::F32,
                    shapes: Vec::new(),
                });
            }
            columns[place].add(&kept.data, &kept.row_shapes);
        }
        if let Some(bar) = bar {
            bar.inc(tokens as u64);
        }
        begin = end;
    }
    // One length in the whole data set, or none: every unit decides alike.
    let is_even = selected.windows(2).all(|w| w[0].indices.len() == w[1].indices.len());
    let tensors = columns.into_iter().map(|column| column.tensor(is_even)).collect();
    Ok(Contents { tensors, values: values(job, &selected[unit]) })
}

/// One key of a unit, row after row.
struct Column {
    key: String,
    bytes: Vec<u8>,
    dtype: Dtype,
    shapes: Vec<Vec<usize>>,
}

impl Column {
    fn add(&mut self, numbers: &Numbers, shapes: &[Vec<usize>]) {
        match numbers {
            Numbers::F32(values) if cfg!(target_endian = "little") => {
                self.bytes.extend_from_slice(bytemuck::cast_slice(values));
            }
            Numbers::F32(values) => self.bytes.extend(values.iter().flat_map(|x| x.to_le_bytes())),
            Numbers::I64(values) => {
                self.dtype = Dtype::I64;
                self.bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            }
        }
        self.shapes.extend_from_slice(shapes);
    }

    fn tensor(self, is_even: bool) -> Tensor<'static> {
        let first = self.shapes.first().cloned().unwrap_or_default();
        if is_even {
            let shape = [&[self.shapes.len()], &first[..]].concat();
            return Tensor::new(self.key, self.dtype, &shape, self.bytes).dense();
        }
        let is_pattern = self.key.starts_with(Site::Pattern.name());
        let length = |shape: &Vec<usize>| if is_pattern { shape.iter().product() } else { shape[0] };
        let mut offsets = vec![0i64];
        let mut total = 0usize;
        for shape in &self.shapes {
            total += length(shape);
            offsets.push(total as i64);
        }
        let inner = if is_pattern { &[] } else { &first[1..] };
        let kind = if is_pattern { Kind::RaggedNd } else { Kind::Rows };
        Tensor::new(self.key, self.dtype, &[&[total], inner].concat(), self.bytes).ragged(kind, offsets)
    }
}

/// Which columns of T belong to a specifier, and which tokens of the row they are: lists of one a row.
fn values(job: &Job<'_>, selected: &[Selected]) -> Map<String, Value> {
    let (mut columns, mut tokens) = (Map::new(), Map::new());
    for (i, specifier) in job.request.positions.iter().enumerate() {
        let of = |s: &Selected| s.groups[i].clone();
        let column = |s: &Selected| of(s).collect::<Vec<_>>();
        columns.insert(specifier.key(), json!(selected.iter().map(column).collect::<Vec<_>>()));
        let indices = |s: &Selected| s.indices[of(s)].to_vec();
        tokens.insert(specifier.key(), json!(selected.iter().map(indices).collect::<Vec<_>>()));
    }
    let lists = [("mapping_index", columns), ("token_dict", tokens)];
    lists.into_iter().map(|(key, map)| (key.to_owned(), Value::Object(map))).collect()
}

/// `mapping_index` as caches have it: one list where all rows have the same.
pub(crate) fn finish_values(values: &mut Map<String, Value>) {
    let Some(columns) = values.get_mut("mapping_index").and_then(Value::as_object_mut) else { return };
    for (_, rows) in columns {
        if let Some(rows) = rows.as_array_mut()
            && rows.windows(2).all(|w| w[0] == w[1])
            && !rows.is_empty()
        {
            let first = rows.swap_remove(0);
            *rows = first.as_array().cloned().unwrap_or_default();
        }
    }
}

fn story(job: &Job<'_>) -> Result<Story<'static>, Failure> {
    let extract = job.extract;
    let points = job.request.points(job.session.model.arch())?;
    // As the original's config: a flag for each site; logits are on unless it says otherwise.
    let mut config = Map::from_iter([(Site::Logits.flag().to_owned(), Value::Bool(false))]);
    config.extend(points.iter().map(|point| (point.site().flag().to_owned(), Value::Bool(true))));
    config.insert("activations".to_owned(), json!(extract.activations.join(",")));
    let mut other_metadata = Vec::new();
    if !extract.pivot.is_empty() {
        other_metadata.push(("pivot_positions".to_owned(), json!(extract.pivot).into()));
    }
    for text in &extract.saving.meta {
        let (key, value) = pair(text)?;
        other_metadata.push((key, value.into()));
    }
    let positions = job.request.positions.iter().map(|specifier| position(&specifier.key()));
    let file = extract.file.as_ref().and_then(|file| file.file_name()).map(|name| name.to_string_lossy());
    Ok(Story {
        model: Model {
            name: job.session.files.name.clone(),
            revision: job.session.files.commit.clone(),
            dtype: Some(dtype_name(job.session.model.dtype()).to_owned()),
            config_digest: None,
        },
        target_token_positions: positions.collect(),
        interventions: interventions(job).map(Into::into),
        extraction_config: Value::Object(config),
        other_metadata,
        tag: extract.saving.tag.clone(),
        dataset: file.map(|name| json!({"file": name})),
    })
}
