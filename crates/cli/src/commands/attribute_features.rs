//! `attribute -a features_NAME`: which features carried the metric.

use easyroutine::gradients::Rule;
use easyroutine::positions::{Context, Specifier};
use easyroutine_app::reports;
use easyroutine_dictionaries::{FeatureScore, attribute as scores};
use serde_json::{Value, json};

use super::grad::metric;
use crate::args::{Args, Attribute, RuleArg};
use crate::failure::Failure;
use crate::hosted;
use crate::output::{self, Cell, PLAIN};
use crate::progress::Counted;
use crate::session::{self, token_text};

/// Whether features are asked for; they are scored apart from activations.
///
/// # Errors
/// Features beside activations, or without a dictionary, or a dictionary without features.
pub(super) fn is_asked(attribute: &Attribute) -> Result<bool, Failure> {
    let is_feature = |key: &&str| key.trim_start().starts_with("features_");
    let keys = || attribute.activations.iter().flat_map(|keys| keys.split(','));
    let (has_dictionary, n) = (!attribute.dictionaries.dict.is_empty(), keys().filter(is_feature).count());
    match (n, has_dictionary) {
        (0, false) => Ok(false),
        (0, true) => Err(Failure::usage("--dict: no features are asked for")
            .hint("-a features_NAME scores those of the dictionary NAME")),
        (_, false) => Err(Failure::usage("-a: features are asked for, and no dictionary is given")
            .hint("name one: --dict NAME=PATH; its features are features_NAME")),
        (n, true) if n < keys().count() => {
            Err(Failure::usage("-a: features are scored apart from activations").hint("run both commands"))
        }
        _ => Ok(true),
    }
}

pub(super) fn run(args: &Args, attribute: &Attribute) -> Result<(), Failure> {
    if attribute.rule.is_some_and(|rule| rule != RuleArg::Gradient) {
        return Err(Failure::usage("--rule relp: it says nothing of features").hint("leave --rule out"));
    }
    if attribute.prompt.pairs.is_some() {
        return Err(Failure::usage(
            "--pairs: features are scored for one prompt, or for one pair with --base",
        ));
    }
    let targets = output::targets(args, PLAIN)?;
    let opened = attribute.dictionaries.open(&attribute.model.loading.finding)?;
    let session = session::load(&attribute.model.model, &attribute.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &attribute.model.loading.finding)?;
    let (asked, length) = (attribute.prompt.one(), session.model.arch().context);
    let prompt = asked.read(&tokenizer, length)?;
    let base = attribute.base.as_ref().map(|text| asked.cut(text.clone(), &tokenizer, length)).transpose()?;
    let metric = metric(&attribute.measure, &session, &tokenizer, &prompt)?;
    let context = Context { special: tokenizer.special_ids(), seed: attribute.seed, ..Context::default() };
    let (model, dictionaries) = (&session.model, opened.fitted(&session)?);
    let keys: Vec<String> = attribute
        .activations
        .iter()
        .flat_map(|keys| keys.split(','))
        .map(|key| key.trim().to_owned())
        .collect();
    let positions = Specifier::parse_lists(&attribute.positions)?;
    let (row, of_base) = (prompt.row(), base.as_ref().map(session::Prompt::row));
    let mut found = scores(
        model,
        dictionaries,
        &keys,
        &row,
        of_base.as_ref(),
        &positions,
        metric,
        context,
        hosted::stop(),
    )?;
    let text = |id: u32| token_text(&tokenizer, id);
    let words = reports::metric_words(metric, &|id| format!("{:?}", text(id)), ["base", "run"]);
    let of_base = found.base.map_or(String::new(), |base| format!("; of the base {base:.6}"));
    output::note("metric", &format!("{words} = {:.6}{of_base}", found.value));
    if let Some(most) = attribute.check {
        let bar = Counted::new("runs");
        let told = |done, of| bar.tell(done, of);
        let checked = found.check(model, dictionaries, &row, metric, most, context, told);
        bar.finish();
        checked?;
        let pearson = found.pearson().map_or("-".to_owned(), |r| format!("{r:.4}"));
        output::note("check", &format!("Pearson's r of estimates and runs {pearson}"));
    }
    let token = |position: usize| prompt.encoded.ids.get(position).map_or(String::new(), |id| text(*id));
    let shown = &found.scores[..found.scores.len().min(attribute.most())];
    let one = |score: &FeatureScore| {
        json!({
            "key": score.key, "feature": score.feature, "position": score.position,
            "token": token(score.position), "value": score.value,
            "base": base.is_some().then_some(score.base), "score": score.score, "exact": score.exact,
        })
    };
    let told = json!({
        "schema": "easyroutine.attribute_features/1",
        "model": session.model_json(),
        "metric": metric.to_json(),
        "value": found.value,
        "base": found.base,
        "rule": reports::rule_name(Rule::Gradient),
        "dictionaries": Value::Object(opened.record().clone()),
        "prompts": {"prompt": prompt.text, "base": base.as_ref().map(|base| base.text.as_str())},
        "active": found.scores.len(),
        "pearson": found.pearson(),
        "features": shown.iter().map(one).collect::<Vec<_>>(),
    });
    let rows: Vec<Vec<Cell>> = shown
        .iter()
        .map(|score| {
            let number = |x: f64| Cell::new(format!("{x:+.4}"), x);
            vec![
                score.key.clone().into(),
                Cell::new(score.feature.to_string(), score.feature),
                Cell::new(score.position.to_string(), score.position),
                Cell::token(&token(score.position)),
                Cell::new(format!("{:.4}", score.value), score.value),
                base.as_ref()
                    .map_or(String::new().into(), |_| Cell::new(format!("{:.4}", score.base), score.base)),
                number(score.score),
                score.exact.map_or(String::new().into(), number),
            ]
        })
        .collect();
    let header = ["key", "feature", "position", "token", "value", "base", "score", "exact"];
    output::tables(&targets, &header, &rows, &told)
}
