//! `jacobian`: fits Jacobian lenses, in one run or in parts.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use easyroutine::jacobian::{FitOptions, JacobianSums};
use easyroutine::prompts;
use easyroutine::{ErrorKind, Stop};
use serde_json::{Value, json};

use crate::args::{Args, Fit, Format, Merge};
use crate::failure::Failure;
use crate::output;
use crate::progress::{self, Counted};
use crate::reading::no_conversation;
use crate::session;

/// The part that covers all prompts.
const WHOLE: &str = "1/1";

/// Minimum time between writes of the file, which is large.
const PAUSE: Duration = Duration::from_secs(60);

pub(crate) fn fit(args: &Args, fit: &Fit) -> Result<(), Failure> {
    let file = file(args)?;
    if fit.resume && is_torch(file) {
        return Err(Failure::usage("--resume: a .pt file does not hold exact sums")
            .hint("fit into a .safetensors file; it is read as well"));
    }
    let prompts = fit.reading.read(&fit.file)?;
    let session = session::load(&fit.model.model, &fit.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &fit.model.loading.finding)?;
    let model = &session.model;
    let digest = session.identity.digest()?.to_owned();
    let options = FitOptions { skip_first: fit.skip_first, ..FitOptions::default() };
    let (mut sums, mut next) = match (&fit.from, fit.resume && file.exists()) {
        (Some(from), _) => {
            let (sums, description) = JacobianSums::read(from)?;
            (sums, description["next"].as_u64().unwrap_or(0) as usize)
        }
        (None, true) => {
            let (sums, description) = JacobianSums::read(file)?;
            let ours = [json!(digest), json!(part(fit)), json!(fit.tokens)];
            if ["model_digest", "part", "tokens"].map(|key| description[key].clone()) != ours {
                return Err(Failure::usage(format!(
                    "{}: was begun with another model or part, or with other --tokens",
                    file.display()
                )));
            }
            (sums, description["next"].as_u64().unwrap_or(0) as usize)
        }
        (None, false) => (JacobianSums::new(model.arch(), options)?, 0),
    };
    if sums.options != options
        || sums.d_model != model.arch().d_model
        || sums.n_layers() + 1 != model.arch().layers.len()
    {
        return Err(Failure::usage("the sums to go on from are of another model or of another --skip-first"));
    }
    let stopped = progress::stopped()?;
    let stop = || stopped.load(Ordering::Relaxed);
    let context = model.arch().context.min(fit.tokens.map_or(usize::MAX, |n| n as usize));
    let all = prompts.prompts.len();
    let bar = Counted::new("rows");
    let mut kept = Instant::now();
    let description = |sums: &JacobianSums, next: usize| {
        let mut description = sums.description();
        description["model_digest"] = json!(digest);
        description["part"] = json!(part(fit));
        description["next"] = json!(next);
        description["tokens"] = json!(fit.tokens);
        description
    };
    for (number, prompt) in prompts.prompts.into_iter().enumerate().skip(next) {
        let is_ours = fit.part.is_none_or(|share| number % share.of + 1 == share.number);
        if is_ours {
            let mut ids = match prompt {
                prompts::Prompt::Ids(ids) => ids,
                prompts::Prompt::Messages(_) => {
                    return Err(no_conversation().at(format!("{}: prompt {number}", fit.file.display())));
                }
                prompts::Prompt::Text(text) => {
                    let mut cutting = fit.cutting.clone();
                    // A deliberately truncated prompt is not too long.
                    cutting.truncate |= fit.tokens.is_some();
                    let cut = cutting.row(text, &tokenizer, context);
                    cut.map_err(|f| f.at(format!("{}: prompt {number}", fit.file.display())))?.encoded.ids
                }
            };
            ids.truncate(context);
            bar.say(format!("prompt {}/{all}{}", number + 1, uncertainty(&sums)));
            let added = sums.add(model, &ids, Stop::When(&stop), |done, of| {
                bar.tell(done, of)?;
                Ok(())
            });
            match added {
                Err(e) if e.kind() == ErrorKind::Interrupted => {
                    bar.finish();
                    if is_torch(file) {
                        return Err(Failure::from(e).hint(
                            "nothing is kept: only a fit into a .safetensors file can be gone on with",
                        ));
                    }
                    write(file, &sums, &description(&sums, next))?;
                    return Err(Failure::from(e).hint(format!("--resume continues after prompt {next}")));
                }
                added => added?,
            }
        }
        next = number + 1;
        if kept.elapsed() >= PAUSE && !is_torch(file) {
            write(file, &sums, &description(&sums, next))?;
            kept = Instant::now();
        }
    }
    bar.finish();
    finish(file, &sums, &description(&sums, next))
}

