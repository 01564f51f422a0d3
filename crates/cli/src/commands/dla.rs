//! `dla`: direct logit attribution by part, head or neuron.

use easyroutine::dla::{By, Direct, Direction, accumulated, direct_attribution};
use easyroutine::lens::LensNorm;
use easyroutine::patching::Metric;
use easyroutine::positions::{Context, Specifier};
use easyroutine_app::reports::{self, BarsWords, metric_words};
use easyroutine_view::bars as view;
use serde_json::json;

use super::sweep::predictions;
use crate::args::{Args, CutArg, Dla, Format, NormArg};
use crate::changes;
use crate::failure::Failure;
use crate::output::{self, Cell, DRAWN};
use crate::session::{self, Prompt, token_text};

/// One contribution at one position.
struct Share {
    name: String,
    neuron: Option<usize>,
    position: usize,
    value: f64,
}

pub(crate) fn run(args: &Args, dla: &Dla) -> Result<(), Failure> {
    if dla.norm.is_some() && dla.by != CutArg::Stream {
        return Err(
            Failure::usage("--norm is for --by stream").hint("shares have the last stream's statistics")
        );
    }
    if let Some(pairs) = &dla.prompt.pairs {
        return super::dla_pairs::run(args, dla, pairs);
    }
    let targets = output::targets(args, DRAWN)?;
    let is_drawn = |format: Format| matches!(format, Format::Html | Format::Svg | Format::Png);
    if dla.by == CutArg::Stream && targets.iter().any(|target| is_drawn(target.format)) {
        return Err(Failure::usage("--by stream is a table: the lens draws streams")
            .hint("easyroutine lens … --track TOKEN"));
    }
    let interventions = dla.changes.read(&dla.model.loading.finding)?;
    let positions = Specifier::parse_lists(&dla.positions)?;
    let session = session::load(&dla.model.model, &dla.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &dla.model.loading.finding)?;
    let prompt = dla.prompt.one().read(&tokenizer, session.model.arch().context)?;
    let answer = match session::token_named("--answer", &dla.answer, &tokenizer)? {
        Some(answer) => answer,
        None => predictions(&session.model, &prompt)?[0],
    };
    let against = session::token_named("--against", &dla.against, &tokenizer)?;
    let seed = dla.changes.seed;
    let edits = changes::of_prompt(&interventions, &session, &prompt, &tokenizer, seed)?;
    let context = Context { special: tokenizer.special_ids(), seed, ..Context::default() };
    let by = match dla.by {
        // Streams are listed in order, like parts, and not summed.
        CutArg::Part | CutArg::Stream => By::Part,
        CutArg::Head => By::Head,
        CutArg::Neuron => By::Neuron,
    };
    let directions = [Direction { answer, against }];
    let is_stream = dla.by == CutArg::Stream;
    let (model, own) = (&session.model, [prompt.row()]);
    let found = match is_stream {
        true => {
            let norm = match dla.norm.unwrap_or(NormArg::Own) {
                NormArg::Own => LensNorm::Own,
                NormArg::Cached => LensNorm::Cached,
                NormArg::None => LensNorm::None,
            };
            accumulated(model, &own, &directions, &positions, norm, context, edits)?
        }
        false => direct_attribution(model, &own, &directions, &positions, by, context, edits)?,
    };
    let text = |id: u32| token_text(&tokenizer, id);
    let metric = match against {
        Some(against) => Metric::LogitDiff { answer, against },
        None => Metric::Logit { token: answer },
    };
    let words = metric_words(metric, &|id| format!("{:?}", text(id)), ["", ""]);
    tell_sums(&found, by, is_stream, &words);
    let shares = shares(&found, by, is_stream, dla.k as usize);
    let token = |position: usize| prompt.encoded.ids.get(position).map_or(String::new(), |id| text(*id));
    let list: Vec<_> = shares
        .iter()
        .map(|share| {
            json!({"component": share.name, "neuron": share.neuron, "position": share.position, "value": share.value})
        })
        .collect();
    let indices = &found.selection.rows[0].indices;
    let totals: Vec<_> = indices
        .iter()
        .zip(found.logit_diff.row(0))
        .map(|(position, value)| json!({"position": position, "token": token(*position), "value": value}))
        .collect();
    let json = json!({
        "schema": "easyroutine.dla/1",
        "model": session.model_json(),
        "answer": answer,
        "against": against,
        "interventions": dla.changes.intervene,
        "dictionaries": interventions.dictionaries.record(),
        "logit_diff": totals,
        "bias": found.bias[0],
        "contributions": list,
    });
    let rows = rows(&shares, by == By::Part && !is_stream, &prompt, &text);
    let picture = || {
        if indices.len() != 1 {
            return Err(Failure::usage("a picture is of one position").hint("name it: --positions last"));
        }
        let meaning = match against {
            Some(against) => [answer, against].map(|id| format!("towards {:?}", text(id))),
            None => [format!("towards {:?}", text(answer)), "away from it".to_owned()],
        };
        let words = BarsWords {
            model: session.files.name.clone(),
            metric: words.clone(),
            prompt: prompt.text.clone(),
            meaning,
            neurons: dla.k as usize,
        };
        Ok(reports::bars(model, &found, by, 0, words))
    };
    for target in &targets {
        let drawn = match target.format {
            Format::Html => Some(view::html(&picture()?).into_bytes()),
            Format::Svg => Some(view::svg(&picture()?).into_bytes()),
            Format::Png => Some(view::png(&picture()?, 2.0)?),
            _ => None,
        };
        if let Some(drawn) = drawn {
            output::write(target, &drawn)?;
            continue;
        }
        let header = ["component", "position", "token", "contribution", "running_sum"];
        let header = if by == By::Part && !is_stream { &header[..] } else { &header[..4] };
        output::write(target, output::render(target.format, header, &rows, &json)?.as_bytes())?;
    }
    Ok(())
}

