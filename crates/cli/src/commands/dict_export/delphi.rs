//! Writes Delphi's cache of activations (`delphi/latents/cache.py`): a folder per dictionary, with its features divided
//! into ranges, each a safetensors file with `locations` (row, position, feature minus the start of the range),
//! `activations` in f16, and `tokens` [rows, positions].

use std::path::Path;

use easyroutine_files::{HeaderEntry, ShardedSafeTensors, StoredTensor, safetensors_head};
use serde_json::{Map, Value, json};

use crate::failure::{Failure, one_line};
use crate::output;

/// Delphi drops values up to this.
const LEAST: f32 = 1e-5;

/// Writes a cache from a file of `extract -a features_NAME,input_ids --positions all`.
pub(super) fn write(file: &Path, folder: &Path, splits: usize) -> Result<(), Failure> {
    let place = file.display();
    let tensors = ShardedSafeTensors::open(file).map_err(easyroutine::Error::from)?;
    let lacks = |what: &str| {
        Failure::usage(format!("{place} holds no {what}"))
            .hint("easyroutine extract -a features_NAME,input_ids --positions all -o FILE.safetensors")
    };
    let keys: Vec<String> = tensors
        .names()
        .filter_map(|name| name.strip_suffix(".indices"))
        .filter(|key| key.starts_with("features_"))
        .map(str::to_owned)
        .collect();
    if keys.is_empty() {
        return Err(lacks("features"));
    }
    // A selection of tokens is not a usable context.
    let is_whole = match tensors.metadata().get("mapping_index") {
        Some(table) => {
            serde_json::from_str::<Map<String, Value>>(table).is_ok_and(|table| table.keys().eq(["all"]))
        }
        None => {
            let mut tables = tensors.names().filter_map(|name| name.strip_prefix("mapping_index/"));
            tables.all(|table| table.trim_end_matches(".offsets") == "all")
        }
    };
    if !is_whole {
        return Err(lacks("features of whole prompts"));
    }
    let stored = |name: &str| tensors.tensor(name).ok_or_else(|| lacks(&one_line(name)));
    let (tokens, rows, width) = tokens(&stored("input_ids")?, tensors.tensor("input_ids.offsets").as_ref())
        .ok_or_else(|| lacks("input_ids of whole rows"))?;
    let model = tensors.metadata().get("model").cloned().unwrap_or_default();
    for key in &keys {
        let indices = i32s(&stored(&format!("{key}.indices"))?);
        let values = stored(&format!("{key}.values"))?.read_all().map_err(easyroutine::Error::from)?;
        let shape = i64s(&stored(&format!("{key}.shape"))?);
        let n_features = shape.get(2).and_then(|n| usize::try_from(*n).ok()).unwrap_or(0);
        let entries: Vec<(&[i32; 3], f32)> =
            indices.as_chunks::<3>().0.iter().zip(values.iter().copied()).collect();
        let is_there = |(at, _): &(&[i32; 3], f32)| {
            let within = |x: i32, most: usize| usize::try_from(x).is_ok_and(|x| x < most);
            within(at[0], rows) && within(at[1], width) && within(at[2], n_features)
        };
        if indices.len() != 3 * values.len() || !entries.iter().all(is_there) {
            return Err(Failure::failed(format!("{place}: `{key}` points beyond its rows or features")));
        }
        // Delphi stores them in f16.
        if let Some((at, value)) = entries.iter().find(|(_, value)| half::f16::from_f32(*value).is_infinite())
        {
            return Err(Failure::failed(format!(
                "{place}: feature {} of `{key}` is {value} in row {}, which Delphi's f16 cannot hold",
                at[2], at[0]
            )));
        }
        let out = folder.join(key.trim_start_matches("features_"));
        refuse_others(&out)?;
        std::fs::create_dir_all(&out).map_err(|e| Failure::failed(format!("{}: {e}", out.display())))?;
        let splits = splits.min(n_features.max(1));
        for split in 0..splits {
            let range = n_features * split / splits..n_features * (split + 1) / splits;
            let here =
                |(at, value): &&(&[i32; 3], f32)| range.contains(&(at[2] as usize)) && value.abs() > LEAST;
            let of_split: Vec<_> = entries.iter().filter(here).copied().collect();
            let bytes = one(&of_split, range.start, rows, &tokens, width, range.len());
            let name = out.join(format!("{}_{}.safetensors", range.start, range.end.saturating_sub(1)));
            output::replace(&name, |at| std::fs::write(at, &bytes))?;
        }
        let config =
            json!({"model_name": model, "ctx_len": width, "n_tokens": rows * width, "n_splits": splits});
        output::replace(&out.join("config.json"), |at| std::fs::write(at, config.to_string()))?;
        output::note("wrote", &format!("{} activations to {}", entries.len(), out.display()));
    }
    Ok(())
}