pub(crate) fn merge(args: &Args, merge: &Merge) -> Result<(), Failure> {
    let file = file(args)?;
    let mut merged: Option<(JacobianSums, Value)> = None;
    let mut parts: Vec<String> = Vec::new();
    let of = |part: &str| part.rsplit('/').next().map(str::to_owned);
    for path in &merge.parts {
        let (sums, description) = JacobianSums::read(path)?;
        // A file that does not mention parts covers all its prompts.
        for part in description["part"].as_str().unwrap_or(WHOLE).split(',') {
            let twice = |what: &str| {
                let failure = Failure::usage(format!("{}: its part {part} is {what}", path.display()));
                Err(failure.hint("prompts would count twice"))
            };
            if parts.iter().any(|other| other == part) {
                return twice("there already");
            }
            if let Some(other) = parts.first().filter(|other| of(other) != of(part)) {
                return twice(&format!("not of the same division as {other}"));
            }
            parts.push(part.to_owned());
        }
        match &mut merged {
            None => merged = Some((sums, description)),
            Some((all, first)) => {
                if first["model_digest"] != description["model_digest"]
                    || first["tokens"] != description["tokens"]
                {
                    return Err(Failure::usage(format!(
                        "{}: is of another model or of prompts cut otherwise",
                        path.display()
                    )));
                }
                if first["next"] != description["next"] {
                    let text = format!("{}: went through another number of prompts", path.display());
                    return Err(Failure::usage(text).hint("end each part first: jacobian fit --resume"));
                }
                all.merge(&sums).map_err(|e| Failure::from(e).at(path.display()))?;
            }
        }
    }
    let Some((sums, first)) = merged else { return Ok(()) };
    let mut description = sums.description();
    description["model_digest"] = first["model_digest"].clone();
    // An incomplete set is not a whole: the other parts can be merged into it.
    let is_whole = parts.first().and_then(|part| of(part)) == Some(parts.len().to_string());
    parts.sort();
    description["part"] = if is_whole { json!(WHOLE) } else { json!(parts.join(",")) };
    if !is_whole {
        output::note("warning", &format!("these are only parts {}", parts.join(", ")));
    }
    // Every part walks the whole file and takes its own prompts.
    description["next"] = first["next"].clone();
    description["tokens"] = first["tokens"].clone();
    finish(file, &sums, &description)
}

fn part(fit: &Fit) -> String {
    fit.part.map_or(WHOLE.to_owned(), |share| format!("{}/{}", share.number, share.of))
}

fn file(args: &Args) -> Result<&PathBuf, Failure> {
    let ends = |file: &PathBuf| file.extension().is_some_and(|e| e == "safetensors" || e == "pt");
    match (args.output.as_slice(), args.format) {
        ([file], Format::Auto) if ends(file) => output::folder_exists(file).map(|()| file),
        _ => Err(Failure::usage("a Jacobian lens is written to one file")
            .hint("name it: -o j.safetensors; or -o j.pt, as lenses are published")),
    }
}

fn is_torch(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == "pt")
}

/// The uncertainty of the mean, over all layers.
fn uncertainty(sums: &JacobianSums) -> String {
    let Some(of_layers) = sums.uncertainty() else { return String::new() };
    let most = of_layers.iter().fold(0.0_f64, |most, x| most.max(*x));
    format!(", standard error {:.1} % of the mean", most * 100.0)
}

fn write(file: &Path, sums: &JacobianSums, description: &Value) -> Result<(), Failure> {
    match is_torch(file) {
        true => {
            let bytes = sums.to_torch()?;
            output::replace(file, |at| std::fs::write(at, &bytes))
        }
        false => output::replace(file, |at| sums.write(description, &mut BufWriter::new(File::create(at)?))),
    }
}

fn finish(file: &Path, sums: &JacobianSums, description: &Value) -> Result<(), Failure> {
    let shortest = sums.options.skip_first + sums.options.skip_last + 1;
    if sums.n_prompts == 0 {
        return Err(Failure::usage(format!("no prompt has {shortest} tokens or more, so none counts"))
            .hint("give longer prompts, or --skip-first fewer positions"));
    }
    if sums.n_short > 0 {
        output::note(
            "warning",
            &format!("{} prompts have fewer than {shortest} tokens and do not count", sums.n_short),
        );
    }
    write(file, sums, description)?;
    let of_layers = sums.uncertainty().unwrap_or_default();
    let shown: Vec<String> = of_layers.iter().map(|x| format!("{:.1}", x * 100.0)).collect();
    let text = match shown.is_empty() {
        true => format!("{} prompts", sums.n_prompts),
        false => {
            format!("{} prompts; standard error of each layer's mean, %: {}", sums.n_prompts, shown.join(" "))
        }
    };
    output::note("fit", &text);
    Ok(())
}
