//! `runs export`: tensors to files for other programs.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use easyroutine_store::{Loaded, Run, export};

use crate::args::runs::{self, Runs};
use crate::args::{Args, Format};
use crate::failure::Failure;
use crate::output;

pub(super) fn run(args: &Args, runs: &Runs, asked: &runs::Export) -> Result<(), Failure> {
    let [file] = args.output.as_slice() else {
        return Err(Failure::usage("export writes one file").hint("say which: -o run.safetensors"));
    };
    if args.format != Format::Auto {
        return Err(Failure::usage("--format: export takes the format from the ending of the file"));
    }
    if let Some((_, twice)) = asked.keys.iter().enumerate().find(|(i, key)| asked.keys[..*i].contains(key)) {
        return Err(Failure::usage(format!("{twice} is named twice")));
    }
    if let Some(base) = runs.store()?.path() {
        stays_out(file, base)?;
    }
    output::folder_exists(file)?;
    let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let run = runs.find_to_read(&asked.run.run, asked.no_verify)?;
    run.compare_headers(&asked.keys)?;
    match ending {
        "safetensors" => write_safetensors(file, &run, &tensors(&run, &asked.keys)?),
        "npy" => {
            let found = tensors(&run, &asked.keys)?;
            let [(_, tensor)] = found.as_slice() else {
                return Err(Failure::usage(format!("a .npy file holds one tensor, not {}", found.len()))
                    .hint("name it: easyroutine runs export RUN resid_out_5 -o resid_out_5.npy"));
            };
            if tensor.kind.is_ragged() {
                output::note(
                    "note",
                    "the file does not say where an example begins; a .safetensors file does",
                );
            }
            output::replace(file, |at| export::npy(tensor, &mut BufWriter::new(File::create(at)?)))
        }
        "parquet" => write_parquet(file, &run, &asked.keys),
        _ => {
            Err(Failure::usage(format!("{}: export writes .safetensors, .npy and .parquet", file.display())))
        }
    }
}

/// Refuses a file inside a run, or one reached through a link in the store.
fn stays_out(file: &Path, base: &Path) -> Result<(), Failure> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| absolute(path));
    let folder = absolute(file.parent().unwrap_or(Path::new("")));
    let below = |folder: &Path, base: &Path| folder.strip_prefix(base).ok().map(Path::to_owned);
    let as_named = below(&folder, &absolute(base));
    let as_lies = below(&real(&folder), &real(base));
    if as_named.is_some() && as_named != as_lies {
        return Err(Failure::failed(format!("{}: a symbolic link leads out of the store", file.display()))
            .hint("export beside the store: -o run.safetensors"));
    }
    // Experiment, model, run; the store's own folder counts as internal too.
    let is_its_own = |below: &Path| below.starts_with(".easyroutine") || below.components().count() > 2;
    if as_lies.is_some_and(|below| is_its_own(&below)) {
        return Err(Failure::usage(format!("{}: is among the store's own files", file.display()))
            .hint("export beside the store: -o run.safetensors"));
    }
    Ok(())
}

#[cfg(feature = "parquet")]
fn write_parquet(file: &Path, run: &Run, keys: &[String]) -> Result<(), Failure> {
    let table = export::parquet::Table::new(run, keys)?;
    output::replace(file, |at| table.write(BufWriter::new(File::create(at)?)))
}

#[cfg(not(feature = "parquet"))]
fn write_parquet(file: &Path, _run: &Run, _keys: &[String]) -> Result<(), Failure> {
    Err(Failure::usage(format!("{}: this program was built without Parquet", file.display()))
        .hint("build it with the feature `parquet`"))
}

fn tensors(run: &Run, keys: &[String]) -> Result<Vec<(String, Loaded)>, Failure> {
    match keys {
        [] => Ok(run.read_all()?),
        keys => keys.iter().map(|key| Ok((key.clone(), run.read(key)?))).collect(),
    }
}

fn write_safetensors(file: &Path, run: &Run, tensors: &[(String, Loaded)]) -> Result<(), Failure> {
    let about = [
        ("schema", "easyroutine.export/1".to_owned()),
        ("run", run.path().to_owned()),
        ("model", run.metadata().model_name().to_owned()),
        ("values", serde_json::Value::Object(run.manifest().values.clone()).to_string()),
    ];
    output::replace(file, |at| export::safetensors(&about, tensors, &mut BufWriter::new(File::create(at)?)))
}
