//! Draws a saved report: `page REPORT.json OUT.html|svg|png|txt|tsv|csv|md|json [METRIC] [dark]`; the extension selects
//! the format. A report of attention becomes a page, and so does REPORT.jsonl, the features of a dictionary; if OUT ends with a slash, a folder.

use std::process::ExitCode;

use easyroutine_view::attention::{self, AttentionReport, Sink};
use easyroutine_view::features::{Feature, FeaturesReport, File, Folder};
use easyroutine_view::lens::{
    ColourDepth, LensReport, Metric, PictureOptions, TerminalOptions, html, json, markdown, png, svg, table,
    terminal,
};

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn folder(report: &FeaturesReport, at: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(at.join("chunks"))?;
    let mut folder = Folder::default();
    let full: Vec<File> = report.features.iter().filter_map(|feature| folder.add(feature)).collect();
    for file in full.into_iter().chain(folder.finish(report)) {
        std::fs::write(at.join(file.name), file.text)?;
    }
    Ok(())
}

fn run(args: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [input, output, rest @ ..] = args else { return Err("needs REPORT.json and OUT".into()) };
    let text = std::fs::read_to_string(input)?;
    if input.ends_with(".jsonl") {
        let features = text.lines().map(Feature::from_json).collect::<Result<_, _>>()?;
        let report = FeaturesReport { title: "features".to_owned(), facts: Vec::new(), features };
        if output.ends_with('/') {
            return folder(&report, std::path::Path::new(output));
        }
        return Ok(std::fs::write(output, easyroutine_view::features::html(&report)?)?);
    }
    if text.contains(attention::SCHEMA) {
        return Ok(std::fs::write(
            output,
            attention::html(&AttentionReport::from_json(&text)?, Sink::Shown)?,
        )?);
    }
    let report = LensReport::from_json(&text)?;
    let metric = rest.iter().find(|a| *a != "dark").map_or(Ok(Metric::default()), |name| name.parse())?;
    let options =
        PictureOptions { metric, dark: rest.iter().any(|a| a == "dark"), ..PictureOptions::default() };
    let width = std::env::var("COLUMNS").ok().and_then(|w| w.parse().ok()).unwrap_or(120);
    let ending = output.rsplit('.').next().unwrap_or_default();
    let text = |colour| terminal(&report, &TerminalOptions { width, colour, metric });
    let bytes = match ending {
        "html" => html(&report).into_bytes(),
        "svg" => svg(&report, &options).into_bytes(),
        "png" => png(&report, &options)?,
        "ans" => text(ColourDepth::True).into_bytes(),
        "256" => text(ColourDepth::Ansi256).into_bytes(),
        "txt" => text(ColourDepth::None).into_bytes(),
        "tsv" => table(&report).tsv().into_bytes(),
        "csv" => table(&report).csv().into_bytes(),
        "md" => markdown(&report, metric).into_bytes(),
        "json" => json(&report)?.into_bytes(),
        other => return Err(format!("no format `{other}`").into()),
    };
    std::fs::write(output, bytes)?;
    Ok(())
}
