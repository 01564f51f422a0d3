//! `jacobian`: fits Jacobian lenses, in one run or in parts.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use easyroutine::jacobian::{FitOptions, JacobianFit, JacobianSums, Part};
use easyroutine::prompts;
use easyroutine::tokens::Tokenizer;
use easyroutine::{ErrorKind, Stop};

use crate::args::{Args, Cutting, Fit, Format, Merge};
use crate::failure::Failure;
use crate::output;
use crate::progress::{self, Counted};
use crate::reading::no_conversation;
use crate::session;

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
    let part = fit.part.map_or(Part::WHOLE, |share| Part { of: share.of, number: share.number });
    let begun = fit.from.as_ref().or(Some(file).filter(|file| fit.resume && file.exists()));
    let mut fitted = match begun {
        Some(begun) => JacobianFit::resume(begun, model.arch(), options, &digest, part)?,
        None => JacobianFit::new(model.arch(), options, &digest, part)?,
    };
    let stopped = progress::stopped()?;
    let stop = || stopped.load(Ordering::Relaxed);
    let context = model.arch().context.min(fit.tokens.map_or(usize::MAX, |n| n as usize));
    let mut cutting = fit.cutting.clone();
    // A deliberately truncated prompt is not too long.
    cutting.truncate |= fit.tokens.is_some();
    let all = prompts.prompts.len();
    let bar = Counted::new("rows");
    let mut kept = Instant::now();
    for (number, prompt) in prompts.prompts.into_iter().enumerate() {
        let ids = ids(prompt, &cutting, &tokenizer, context)
            .map_err(|f| f.at(format!("{}: prompt {number}", fit.file.display())))?;
        bar.say(format!("prompt {}/{all}{}", number + 1, uncertainty(fitted.sums())));
        let added = fitted.add(model, &ids, Stop::When(&stop), |done, of| {
            bar.tell(done, of)?;
            Ok(())
        });
        match added {
            Err(e) if e.kind() == ErrorKind::Interrupted => {
                bar.finish();
                if is_torch(file) {
                    return Err(Failure::from(e)
                        .hint("nothing is kept: only a fit into a .safetensors file can be gone on with"));
                }
                write(file, &fitted)?;
                let covered = fitted.covered();
                return Err(Failure::from(e).hint(format!("--resume continues after prompt {covered}")));
            }
            added => added?,
        }
        if kept.elapsed() >= PAUSE && !is_torch(file) {
            write(file, &fitted)?;
            kept = Instant::now();
        }
    }
    bar.finish();
    fitted.finish()?;
    finish(file, &fitted)
}

/// The ids of a prompt.
fn ids(
    prompt: prompts::Prompt,
    cutting: &Cutting,
    tokenizer: &Tokenizer,
    context: usize,
) -> Result<Vec<u32>, Failure> {
    let mut ids = match prompt {
        prompts::Prompt::Ids(ids) => ids,
        prompts::Prompt::Messages(_) => return Err(no_conversation()),
        prompts::Prompt::Text(text) => cutting.row(text, tokenizer, context)?.encoded.ids,
    };
    ids.truncate(context);
    Ok(ids)
}

pub(crate) fn merge(args: &Args, merge: &Merge) -> Result<(), Failure> {
    let file = file(args)?;
    let mut merged: Option<JacobianFit> = None;
    for path in &merge.parts {
        let part = JacobianFit::read(path)?;
        match &mut merged {
            None => merged = Some(part),
            Some(all) => all.merge(&part).map_err(|e| Failure::from(e).at(path.display()))?,
        }
    }
    let Some(merged) = merged else { return Ok(()) };
    // An incomplete set is not a whole: the other parts can be merged into it.
    if merged.parts() != [Part::WHOLE] {
        let parts: Vec<String> = merged.parts().iter().map(Part::to_string).collect();
        output::note("warning", &format!("these are only parts {}", parts.join(", ")));
    }
    merged.check_counts()?;
    finish(file, &merged)
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

fn write(file: &Path, fitted: &JacobianFit) -> Result<(), Failure> {
    match is_torch(file) {
        true => {
            let bytes = fitted.sums().to_torch()?;
            output::replace(file, |at| std::fs::write(at, &bytes))
        }
        false => output::replace(file, |at| fitted.write(&mut BufWriter::new(File::create(at)?))),
    }
}

fn finish(file: &Path, fitted: &JacobianFit) -> Result<(), Failure> {
    let sums = fitted.sums();
    if sums.n_short > 0 {
        let (n, shortest) = (sums.n_short, sums.options.shortest());
        output::note("warning", &format!("{n} prompts have fewer than {shortest} tokens and do not count"));
    }
    write(file, fitted)?;
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
