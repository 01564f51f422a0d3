//! `--layers`: `emb,0:30:5,-1` to layer numbers, -1 the embedding.

use crate::failure::Failure;

/// Layers in the order of the model, each once. Without a text: all, the embedding first.
///
/// # Errors
/// A word that is no layer, or a layer that the model does not have.
pub(crate) fn parse(text: Option<&str>, n_layers: usize) -> Result<Vec<i64>, Failure> {
    let count = n_layers as i64;
    let Some(text) = text else { return Ok((-1..count).collect()) };
    let mut layers = Vec::new();
    for word in text.split(',').map(str::trim) {
        match word {
            "emb" | "embedding" => layers.push(-1),
            "all" | "*" => layers.extend(-1..count),
            _ => layers.extend(range(word, count)?),
        }
    }
    layers.sort_unstable();
    layers.dedup();
    Ok(layers)
}

fn range(word: &str, count: i64) -> Result<Vec<i64>, Failure> {
    let failure = |why: String| {
        Failure::usage(format!("--layers: `{word}`: {why}"))
            .hint("layers are `emb`, 5, -1 (the last), 4:9 (4 to 8), 0:30:5 (every fifth), joined by commas")
    };
    let wrong = || failure("is no layer and no range of layers".to_owned());
    let from_end = |n: i64| if n < 0 { n + count } else { n };
    let number = |s: &str| s.parse::<i32>().ok().map(i64::from).ok_or_else(wrong);
    let bound = |s: &str, default: i64| if s.is_empty() { Ok(default) } else { number(s).map(from_end) };
    let parts: Vec<&str> = word.split(':').collect();
    let (start, end, step) = match parts.as_slice() {
        [one] => {
            let layer = from_end(number(one)?);
            (layer, layer + 1, 1)
        }
        [start, end] => (bound(start, 0)?, bound(end, count)?, 1),
        [start, end, step] => (bound(start, 0)?, bound(end, count)?, number(step)?),
        _ => return Err(wrong()),
    };
    if start < 0 || end > count {
        return Err(failure(format!("the model has {count} layers, 0 to {}", count - 1)));
    }
    if start >= end {
        return Err(failure("the range is empty: it ends before its second number".to_owned()));
    }
    if step < 1 {
        return Err(failure("the step is below 1".to_owned()));
    }
    Ok((start..end).step_by(step as usize).collect())
}
