//! `patch` and `ablate`: one change after another, and a grid of their effects on the prediction.

use std::rc::Rc;

use easyroutine::attribution::{Estimating, estimate};
use easyroutine::gradients::Rule;
use easyroutine::patching::{Along, By, Metric, Sweep};
use easyroutine::prompts::{self, Prompts};
use easyroutine::request::Request;
use easyroutine::sites::{Scope, Site};
use easyroutine::tokens::Tokenizer;
use easyroutine::{Batch, Model};

use super::dict_page::numbers;
use super::lens::{selected, specifiers};
use super::sweep_features::{self, Asked};
use crate::args::{
    Ablate, AlongArg, Args, ByArg, EffectArg, MeanOverArg, Patch, RuleArg, Sweep as SweepArgs,
};
use crate::failure::{Failure, one_line};
use crate::hosted;
use crate::layers;
use crate::output::{self, DRAWN, Destination};
use crate::progress::Counted;
use crate::session::{self, Prompt, Session, token_text};
use easyroutine_app::reports::{self, Estimated, GridPlaces, GridWords};

/// A model, its tokenizer and the prompt to change.
pub(super) struct Opened {
    pub(super) session: Rc<Session>,
    pub(super) tokenizer: Rc<Tokenizer>,
    pub(super) prompt: Prompt,
}

pub(crate) fn patch(args: &Args, patch: &Patch) -> Result<(), Failure> {
    let targets = output::targets(args, DRAWN)?;
    refuse_experts(&patch.sweep)?;
    let features = sweep_features::asked(&patch.sweep, &patch.model.loading.finding, AlongArg::Positions)?;
    let opened = open(&patch.model.model, &patch.model.loading, &patch.prompt)?;
    let Opened { session, tokenizer, prompt } = &opened;
    let context = session.model.arch().context;
    let base = patch.prompt.cut(patch.base.clone(), tokenizer, context)?;
    let predicted = |prompt: &Prompt| predictions(&session.model, prompt).map(|ids| ids[0]);
    let metric = metric(&patch.sweep, tokenizer, || Ok([predicted(&base)?, predicted(prompt)?]))?;
    let by = By::Patch(base.encoded.ids.clone());
    let prompts =
        [("base", &base), ("target", prompt)].map(|(what, prompt)| (what.to_owned(), prompt.text.clone()));
    let how = match features {
        None if is_of_experts(&patch.sweep) => reports::how_experts_changed(&by),
        None => reports::how_changed(&by),
        Some(_) => "with their values in the base, in the run of the target".to_owned(),
    };
    let words =
        GridWords { title: "Activation patching", how: &how, prompts: prompts.to_vec(), estimated: None };
    finish(args, &targets, &opened, &patch.sweep, (features, AlongArg::Positions), (by, metric), words)
}

