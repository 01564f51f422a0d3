//! `attn`: which tokens each head looks at.

use easyroutine::positions::{Context, Specifier};
use easyroutine::request::Request;
use easyroutine::sites::Selector;
use easyroutine::{Batch, Error};
use easyroutine_view::attention::{self as view, PictureOptions, Sink};
use easyroutine_view::drawing::AttentionDrawing;

use crate::args::{Args, Attn};
use crate::failure::Failure;
use crate::output::{self, DRAWN};
use crate::{changes, hosted, session};
use easyroutine_app::reports;

pub(crate) fn run(args: &Args, attn: &Attn) -> Result<(), Failure> {
    let targets = output::targets(args, DRAWN)?;
    let interventions = attn.changes.read(&attn.model.loading.finding)?;
    let selector = selector(attn)?;
    let session = session::load(&attn.model.model, &attn.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &attn.model.loading.finding)?;
    let request =
        Request { activations: vec![selector], positions: vec![Specifier::All], ..Request::default() };
    request.points(session.model.arch())?;
    let prompt = attn.prompt.read(&tokenizer, session.model.arch().context)?;
    let edits = changes::of_prompt(&interventions, &session, &prompt, &tokenizer, attn.changes.seed)?;
    let batch = Batch::new(&[&prompt.encoded.ids])?;
    let cache = request.run_until(
        &session.model,
        &batch,
        &[prompt.row()],
        Context::default(),
        edits,
        hosted::stop(),
    )?;
    output::warn_of_nan(cache.has_nan(), !interventions.is_empty());
    let subject = session.subject(&tokenizer, &prompt);
    let report = reports::attention(&subject, attn.changes.intervene.clone(), &cache);
    let sink = if attn.hide_first { Sink::Hidden } else { Sink::Shown };
    let options = PictureOptions { sink, dark: attn.dark, ..PictureOptions::default() };
    output::drawings(args, &targets, &AttentionDrawing { report: &report, options }, || view::json(&report))
}

/// The requested heads: by number, by range, or all.
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