/// Delphi reads every split in the folder, so those of another export would be included.
fn refuse_others(folder: &Path) -> Result<(), Failure> {
    let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_split = |entry: &std::fs::DirEntry| entry.path().extension() == Some("safetensors".as_ref());
    match entries.any(|entry| is_split(&entry)) {
        true => Err(Failure::usage(format!("{} holds an export already", folder.display()))
            .hint("remove it, or name another folder")),
        false => Ok(()),
    }
}

/// One range of features.
fn one(
    entries: &[(&[i32; 3], f32)],
    first: usize,
    rows: usize,
    tokens: &[i64],
    width: usize,
    n_features: usize,
) -> Vec<u8> {
    let is_short = rows <= 1 << 16 && width <= 1 << 16 && n_features <= 1 << 16;
    let mut locations = Vec::new();
    for (at, _) in entries {
        for number in [at[0] as usize, at[1] as usize, at[2] as usize - first] {
            match is_short {
                true => locations.extend((number as u16).to_le_bytes()),
                false => locations.extend((number as u32).to_le_bytes()),
            }
        }
    }
    let activations: Vec<u8> =
        entries.iter().flat_map(|(_, value)| half::f16::from_f32(*value).to_le_bytes()).collect();
    let tokens: Vec<u8> = tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
    let (n, shape) = ([entries.len()], [rows, width]);
    let dtype = if is_short { "U16" } else { "U32" };
    // The widest first, so that each begins at a multiple of its own width.
    let entry = |name, dtype: &str, shape, bytes: &Vec<u8>| HeaderEntry {
        name,
        dtype: dtype.to_owned(),
        shape,
        bytes: bytes.len(),
    };
    let places = [n[0], 3];
    let head = safetensors_head(
        Map::new(),
        [
            entry("tokens", "I64", &shape[..], &tokens),
            entry("locations", dtype, &places[..], &locations),
            entry("activations", "F16", &n[..], &activations),
        ],
        8,
    );
    [head, tokens, locations, activations].concat()
}

/// Token ids as a rectangle: shorter rows are padded with id 0.
fn tokens(ids: &StoredTensor<'_>, offsets: Option<&StoredTensor<'_>>) -> Option<(Vec<i64>, usize, usize)> {
    let all = i64s(ids);
    let Some(offsets) = offsets else {
        let [rows, width] = *ids.shape() else { return None };
        return (all.len() == rows * width).then_some((all, rows, width));
    };
    let starts: Vec<usize> =
        i64s(offsets).into_iter().map(|at| usize::try_from(at).ok()).collect::<Option<_>>()?;
    let rows = starts.windows(2).map(|pair| all.get(pair[0]..pair[1])).collect::<Option<Vec<_>>>()?;
    let width = rows.iter().map(|row| row.len()).max()?;
    output::note(
        "note",
        &format!(
            "rows differ in length: shorter ones are filled up to {width} with the id 0, which Delphi counts as tokens"
        ),
    );
    let filled =
        rows.iter().flat_map(|row| row.iter().copied().chain(std::iter::repeat(0)).take(width)).collect();
    Some((filled, rows.len(), width))
}

fn i64s(tensor: &StoredTensor<'_>) -> Vec<i64> {
    tensor.bytes().as_chunks::<8>().0.iter().map(|x| i64::from_le_bytes(*x)).collect()
}

fn i32s(tensor: &StoredTensor<'_>) -> Vec<i32> {
    tensor.bytes().as_chunks::<4>().0.iter().map(|x| i32::from_le_bytes(*x)).collect()
}