pub(crate) fn ablate(args: &Args, ablate: &Ablate) -> Result<(), Failure> {
    let targets = output::targets(args, DRAWN)?;
    let idle = [
        ("--over", ablate.over.is_some(), "mean", ByArg::Mean),
        ("--with", ablate.with.is_some(), "resample", ByArg::Resample),
    ];
    if ablate.over.is_none() {
        ablate.reading.refuse_without("--over prompts.jsonl")?;
    }
    for (flag, is_given, name, by) in idle {
        if is_given && ablate.by != by {
            return Err(Failure::usage(format!("{flag} is for --by {name}")).hint(format!("add --by {name}")));
        }
    }
    refuse_experts(&ablate.sweep)?;
    let features = sweep_features::asked(&ablate.sweep, &ablate.model.loading.finding, AlongArg::Features)?;
    let opened = open(&ablate.model.model, &ablate.model.loading, &ablate.prompt)?;
    let Opened { session, tokenizer, prompt } = &opened;
    let context = session.model.arch().context;
    let mut shown = vec![("prompt".to_owned(), prompt.text.clone())];
    let (by, how) = match ablate.by {
        ByArg::Zero => (By::Zero, reports::how_changed(&By::Zero)),
        ByArg::Mean => {
            let rows = match &ablate.over {
                Some(file) => {
                    let Prompts { prompts, rows, .. } = ablate.reading.read(file)?;
                    let ids = |(row, prompt)| match prompt {
                        prompts::Prompt::Ids(ids) => Ok(ids),
                        prompts::Prompt::Messages(messages) => ablate
                            .prompt
                            .cut_conversation(messages, tokenizer, context)
                            .map(|prompt| prompt.encoded.ids)
                            .map_err(|failure| failure.at(format!("{}: row {row}", file.display()))),
                        prompts::Prompt::Text(text) => ablate
                            .prompt
                            .cut(text, tokenizer, context)
                            .map(|prompt| prompt.encoded.ids)
                            .map_err(|failure| failure.at(format!("{}: row {row}", file.display()))),
                    };
                    rows.into_iter().zip(prompts).map(ids).collect::<Result<Vec<_>, Failure>>()?
                }
                None => vec![prompt.encoded.ids.clone()],
            };
            let by = match ablate.mean_over {
                // At one position, few rows go through an expert.
                None if is_of_experts(&ablate.sweep) => By::Mean(rows),
                None => By::mean_of(rows, &prompt.encoded.ids),
                Some(MeanOverArg::Rows) => By::MeanOfRows(rows),
                Some(MeanOverArg::Tokens) => By::Mean(rows),
            };
            let how = match ablate.over {
                None => "set to the mean over the prompt".to_owned(),
                Some(_) => reports::how_changed(&by),
            };
            (by, how)
        }
        ByArg::Resample => {
            let other = ablate.prompt.cut(ablate.with.clone().unwrap_or_default(), tokenizer, context)?;
            shown.push(("with".to_owned(), other.text.clone()));
            let by = By::Resample(other.encoded.ids);
            let how = reports::how_changed(&by);
            (by, how)
        }
    };
    let first_two = || predictions(&session.model, prompt).map(|ids| [ids[0], ids[1]]);
    let metric = metric(&ablate.sweep, tokenizer, first_two)?;
    let how = if is_of_experts(&ablate.sweep) { reports::how_experts_changed(&by) } else { how };
    let words = GridWords { title: "Ablation", how: &how, prompts: shown, estimated: None };
    finish(args, &targets, &opened, &ablate.sweep, (features, AlongArg::Heads), (by, metric), words)
}

fn open(
    reference: &str,
    loading: &crate::args::Loading,
    prompt: &crate::args::PromptArgs,
) -> Result<Opened, Failure> {
    let session = session::load(reference, loading)?;
    let tokenizer = session::tokenizer(&session.files, &loading.finding)?;
    let prompt = prompt.read(&tokenizer, session.model.arch().context)?;
    Ok(Opened { session, tokenizer, prompt })
}

/// The two most likely next tokens.
pub(super) fn predictions(model: &Model, prompt: &Prompt) -> Result<[u32; 2], Failure> {
    predicted(model, &prompt.encoded.ids)
}

/// The same for token ids.
pub(super) fn predicted(model: &Model, ids: &[u32]) -> Result<[u32; 2], Failure> {
    let batch = Batch::new(&[ids])?;
    let request = Request::parse("logits", "last")?;
    let context = easyroutine::positions::Context::default();
    let cache = request.run(model, &batch, &[easyroutine::positions::Row::of(0, ids)], context)?;
    let logits = cache.get("logits").map(|kept| kept.values().to_vec()).unwrap_or_default();
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
    Ok([order[0], order.get(1).copied().unwrap_or(order[0])])
}

/// A token and the one against it, which must differ.
pub(super) fn apart(answer: u32, against: u32, tokenizer: &Tokenizer) -> Result<(u32, u32), Failure> {
    if answer == against {
        let text = token_text(tokenizer, answer);
        return Err(Failure::usage(format!("answer and the token against it are both {text:?}"))
            .hint("name two tokens: --answer ' Mary' --against ' John'"));
    }
    Ok((answer, against))
}

