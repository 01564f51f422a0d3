//! `dict page`: features over a data set as a page, or as the data that the page draws.

use std::path::{Path, PathBuf};

use easyroutine_view::features::{Feature, FeaturesReport, html, number, page_data};
use serde_json::Value;

use super::feature_lines;
use crate::args::{Args, DictPage, Format};
use crate::failure::{Failure, one_line};
use crate::output;

pub(crate) fn run(args: &Args, page: &DictPage) -> Result<(), Failure> {
    let targets = output::targets(args, &[Format::Html, Format::Html, Format::Json])?;
    refuse_folder(&page.file)?;
    let wanted = page.features.as_deref().map(numbers).transpose()?;
    let place = page.file.display().to_string();
    let mut report = FeaturesReport::default();
    feature_lines::each(&page.file, "dict page", |line| {
        let wrong = |e: easyroutine_view::Error| Failure::failed(e.to_string());
        // Of a skipped line only the number is read, so that one feature of many is found quickly.
        if let Some(ranges) = &wanted {
            let number = number(line).map_err(wrong)?;
            if !ranges.iter().any(|range| range.contains(&number)) {
                return Ok(());
            }
        }
        let mut feature = Feature::from_json(line).map_err(wrong)?;
        if wanted.is_some() || feature.count > 0 {
            feature.top.truncate(page.examples as usize);
            feature.drawn.truncate(page.examples as usize);
            report.features.push(feature);
        }
        Ok(())
    })?;
    if report.features.is_empty() {
        return Err(Failure::usage(format!("{place}: none of these features is there")));
    }
    about(page, &mut report);
    for target in &targets {
        let text = match target.format {
            Format::Json => page_data(&report)?.to_string() + "\n",
            _ => html(&report)?,
        };
        output::write(target, text.as_bytes())?;
    }
    Ok(())
}

/// A folder is no file of features, but may hold some.
fn refuse_folder(file: &Path) -> Result<(), Failure> {
    if !file.is_dir() {
        return Ok(());
    }
    let found = files_in(file);
    let names: Vec<String> = found.iter().take(4).map(|file| file.display().to_string()).collect();
    let more = if found.len() > names.len() { ", …" } else { "" };
    Err(Failure::usage(format!("{} is a folder", file.display())).hint(match names.is_empty() {
        true => "name a features_NAME.jsonl that `easyroutine features` wrote".to_owned(),
        false => format!("name a file in it: {}{more}", names.join(", ")),
    }))
}

/// The files of features in a folder, by name.
pub(super) fn files_in(folder: &Path) -> Vec<PathBuf> {
    let is_features = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("features_") && name.ends_with(".jsonl") && path.is_file()
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_features).collect();
    found.sort();
    found
}

/// The file about all features, next to the lines.
fn about(page: &DictPage, report: &mut FeaturesReport) {
    let name = page.file.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    report.title = name;
    let beside = std::fs::read(page.file.with_extension("json")).ok();
    let Some(about) = beside.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) else { return };
    let mut fact = |name: &str, value: &Value| {
        let text = match value {
            Value::String(text) => one_line(text),
            Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(value) => format!("{value:.2}"),
                None => number.to_string(),
            },
            _ => return,
        };
        report.facts.push((name.to_owned(), text));
    };
    fact("model", &about["model"]["name"]);
    fact("dictionary", &about["dictionary"]["format"]);
    fact("reads", &about["dictionary"]["layers"][0]["reads"]);
    fact("tokens", &about["tokens"]);
    fact("prompts", &about["prompts"]);
    fact("L0", &about["l0"]);
    fact("active features", &about["n_active"]);
}

/// `12, 0:500`
fn numbers(text: &str) -> Result<Vec<std::ops::Range<u32>>, Failure> {
    let one = |part: &str| {
        let part = part.trim();
        let wrong =
            || Failure::usage(format!("--features: `{}` is neither a number nor a range", one_line(part)));
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        match part.split_once(':') {
            None => number(part).map(|n| n..n.saturating_add(1)),
            Some((from, to)) => Ok(number(from)?..if to.is_empty() { u32::MAX } else { number(to)? }),
        }
    };
    text.split(',').map(one).collect()
}
