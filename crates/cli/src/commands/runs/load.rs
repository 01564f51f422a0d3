//! `runs load`: the numbers of a tensor.

use std::ops::Range;

use easyroutine_store::{Dtype, Loaded, Run};
use serde_json::{Value, json};

use crate::args::Args;
use crate::args::runs::{self, Runs};
use crate::failure::Failure;
use crate::output::{self, PLAIN};

pub(super) fn run(args: &Args, runs: &Runs, asked: &runs::Load) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let run = runs.find_to_read(&asked.run.run, asked.no_verify)?;
    let Some(key) = &asked.key else { return shapes(&targets, &run) };
    let field = run.fields().find(|(name, _)| name == key);
    if let (Some((name, values)), false) = (field, run.names().any(|tensor| tensor == key)) {
        return values_of(&targets, &run, name, values, asked.rows.as_deref());
    }
    let has = |name: &str| run.names().any(|tensor| tensor == name);
    if !has(key) && has(&format!("{key}.indices")) && has(&format!("{key}.values")) {
        return features(&targets, &run, key, asked.rows.as_deref());
    }
    let (first, loaded) = match &asked.rows {
        Some(rows) => {
            let rows = range(rows)?;
            (rows.start, run.read_rows(key, rows)?)
        }
        None => (0, run.read(key)?),
    };
    // A row of the table is the last axis; for ragged tensors without another axis, a single number.
    let has_width = !loaded.kind.is_ragged() || loaded.shape.len() > 1;
    let width = if has_width { loaded.shape.last().copied().unwrap_or(1).max(1) } else { 1 };
    let numbers = numbers(&loaded);
    loaded.check_unchanged()?;
    let rows: Vec<Vec<String>> = numbers
        .chunks(width)
        .enumerate()
        .map(|(row, numbers)| {
            let mut cells = vec![place(row, &loaded, first)];
            cells.extend(numbers.iter().map(Value::to_string));
            cells
        })
        .collect();
    let mut header = vec!["row".to_owned()];
    header.extend((0..width).map(|column| column.to_string()));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let json = json!({
        "schema": "easyroutine.run_tensor/1",
        "path": run.path(),
        "key": key,
        "dtype": loaded.dtype,
        "kind": loaded.kind,
        "shape": loaded.shape,
        "offsets": loaded.offsets,
        "values": numbers,
    });
    output::tables(&targets, &header, &rows, &json)
}

/// Features, sparse: a row of the table for each that is not zero.
fn features(
    targets: &[output::Destination],
    run: &Run,
    key: &str,
    rows: Option<&str>,
) -> Result<(), Failure> {
    let (indices, values) = (format!("{key}.indices"), format!("{key}.values"));
    let (first, indices, values) = match rows.map(range).transpose()? {
        Some(rows) => (rows.start, run.read_rows(&indices, rows.clone())?, run.read_rows(&values, rows)?),
        None => (0, run.read(&indices)?, run.read(&values)?),
    };
    let (places, found) = (numbers(&indices), numbers(&values));
    indices.check_unchanged()?;
    values.check_unchanged()?;
    let mut table = Vec::new();
    let mut list = Vec::new();
    for (row, ends) in values.offsets.windows(2).enumerate() {
        let entries = ends[0].max(0) as usize..ends[1].max(0) as usize;
        let places = places.chunks(2).zip(&found).take(entries.end).skip(entries.start);
        for (place, value) in places {
            let [position, feature] = place else { continue };
            let row = first + row;
            table.push(vec![row.to_string(), position.to_string(), feature.to_string(), value.to_string()]);
            list.push(json!({"row": row, "position": position, "feature": feature, "value": value}));
        }
    }
    let json = json!({
        "schema": "easyroutine.run_features/1",
        "path": run.path(),
        "key": key,
        "features": list,
    });
    output::tables(targets, &["row", "position", "feature", "value"], &table, &json)
}

/// A field kept for each example, one row of the table each.
fn values_of(
    targets: &[output::Destination],
    run: &Run,
    name: &str,
    values: &[Value],
    rows: Option<&str>,
) -> Result<(), Failure> {
    let wanted = rows.map_or(Ok(0..values.len()), range)?;
    let Some(found) = values.get(wanted.clone()) else {
        return Err(Failure::usage(format!("--rows: `{name}` has {} rows", values.len()))
            .hint(format!("--rows 0:{}", values.len())));
    };
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows: Vec<Vec<String>> =
        wanted.clone().zip(found).map(|(row, value)| vec![row.to_string(), shown(value)]).collect();
    let json = json!({
        "schema": "easyroutine.run_field/1",
        "path": run.path(),
        "key": name,
        "first": wanted.start,
        "values": found,
    });
    output::tables(targets, &["row", name], &rows, &json)
}