/// Prints the sum of the contributions, and the value that it should equal.
fn tell_sums(found: &Direct, by: By, is_stream: bool, words: &str) {
    let indices = &found.selection.rows[0].indices;
    for (t, (position, whole)) in indices.iter().zip(found.logit_diff.row(0)).enumerate() {
        let text = match by {
            By::Part if !is_stream => {
                let parts = found.contributions.iter().map(|(_, kept)| f64::from(kept.row(0)[t]));
                let sum: f64 = parts.sum::<f64>() + found.bias[0];
                format!("{words} at {position} = {whole:.4}; parts and bias sum to {sum:.4}")
            }
            _ => format!("{words} at {position} = {whole:.4}"),
        };
        output::note("sum", &text);
    }
}

/// Contributions in the order listed: parts in order with the bias first, others by size.
fn shares(found: &Direct, by: By, is_stream: bool, most: usize) -> Vec<Share> {
    let indices = &found.selection.rows[0].indices;
    let mut shares = Vec::new();
    for (t, position) in indices.iter().enumerate() {
        let mut here = Vec::new();
        if by == By::Part && !is_stream {
            here.push(Share {
                name: "bias".to_owned(),
                neuron: None,
                position: *position,
                value: found.bias[0],
            });
        }
        for (name, kept) in &found.contributions {
            let is_neurons = kept.row_shapes[0].len() == 2;
            let width = if is_neurons { kept.row_shapes[0][1] } else { 1 };
            for (i, value) in kept.row(0)[t * width..(t + 1) * width].iter().enumerate() {
                let neuron = is_neurons.then_some(i);
                here.push(Share {
                    name: name.clone(),
                    neuron,
                    position: *position,
                    value: f64::from(*value),
                });
            }
        }
        if by != By::Part {
            here.sort_by(|a, b| b.value.abs().total_cmp(&a.value.abs()));
            here.truncate(most);
        }
        shares.extend(here);
    }
    shares
}

fn rows(shares: &[Share], is_summed: bool, prompt: &Prompt, text: &dyn Fn(u32) -> String) -> Vec<Vec<Cell>> {
    let (mut sum, mut at) = (0.0, None);
    let row = |share: &Share| {
        if at != Some(share.position) {
            (sum, at) = (0.0, Some(share.position));
        }
        sum += share.value;
        let name = share.neuron.map_or(share.name.clone(), |neuron| format!("{}:{neuron}", share.name));
        let token = prompt.encoded.ids.get(share.position).map_or(String::new(), |id| text(*id));
        let mut row = vec![
            name.into(),
            Cell::new(share.position.to_string(), share.position),
            Cell::token(&token),
            Cell::new(format!("{:.4}", share.value), share.value),
        ];
        if is_summed {
            row.push(Cell::new(format!("{sum:.4}"), sum));
        }
        row
    };
    shares.iter().map(row).collect()
}
