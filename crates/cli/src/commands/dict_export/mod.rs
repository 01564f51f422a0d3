//! `dict export`: features over a data set in the formats of other programs.

mod delphi;
mod neuronpedia;
#[cfg(feature = "parquet")]
mod parquet;

use std::path::Path;

use serde_json::Value;

use super::feature_lines;
use crate::args::{Args, DictExport, ExportTo, Format};
use crate::failure::Failure;

pub(crate) fn run(args: &Args, export: &DictExport) -> Result<(), Failure> {
    let target = match args.output.as_slice() {
        [one] if args.format == Format::Auto => one,
        [_] => return Err(Failure::usage("--format: the format is said with --to")),
        _ => return Err(Failure::usage("one file or folder is written: -o features.parquet")),
    };
    let only = |flag: &str, is_given: bool, format: &str| match is_given {
        true => Err(Failure::usage(format!("{flag} is for --to {format}"))),
        false => Ok(()),
    };
    if export.to != ExportTo::Neuronpedia {
        only("--layer", export.layer.is_some(), "neuronpedia")?;
        only("--set", export.set.is_some(), "neuronpedia")?;
    }
    if export.to != ExportTo::Delphi {
        only("--splits", export.splits.is_some(), "delphi")?;
    }
    if export.to == ExportTo::Parquet && target.extension().is_some_and(|ending| ending != "parquet") {
        return Err(Failure::usage(format!("{}: Parquet is written", target.display()))
            .hint("name a file that ends in .parquet, or another format with --to"));
    }
    match export.to {
        #[cfg(feature = "parquet")]
        ExportTo::Parquet => parquet::write(&export.file, target),
        #[cfg(not(feature = "parquet"))]
        ExportTo::Parquet => {
            Err(Failure::usage("this build does not write Parquet").hint("build with the feature `parquet`"))
        }
        ExportTo::Neuronpedia => neuronpedia::write(export, target),
        ExportTo::Delphi => delphi::write(&export.file, target, export.splits.unwrap_or(5) as usize),
    }
}

/// Visits the features in a file of `easyroutine features` one by one.
fn each_feature(file: &Path, mut visit: impl FnMut(&Feature) -> Result<(), Failure>) -> Result<(), Failure> {
    feature_lines::each(file, "dict export", |line| {
        let value = serde_json::from_str(line).map_err(|e| Failure::failed(e.to_string()))?;
        visit(&Feature { value })
    })
}

/// One line.
struct Feature {
    value: Value,
}

impl Feature {
    fn number(&self, key: &str) -> Result<f64, Failure> {
        self.value[key].as_f64().ok_or_else(|| Failure::failed(format!("`{key}` is not a number")))
    }

    fn list(&self, key: &str) -> &[Value] {
        self.value[key].as_array().map_or(&[], Vec::as_slice)
    }

    /// One field from each entry of a list.
    fn each(&self, key: &str, field: &str) -> Vec<Value> {
        self.list(key).iter().map(|entry| entry[field].clone()).collect()
    }
}