fn shapes(targets: &[output::Destination], run: &Run) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut tensors = Vec::new();
    for entry in &run.manifest().tensors {
        let shape = run.manifest().shape(entry);
        rows.push(vec![entry.name.clone(), entry.dtype.to_string(), format!("{shape:?}")]);
        tensors.push(json!({"key": entry.name, "dtype": entry.dtype, "shape": shape}));
    }
    let mut fields = Vec::new();
    for (name, values) in run.fields() {
        rows.push(vec![name.to_owned(), "field".to_owned(), format!("[{}]", values.len())]);
        fields.push(json!({"key": name, "rows": values.len()}));
    }
    let json = json!({
        "schema": "easyroutine.run_tensors/1",
        "path": run.path(),
        "tensors": tensors,
        "fields": fields,
    });
    output::tables(targets, &["key", "dtype", "shape"], &rows, &json)
}

/// `0:10`, or `5` for a single one.
pub(super) fn range(text: &str) -> Result<Range<usize>, Failure> {
    let number = |text: &str| text.parse::<usize>().ok();
    let found = match text.split_once(':') {
        Some((start, end)) => number(start).zip(number(end)).map(|(start, end)| start..end),
        None => number(text).map(|at| at..at.saturating_add(1)),
    };
    found.ok_or_else(|| Failure::usage(format!("--rows: `{text}` is not a range")).hint("--rows 0:10"))
}

/// The place of a row, `3,0`: its index along the first axis of the whole tensor, of which `first` was read first (for
/// examples of different length, the example and the token in it), then along the others.
pub(super) fn place(row: usize, loaded: &Loaded, first: usize) -> String {
    let axes = &loaded.shape[..loaded.shape.len().saturating_sub(1)];
    let inner = axes.get(1..).unwrap_or_default();
    let size = inner.iter().product::<usize>().max(1);
    let at = row / size;
    let lead = if loaded.kind.is_ragged() {
        of_example(at, loaded, first)
    } else if axes.is_empty() {
        Vec::new()
    } else {
        vec![(first + at).to_string()]
    };
    [lead, places(row % size, inner)].concat().join(",")
}

/// The example that contains an index along the first axis, and the index within it.
fn of_example(at: usize, loaded: &Loaded, first: usize) -> Vec<String> {
    let at = at as i64;
    let example = loaded.offsets.partition_point(|start| *start <= at).saturating_sub(1);
    vec![(first + example).to_string(), (at - loaded.offsets.get(example).unwrap_or(&0)).to_string()]
}

/// Indices along axes, slowest first.
fn places(mut row: usize, axes: &[usize]) -> Vec<String> {
    let mut places = Vec::new();
    for axis in axes.iter().rev() {
        places.push((row % axis.max(&1)).to_string());
        row /= axis.max(&1);
    }
    places.reverse();
    places
}

/// Numbers as JSON values.
fn numbers(loaded: &Loaded) -> Vec<Value> {
    let bytes = &loaded.bytes[..];
    macro_rules! of {
        ($kind:ty) => {
            bytes
                .as_chunks::<{ size_of::<$kind>() }>()
                .0
                .iter()
                .map(|x| json!(<$kind>::from_le_bytes(*x)))
                .collect()
        };
    }
    match loaded.dtype {
        Dtype::Bool => bytes.iter().map(|x| json!(*x != 0)).collect(),
        Dtype::U8 => of!(u8),
        Dtype::I8 => of!(i8),
        Dtype::U16 => of!(u16),
        Dtype::I16 => of!(i16),
        Dtype::U32 => of!(u32),
        Dtype::I32 => of!(i32),
        Dtype::U64 => of!(u64),
        Dtype::I64 => of!(i64),
        Dtype::F64 => of!(f64),
        // The shortest text of an f32 differs from that of the corresponding f64.
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|x| shortest(f32::from_le_bytes(*x))).collect(),
        Dtype::C64 => {
            let part = |x: &[u8; 4]| shortest(f32::from_le_bytes(*x));
            bytes.as_chunks::<4>().0.chunks(2).map(|parts| parts.iter().map(part).collect()).collect()
        }
        Dtype::Bf16 | Dtype::F16 => loaded.widened().into_iter().map(shortest).collect(),
    }
}

/// JSON has no infinities and no NaN, so these become strings.
fn shortest(x: f32) -> Value {
    let number = x.is_finite().then(|| serde_json::from_str(&format!("{x:?}")).ok()).flatten();
    number.unwrap_or_else(|| Value::String(x.to_string()))
}
