//! `dict page`: features over a data set as one page, as a folder, or as the data that the page draws.

use std::ops::Range;
use std::path::{Path, PathBuf};

use easyroutine_view::features::{Feature, FeaturesReport, File, Folder, html, number, page_data};
use serde_json::Value;

use super::feature_lines;
use crate::args::{Args, DictPage, Format};
use crate::failure::{Failure, one_line};
use crate::output::{self, Destination};

/// Where the result goes.
enum To {
    Files(Vec<Destination>),
    Folder(PathBuf),
}

pub(crate) fn run(args: &Args, page: &DictPage) -> Result<(), Failure> {
    let to = to(args)?;
    refuse_folder(&page.file)?;
    let wanted = page.features.as_deref().map(|text| numbers("--features", text)).transpose()?;
    let mut report = about(page);
    match to {
        To::Files(targets) => {
            each(page, wanted.as_deref(), |feature| {
                report.features.push(feature);
                Ok(())
            })?;
            for target in &targets {
                let text = match target.format {
                    Format::Json => page_data(&report).map(|data| data.to_string() + "\n"),
                    _ => html(&report),
                };
                let text =
                    text.map_err(|e| Failure::from(e).hint("a folder holds all of them: -o features/"))?;
                output::write(target, text.as_bytes())?;
            }
            Ok(())
        }
        To::Folder(at) => folder(page, wanted.as_deref(), &report, &at),
    }
}

/// A path that is a folder or ends with a slash means a folder. It may hold an earlier page, but nothing else.
fn to(args: &Args) -> Result<To, Failure> {
    let is_folder = |path: &PathBuf| {
        path.is_dir() || path.as_os_str().to_string_lossy().ends_with(std::path::is_separator)
    };
    let Some(one) = args.output.iter().find(|path| is_folder(path)) else {
        return output::targets(args, &[Format::Html, Format::Html, Format::Json]).map(To::Files);
    };
    if args.output.len() > 1 {
        return Err(Failure::usage(format!("{} is a folder, so it is the only result", one.display()))
            .hint("give -o once"));
    }
    if !matches!(args.format, Format::Auto | Format::Html) {
        return Err(Failure::usage("--format: a folder of features is HTML").hint("leave --format out"));
    }
    let mut entries = std::fs::read_dir(one).into_iter().flatten().filter_map(Result::ok);
    match entries.find(|entry| entry.file_name() != "index.html" && entry.file_name() != "chunks") {
        None => Ok(To::Folder(one.clone())),
        Some(other) => Err(Failure::usage(format!(
            "{} holds `{}`, which is not part of such a page",
            one.display(),
            one_line(&other.file_name().to_string_lossy())
        ))
        .hint("name a new folder")),
    }
}

/// Writes a folder, its index last: a folder with an index is complete.
fn folder(
    page: &DictPage,
    wanted: Option<&[Range<u32>]>,
    report: &FeaturesReport,
    at: &Path,
) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::failed(format!("{}: {e}", at.display()));
    for earlier in [at.join("index.html"), at.join("chunks")] {
        let removed =
            if earlier.is_dir() { std::fs::remove_dir_all(&earlier) } else { std::fs::remove_file(&earlier) };
        removed
            .or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(failed(e)) })?;
    }
    std::fs::create_dir_all(at.join("chunks")).map_err(failed)?;
    let write = |file: &File| output::replace(&at.join(&file.name), |to| std::fs::write(to, &file.text));
    let mut folder = Folder::default();
    let mut n = 0usize;
    each(page, wanted, |feature| {
        n += 1;
        folder.add(&feature).iter().try_for_each(write)
    })?;
    folder.finish(report).iter().try_for_each(write)?;
    output::note("wrote", &format!("{n} features; open {}", at.join("index.html").display()));
    Ok(())
}

/// Visits the wanted features.
fn each(
    page: &DictPage,
    wanted: Option<&[Range<u32>]>,
    mut visit: impl FnMut(Feature) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut found = false;
    feature_lines::each(&page.file, "dict page", |line| {
        let wrong = |e: easyroutine_view::Error| Failure::failed(e.to_string());
        // Of a skipped line only the number is read, so that one feature of many is found quickly.
        if let Some(ranges) = wanted {
            let number = number(line).map_err(wrong)?;
            if !ranges.iter().any(|range| range.contains(&number)) {
                return Ok(());
            }
        }
        let mut feature = Feature::from_json(line).map_err(wrong)?;
        if wanted.is_none() && feature.count == 0 {
            return Ok(());
        }
        feature.top.truncate(page.examples as usize);
        feature.drawn.truncate(page.examples as usize);
        found = true;
        visit(feature)
    })?;
    match found {
        true => Ok(()),
        false => Err(Failure::usage(format!("{}: none of these features is there", page.file.display()))),
    }
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

/// A report without features: its title, and facts from the file next to the lines.
fn about(page: &DictPage) -> FeaturesReport {
    let title = page.file.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let mut report = FeaturesReport { title, ..FeaturesReport::default() };
    let beside = std::fs::read(page.file.with_extension("json")).ok();
    let Some(about) = beside.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) else {
        return report;
    };
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
    report
}

/// `12, 0:500`
pub(super) fn numbers(flag: &str, text: &str) -> Result<Vec<Range<u32>>, Failure> {
    let one = |part: &str| {
        let part = part.trim();
        let wrong =
            || Failure::usage(format!("{flag}: `{}` is neither a number nor a range", one_line(part)));
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        match part.split_once(':') {
            None => number(part).map(|n| n..n.saturating_add(1)),
            Some((from, to)) => Ok(number(from)?..if to.is_empty() { u32::MAX } else { number(to)? }),
        }
    };
    text.split(',').map(one).collect()
}
