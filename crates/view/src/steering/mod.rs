//! One prompt continued at several strengths of a feature, side by side, as one HTML page without a script.

use std::fmt::Write as _;

use crate::page::still;
use crate::svg::escape;
use crate::text::{field, printable};

const STYLE: &str = include_str!("steering.css");
/// Probabilities below which a token is marked, each a shade stronger.
const RARE: [f64; 4] = [0.5, 0.2, 0.05, 0.01];

/// The contents of the page. All texts come from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct SteeringReport {
    /// The feature: `features_sae:12`.
    pub feature: String,
    /// The model, the dictionary and the like, by name.
    pub facts: Vec<(String, String)>,
    /// What is continued.
    pub prompt: String,
    /// In the order asked for.
    pub continuations: Vec<Continuation>,
}

/// What the model wrote at one strength.
#[derive(Debug, Clone, PartialEq)]
pub struct Continuation {
    /// How many times the decoder row was added; 0 is the model's own.
    pub strength: f64,
    /// The mean log-probability of its tokens in the steered model.
    pub mean_logprob: f64,
    /// Why it ended: `length`, `end`, `context`, `stopped`.
    pub finish: String,
    /// The text of each new token, and its log-probability in the steered model.
    pub tokens: Vec<(String, f64)>,
}

/// The report as one HTML page, which makes no requests and needs no script; light or dark as the reader's system is.
///
/// Tokens are shaded by how unlikely the steered model found them. A line marks where a continuation leaves the model's own,
/// the one of strength 0.
#[must_use]
pub fn html(report: &SteeringReport) -> String {
    let title = escape(&format!("Steering · {}", printable(&report.feature)));
    let fact = |(name, value): &(String, String)| {
        format!("{} {}", escape(&printable(name)), escape(&printable(value)))
    };
    let facts = report.facts.iter().map(fact).collect::<Vec<_>>().join(" · ");
    let own = report.continuations.iter().find(|one| one.strength == 0.0);
    let cards: String = report.continuations.iter().map(|one| card(one, own)).collect();
    let body = format!(
        "<header><h1>{title}</h1><p>{facts}</p></header>\n\
         <p class=\"prompt\"><b>prompt</b>{}</p>\n<main>\n{cards}</main>\n\
         <p class=\"hint\">Shaded: the steered model gave the token a probability below \
         <span class=\"r1\">{}</span><span class=\"r2\">{}</span><span class=\"r3\">{}</span><span class=\"r4\">{}</span>{}</p>\n",
        shown(&report.prompt),
        RARE[0],
        RARE[1],
        RARE[2],
        RARE[3],
        if own.is_some() {
            " · <span class=\"fork\">from here</span> on it is not what the model writes unsteered"
        } else {
            ""
        },
    );
    still(&title, STYLE, &body)
}

fn card(one: &Continuation, own: Option<&Continuation>) -> String {
    let is_own = one.strength == 0.0;
    let same = own.map(|own| {
        let pairs = own.tokens.iter().zip(&one.tokens);
        pairs.take_while(|(own, token)| own.0 == token.0).count()
    });
    let heading = match is_own {
        true => "0 · unsteered".to_owned(),
        false => format!("{:+}", one.strength),
    };
    let mut out = format!(
        "<article{}><h2>{}<small>mean logprob {:.3} · {}</small></h2><p>",
        if is_own { " class=\"own\"" } else { "" },
        escape(&heading),
        one.mean_logprob,
        finish(one),
    );
    for (number, (text, logprob)) in one.tokens.iter().enumerate() {
        let shade = RARE.iter().filter(|limit| logprob.exp() < **limit).count();
        let mut classes = if shade > 0 { format!("r{shade}") } else { String::new() };
        if !is_own && same == Some(number) {
            classes += if classes.is_empty() { "fork" } else { " fork" };
        }
        let _ = match classes.is_empty() {
            true => write!(out, "<span title=\"{:.4}\">{}</span>", logprob.exp(), shown(text)),
            false => {
                write!(out, "<span class=\"{classes}\" title=\"{:.4}\">{}</span>", logprob.exp(), shown(text))
            }
        };
    }
    out + "</p></article>\n"
}

/// Why a continuation ended, with its number of tokens.
fn finish(one: &Continuation) -> String {
    let n = one.tokens.len();
    let tokens = if n == 1 { "token" } else { "tokens" };
    match one.finish.as_str() {
        "length" => format!("cut after {n} {tokens}"),
        "end" => format!("ended after {n} {tokens}"),
        "context" => format!("context full after {n} {tokens}"),
        other => format!("{}, {n} {tokens}", escape(&printable(other))),
    }
}

/// Text as markup: line ends break the line, and what is invisible or changes the direction is written out.
fn shown(text: &str) -> String {
    let line = |line: &str| escape(&field(line).replace(r"\\", r"\"));
    text.split('\n').map(line).collect::<Vec<_>>().join("<span class=\"n\">↵</span><br>")
}