fn layers_of(sweep: &SweepArgs, session: &Session) -> Result<Vec<usize>, Failure> {
    let n_layers = session.model.arch().layers.len();
    if sweep.layers.is_none() {
        return Ok((0..n_layers).collect());
    }
    let parsed = layers::parse(sweep.layers.as_deref(), n_layers)?;
    let blocks: Vec<usize> = parsed.iter().filter_map(|layer| usize::try_from(*layer).ok()).collect();
    if blocks.len() < parsed.len() {
        return Err(Failure::usage("--layers: a sweep does not change the embedding")
            .hint(format!("layers are 0 to {}; --site resid_in changes what enters layer 0", n_layers - 1)));
    }
    Ok(blocks)
}

/// The positions of the prompt that are changed, ascending.
pub(super) fn positions(sweep: &SweepArgs, opened: &Opened) -> Result<Vec<usize>, Failure> {
    let chosen = specifiers(&sweep.positions)?;
    selected(&chosen, &opened.prompt, &opened.tokenizer, sweep.seed)
}

fn is_of_experts(sweep: &SweepArgs) -> bool {
    sweep.along == Some(AlongArg::Experts)
}

/// Refuses experts where other columns are swept.
fn refuse_experts(sweep: &SweepArgs) -> Result<(), Failure> {
    match sweep.experts.is_some() && !is_of_experts(sweep) {
        true => Err(Failure::usage("--experts is for --along experts").hint("add --along experts")),
        false => Ok(()),
    }
}

/// `3,17,100:110`; an open range ends with the last expert.
fn experts(text: &str, model: &Model) -> Result<Vec<usize>, Failure> {
    let count = model.arch().layers.iter().filter_map(|layer| layer.experts()).max().unwrap_or(0);
    let mut found = Vec::new();
    for range in numbers("--experts", text)? {
        let (start, end) = (range.start as usize, range.end as usize);
        // A wrong end is refused with the first expert that no layer has.
        let end = if range.end == u32::MAX { count } else { end.min(start.max(count) + 1) };
        if start >= end {
            return Err(Failure::usage(format!("--experts: `{}` holds no expert", one_line(text)))
                .hint("4:8 are 4 to 7"));
        }
        found.extend(start..end);
    }
    Ok(found)
}

fn along(sweep: &SweepArgs, otherwise: AlongArg, opened: &Opened) -> Result<Along, Failure> {
    let positions = positions(sweep, opened)?;
    let along = sweep.along.unwrap_or(otherwise);
    let (default, scope) = match along {
        AlongArg::Experts => ("expert_out", Scope::Expert),
        AlongArg::Positions => ("resid_in", Scope::Layer),
        AlongArg::Heads => ("head_out", Scope::Head),
        AlongArg::Sites => ("", Scope::Layer),
        AlongArg::Features => {
            return Err(Failure::usage("--along features: no dictionary is given")
                .hint("name one: --dict NAME=PATH; its features are features_NAME"));
        }
    };
    let named = |name: &str| {
        Site::from_name(name.trim()).ok_or_else(|| {
            let names = Site::ALL.iter().filter(|site| site.scope() == scope).map(|site| site.name());
            let near = easyroutine::sites::nearest(name, names);
            Failure::usage(format!("--site: no site `{}`", name.trim()))
                .hint(near.map_or("see docs/SITES.md".to_owned(), |near| format!("did you mean {near}?")))
        })
    };
    let sites = match (&sweep.site, along) {
        (None, AlongArg::Sites) => Along::parts(&opened.session.model),
        (site, _) => {
            site.as_deref().unwrap_or(default).split(',').map(named).collect::<Result<Vec<_>, _>>()?
        }
    };
    if let Some(twice) = sites.iter().enumerate().find(|(i, site)| sites[..*i].contains(site)) {
        return Err(Failure::usage(format!("--site: {} is named twice", twice.1.name())));
    }
    Ok(match (along, sites.as_slice()) {
        (AlongArg::Positions, [site]) => Along::Positions { site: *site, positions },
        (AlongArg::Heads, [site]) => Along::Heads { site: *site, positions },
        (AlongArg::Sites, _) => Along::Sites { sites, positions },
        (AlongArg::Experts, [Site::ExpertOut]) => {
            let experts = sweep.experts.as_deref().map(|text| experts(text, &opened.session.model));
            Along::Experts { experts: experts.transpose()?, positions }
        }
        (AlongArg::Experts, [site, ..]) => {
            return Err(Failure::usage(format!("--site: {} is no site of experts", site.name()))
                .hint("expert_out is, and may be left out"));
        }
        _ => return Err(Failure::usage("--site: several sites are the columns of --along sites")),
    })
}

