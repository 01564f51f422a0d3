//! `attn`: which tokens each head looks at.

use easyroutine::cache::ActivationCache;
use easyroutine::positions::{Context, Specifier};
use easyroutine::request::Request;
use easyroutine::sites::{Point, Selector};
use easyroutine::tokens::Tokenizer;
use easyroutine::{Batch, Error};
use easyroutine_view::attention::{
    self as view, AttentionReport, HeadPattern, PictureOptions, Schema, Sink, TerminalOptions,
};
use easyroutine_view::lens::{ModelCard, Token};

use super::dtype_name;
use crate::args::{Args, Attn, Format};
use crate::changes;
use crate::failure::Failure;
use crate::output::{self, DRAWN, Target};
use crate::session::{self, Prompt, Session, token_text};

pub(crate) fn run(args: &Args, attn: &Attn) -> Result<(), Failure> {
    let targets = output::targets(args, DRAWN)?;
    let interventions = attn.changes.read()?;
    let selector = selector(attn)?;
    let session = session::load(&attn.model.model, &attn.model.loading)?;
    let tokenizer = session::tokenizer(&session.files)?;
    let request =
        Request { activations: vec![selector], positions: vec![Specifier::All], ..Request::default() };
    request.points(session.model.arch())?;
    let prompt = attn.prompt.read(&tokenizer, session.model.arch().context)?;
    let edits = changes::of_prompt(&interventions, &session.model, &prompt, &tokenizer)?;
    let batch = Batch::new(&[&prompt.encoded.ids])?;
    let cache = request.run_under(&session.model, &batch, &[prompt.row()], Context::default(), edits)?;
    let report = report(attn, &cache, &session, &tokenizer, &prompt);
    for target in &targets {
        output::write(target, &drawn(args, attn, target, &report)?)?;
    }
    Ok(())
}

/// The heads that are asked for: every number, range or all of them.
fn selector(attn: &Attn) -> Result<Selector, Failure> {
    let given = |text: &Option<String>| text.as_deref().unwrap_or("*").trim().to_owned();
    let text = format!("pattern_L{}H{}", given(&attn.layer), given(&attn.head));
    text.parse().map_err(|_| {
        let error = Error::input(format!(
            "--layer {} --head {} names no heads",
            given(&attn.layer),
            given(&attn.head)
        ));
        Failure::from(error.hint("both take a number, -1 for the last, or a range such as 4:9 (4 to 8)"))
    })
}

fn report(
    attn: &Attn,
    cache: &ActivationCache,
    session: &Session,
    tokenizer: &Tokenizer,
    prompt: &Prompt,
) -> AttentionReport {
    let arch = session.model.arch();
    let n = prompt.encoded.ids.len();
    let head = |(key, kept): (&str, &easyroutine::cache::Kept)| {
        let point: Point = key.parse().ok()?;
        let seen = |(query, row): (usize, &[f32])| row[..=query].to_vec();
        let weights = kept.values().chunks(n).enumerate().map(seen).collect();
        Some(HeadPattern { layer: point.layer()?, head: point.head()?, weights })
    };
    let token = |(position, id): (usize, &u32)| Token { position, id: *id, text: token_text(tokenizer, *id) };
    AttentionReport {
        schema: Schema,
        model: ModelCard {
            name: session.files.name.clone(),
            commit: session.files.commit.clone(),
            model_type: session.model_type.to_owned(),
            n_layers: arch.layers.len(),
            d_model: arch.d_model,
            vocab_size: arch.vocabulary,
            dtype: dtype_name(session.model.dtype()).to_owned(),
        },
        bos: prompt.encoded.starts_with_bos,
        interventions: attn.changes.intervene.clone(),
        tokens: prompt.encoded.ids.iter().enumerate().map(token).collect(),
        heads: cache.iter().filter_map(head).collect(),
    }
}

fn drawn(args: &Args, attn: &Attn, target: &Target, report: &AttentionReport) -> Result<Vec<u8>, Failure> {
    let sink = if attn.hide_first { Sink::Hidden } else { Sink::Shown };
    let picture = PictureOptions { sink, dark: attn.dark, ..PictureOptions::default() };
    Ok(match target.format {
        Format::Json | Format::Jsonl => (view::json(report)? + "\n").into_bytes(),
        Format::Tsv => view::tsv(report).into_bytes(),
        Format::Csv => view::csv(report).into_bytes(),
        Format::Md => view::markdown(report).into_bytes(),
        Format::Html => view::html(report, sink)?.into_bytes(),
        Format::Svg => view::svg(report, &picture).into_bytes(),
        Format::Png => view::png(report, &picture)?,
        _ => {
            let colour = output::colour_depth(args, target);
            view::terminal(report, &TerminalOptions { width: output::width(), colour, sink }).into_bytes()
        }
    })
}
