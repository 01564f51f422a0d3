//! `dict page`: features over a data set as a page.

use easyroutine_view::features::{Feature, FeaturesReport, html};
use serde_json::Value;

use super::feature_lines;
use crate::args::{Args, DictPage, Format};
use crate::failure::{Failure, one_line};
use crate::output;

pub(crate) fn run(args: &Args, page: &DictPage) -> Result<(), Failure> {
    let targets = output::targets(args, &[Format::Html, Format::Html])?;
    let wanted = page.features.as_deref().map(numbers).transpose()?;
    let place = page.file.display().to_string();
    let mut report = FeaturesReport::default();
    feature_lines::each(&page.file, "dict page", |line| {
        let mut feature = Feature::from_json(line).map_err(|e| Failure::failed(e.to_string()))?;
        let is_wanted = match &wanted {
            Some(ranges) => ranges.iter().any(|range| range.contains(&feature.feature)),
            None => feature.count > 0,
        };
        if is_wanted {
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
    let text = html(&report)?;
    for target in &targets {
        output::write(target, text.as_bytes())?;
    }
    Ok(())
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
