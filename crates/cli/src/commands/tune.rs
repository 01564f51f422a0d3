//! `tune`: trains a tuned lens.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use easyroutine::prompts;
use easyroutine::tune::{Optimiser, Tuning, save_tuned_lens, shuffled, tuned_lens_config, tuning_settings};
use easyroutine::{ErrorKind, Stop};
use serde_json::Value;

use crate::args::{Args, Format, OptimiserArg, Tune};
use crate::failure::Failure;
use crate::output;
use crate::progress::{self, Counted};
use crate::reading::no_conversation;
use crate::session;

/// Minimum time between writes of the state.
const PAUSE: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &Args, tune: &Tune) -> Result<(), Failure> {
    let folder = match (args.output.as_slice(), args.format) {
        ([folder], Format::Auto) if !folder.is_file() => folder.as_path(),
        _ => return Err(Failure::usage("a tuned lens is written to one folder").hint("name it: -o lens/")),
    };
    let state = folder.join("state.safetensors");
    if !tune.resume && (state.exists() || folder.join("params.pt").exists()) {
        return Err(Failure::usage(format!("{}: holds a lens already", folder.display()))
            .hint("--resume continues a stopped training; else name another folder"));
    }
    if tune.resume && !state.exists() && folder.join("params.pt").exists() {
        return Err(Failure::usage(format!(
            "{}: its lens is finished, so there is nothing to resume",
            folder.display()
        ))
        .hint("name another folder to train anew"));
    }
    let name = if tune.optimiser == OptimiserArg::Sgd { "sgd" } else { "adam" };
    let optimiser = Optimiser::from_name(name, tune.rate)?;
    let prompts = tune.reading.read(&tune.file)?;
    let session = session::load(&tune.model.model, &tune.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &tune.model.loading.finding)?;
    let model = &session.model;
    let context = model.arch().context.min(tune.tokens.map_or(usize::MAX, |n| n as usize));
    let mut cutting = tune.cutting.clone();
    // A deliberately truncated prompt is not too long.
    cutting.truncate |= tune.tokens.is_some();
    let ids = |(number, prompt)| -> Result<Vec<u32>, Failure> {
        let mut ids = match prompt {
            prompts::Prompt::Ids(ids) => ids,
            prompts::Prompt::Messages(_) => {
                return Err(no_conversation().at(format!("{}: prompt {number}", tune.file.display())));
            }
            prompts::Prompt::Text(text) => {
                let cut = cutting.row(text, &tokenizer, context);
                cut.map_err(|f| f.at(format!("{}: prompt {number}", tune.file.display())))?.encoded.ids
            }
        };
        ids.truncate(context);
        Ok(ids)
    };
    let rows = prompts.prompts.into_iter().enumerate().map(ids).collect::<Result<Vec<_>, _>>()?;
    let settings = tuning_settings(session.identity.digest()?, &rows, tune.rows as usize, tune.seed);
    let mut tuning = match tune.resume && state.exists() {
        true => {
            let tuning = Tuning::resume(model, &state, optimiser, tune.steps, &settings)?;
            output::note("note", &format!("continues after step {}", tuning.done));
            tuning
        }
        false => Tuning::new(model, optimiser, tune.steps)?,
    };
    std::fs::create_dir_all(folder).map_err(|e| Failure::failed(format!("{}: {e}", folder.display())))?;
    let stopped = progress::stopped()?;
    let stop = || stopped.load(Ordering::Relaxed);
    let keep = |tuning: &Tuning| {
        output::replace(&state, |at| tuning.write_state(&settings, &mut BufWriter::new(File::create(at)?)))
    };
    let bar = Counted::new("steps");
    let mut kept = Instant::now();
    let (mut first, mut last) = (None, None);
    while tuning.done < tuning.steps {
        let order = shuffled(rows.len(), tune.rows as usize, tune.seed, tuning.done);
        let some: Vec<&[u32]> = order.into_iter().map(|row| rows[row].as_slice()).collect();
        let made = tuning.step(model, &some, Stop::When(&stop));
        let made = match made {
            Err(e) if e.kind() == ErrorKind::Interrupted => {
                bar.finish();
                keep(&tuning)?;
                return Err(Failure::from(e).hint(format!("--resume continues after step {}", tuning.done)));
            }
            made => made?,
        };
        let loss = made.losses.iter().sum::<f64>() / made.losses.len() as f64;
        bar.say(format!("KL {loss:.4} nats a layer"));
        bar.tell(tuning.done, tuning.steps)?;
        first.get_or_insert(loss);
        last = Some(loss);
        if kept.elapsed() >= PAUSE {
            keep(&tuning)?;
            kept = Instant::now();
        }
    }
    bar.finish();
    save(folder, &tuning, &tuned_lens_config(model, &session.files.name, session.files.commit.as_deref())?)?;
    if let Err(e) = std::fs::remove_file(&state)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        return Err(Failure::failed(format!("{}: {e}", state.display())));
    }
    if let (Some(first), Some(last)) = (first, last) {
        let text = format!(
            "KL to the model's own prediction, mean over layers: {first:.4} nats before, {last:.4} at the last step"
        );
        output::note("tuned", &text);
    }
    Ok(())
}

fn save(folder: &Path, tuning: &Tuning, config: &Value) -> Result<(), Failure> {
    let params = save_tuned_lens(tuning)?;
    output::replace(&folder.join("params.pt"), |at| std::fs::write(at, &params))?;
    let config = serde_json::to_string_pretty(config).unwrap_or_default() + "\n";
    output::replace(&folder.join("config.json"), |at| std::fs::write(at, &config))
}
