//! The description in every picture: the model, the rows, how they were read.

use super::report::{JacobianLens, LensReport, ModelCard, Norm, TunedLens};
use crate::text::printable;

/// The lines above every picture.
pub(crate) fn lines(report: &LensReport) -> Vec<String> {
    let mut lines = vec![model(&report.model), layers(report), reading(report)];
    lines.extend(changes(&report.settings.interventions));
    lines
}

/// Changes made while the model ran, if any.
pub(crate) fn changes(interventions: &[String]) -> Option<String> {
    let shown: Vec<String> = interventions.iter().map(|one| printable(one)).collect();
    (!shown.is_empty()).then(|| format!("changed: {}", shown.join(" · ")))
}

/// The kind of lens.
pub(crate) fn title(report: &LensReport) -> &'static str {
    match &report.settings {
        settings if settings.tuned.is_some() => "Tuned lens",
        settings if settings.jacobian.is_some() => "Jacobian lens",
        _ => "Logit lens",
    }
}

/// The model in one line.
pub(crate) fn model(m: &ModelCard) -> String {
    let mut parts = vec![printable(&m.name)];
    if let Some(commit) = &m.commit {
        parts.push(format!("commit {}", printable(commit).chars().take(12).collect::<String>()));
    }
    parts.push(printable(&m.model_type));
    parts.push(format!("{} layers", m.n_layers));
    parts.push(format!("d_model {}", m.d_model));
    parts.push(format!("vocabulary {}", m.vocab_size));
    parts.push(printable(&m.dtype));
    parts.join(" · ")
}

/// What a row represents.
pub(crate) fn layers(report: &LensReport) -> String {
    let component = report.settings.component.as_str();
    let rows = match component {
        "resid_in" => "layer n = residual stream before block n (resid_in)".to_owned(),
        "resid_mid" => "layer n = residual stream of block n after attention (resid_mid)".to_owned(),
        "resid_out" => "layer n = residual stream after block n (resid_out)".to_owned(),
        "attn_out" => "layer n = what attention of block n adds (attn_out)".to_owned(),
        "mlp_out" => "layer n = what the MLP of block n adds (mlp_out)".to_owned(),
        "head_out" => "LnHi = what head i of block n adds (head_out)".to_owned(),
        "expert_out" => {
            "nEi = what expert i of block n gives before its factor (expert_out), zeros for a token \
                         that does not go through it"
                .to_owned()
        }
        other => format!("layer n = {} of block n", printable(other)),
    };
    let embedding = report.layers.iter().any(|row| row.layer < 0);
    if embedding { format!("{rows}, emb = token embedding") } else { rows }
}

/// How a row was read.
pub(crate) fn reading(report: &LensReport) -> String {
    let norm = match report.settings.norm {
        Norm::Own => "final norm with own statistics",
        Norm::Cached => "final norm with the final layer's statistics",
        Norm::None => "no final norm",
    };
    let carried = |lens: &JacobianLens| {
        let prompts =
            if lens.n_prompts == 1 { "1 prompt".to_owned() } else { format!("{} prompts", lens.n_prompts) };
        format!("mean Jacobian to the last layer, {} ({prompts})", printable(&lens.name))
    };
    let first = report.settings.tuned.as_ref().map(tuned).or(report.settings.jacobian.as_ref().map(carried));
    let first = first.map_or_else(String::new, |first| first + ", then ");
    format!("{first}{norm}, then unembedding · {} · {}", tokens(report), bos(report))
}

fn tuned(lens: &TunedLens) -> String {
    let mut text = format!("translators of the tuned lens {}", printable(&lens.name));
    if let Some(base) = &lens.base_model {
        text += &format!(" (trained on {}", printable(base));
        if let Some(revision) = &lens.base_revision {
            text += &format!(" at {}", printable(revision));
        }
        text.push(')');
    }
    text
}

/// Number of tokens, and how many are shown.
pub(crate) fn tokens(report: &LensReport) -> String {
    let shown = report.layers.first().map_or(0, |row| row.positions.len());
    let all = report.tokens.len();
    match (shown, all) {
        (s, a) if s == a => plural(a),
        (s, a) => format!("{s} of {}", plural(a)),
    }
}

/// Whether there was a beginning-of-sequence token.
pub(crate) fn bos(report: &LensReport) -> &'static str {
    if report.settings.bos { "with BOS" } else { "no BOS" }
}

fn plural(n: usize) -> String {
    if n == 1 { "1 token".into() } else { format!("{n} tokens") }
}