fn metric(
    sweep: &SweepArgs,
    tokenizer: &Tokenizer,
    predicted: impl Fn() -> Result<[u32; 2], Failure>,
) -> Result<Metric, Failure> {
    if let Some(flag) = unread(sweep) {
        return Err(Failure::usage(format!("{flag}: the metric does not read it")).hint(
            "p and rank are of --answer alone, kl is of all tokens; logit-diff is of --answer and --against",
        ));
    }
    let named = session::token_named("--answer", &sweep.answer, tokenizer)?;
    let named_against = session::token_named("--against", &sweep.against, tokenizer)?;
    let answer = || named.map_or_else(|| predicted().map(|ids| ids[0]), Ok);
    let pair = || {
        let (answer, against) = match (named, named_against) {
            (Some(answer), Some(against)) => (answer, against),
            (answer, against) => {
                let [first, second] = predicted()?;
                (answer.unwrap_or(first), against.unwrap_or(second))
            }
        };
        apart(answer, against, tokenizer)
    };
    Ok(match sweep.metric {
        EffectArg::LogitDiff => pair().map(|(answer, against)| Metric::LogitDiff { answer, against })?,
        EffectArg::Normalised => {
            pair().map(|(answer, against)| Metric::NormalisedLogitDiff { answer, against })?
        }
        EffectArg::P => Metric::Probability { token: answer()? },
        EffectArg::Rank => Metric::Rank { token: answer()? },
        EffectArg::Kl => Metric::Kl,
    })
}

/// A flag for a token that the metric does not use.
fn unread(sweep: &SweepArgs) -> Option<&'static str> {
    match (sweep.metric, &sweep.answer, &sweep.against) {
        (EffectArg::Kl, Some(_), _) => Some("--answer"),
        (EffectArg::Kl | EffectArg::P | EffectArg::Rank, _, Some(_)) => Some("--against"),
        _ => None,
    }
}

/// Makes the changes, of activations along some columns or of features, and reports them.
fn finish(
    args: &Args,
    targets: &[Destination],
    opened: &Opened,
    sweep: &SweepArgs,
    (features, otherwise): (Option<Asked>, AlongArg),
    (by, metric): (By, Metric),
    words: GridWords<'_>,
) -> Result<(), Failure> {
    let Opened { session, tokenizer, prompt } = opened;
    if let Some(features) = features {
        let (grid, places) = features.run(opened, sweep, by, metric)?;
        let (report, json) =
            reports::grid(&session.subject(tokenizer, prompt), &places.shown(), &grid, &words);
        return output::drawings(args, targets, &report, || Ok(json.to_string()));
    }
    let request =
        Sweep { layers: layers_of(sweep, session)?, along: along(sweep, otherwise, opened)?, by, metric };
    let changes = Counted::new("changes");
    let ids = &prompt.encoded.ids;
    let tell = |done, of| changes.tell(done, of);
    let estimating = &sweep.estimating;
    let rule = estimating.rule.map_or(Rule::Gradient, RuleArg::rule);
    let (grid, check);
    if estimating.estimate {
        let how = Estimating { rule, check: estimating.check };
        let found = estimate(&session.model, ids, &request, how, hosted::stop(), tell);
        changes.finish();
        let found = found?;
        (grid, check) = (found.grid, found.check);
        if let Some(check) = &check {
            output::note("check", reports::check_words(check).trim_start_matches("check: "));
        }
    } else {
        let found = easyroutine::patching::sweep(&session.model, ids, &request, tell);
        changes.finish();
        (grid, check) = (found?, None);
    }
    let estimated = estimating.estimate.then_some(Estimated { rule, check: check.as_ref() });
    let words = GridWords { estimated, ..words };
    let places = GridPlaces::from(&request.along);
    let (report, json) = reports::grid(&session.subject(tokenizer, prompt), &places, &grid, &words);
    output::drawings(args, targets, &report, || Ok(json.to_string()))
}
