//! Two checkpoints side by side as one self-contained HTML page: the layers, the heads, the tensors and the positions with
//! the largest differences. The page makes no requests.

use serde_json::{Value as Json, json};

use crate::colour::CIVIDIS;
use crate::error::{Error, ErrorKind};
use crate::page::Active;
use crate::svg::escape;
use crate::text::printable;

/// The drawing, with what all pages share.
const SCRIPT: &str = concat!(include_str!("../shared.js"), include_str!("checkpoints.js"));
const STYLE: &str = include_str!("checkpoints.css");
/// Limit on the cells of one page: layers of listed positions and heads. A browser still opens these quickly.
const CELLS: usize = 500_000;

/// The JSON `easyroutine.compare_models/1` as one HTML page, with everything inline.
///
/// The page's Content-Security-Policy allows only this script and this style, by their hash; names and tokens are data that
/// the script inserts as text. Without scripts, a table of the layers remains.
///
/// # Errors
/// If there is more than a browser can open.
pub fn html(report: &Json) -> Result<String, Error> {
    let list = |key: &str| report[key].as_array().map_or(&[][..], Vec::as_slice);
    let cells = list("worst").len() * list("layers").len() + list("heads").len();
    if cells > CELLS {
        return Err(Error::new(
            ErrorKind::Size,
            format!(
                "HTML: {cells} layers of positions are too many for a page of {CELLS}; list fewer (--worst)"
            ),
        ));
    }
    let name = |side: &str| printable(report[side]["name"].as_str().unwrap_or_default());
    let title = escape(&format!("{} and {}", name("a"), name("b")));
    let data = json!({
        "report": report,
        "palette": CIVIDIS.iter().map(|c| [c.0, c.1, c.2]).collect::<Vec<_>>(),
    });
    let body = format!(
        r#"<header><h1>{title}</h1><p id="facts"></p><button type="button" id="dark" aria-pressed="false">Dark</button></header>
<main>
<div>
<section aria-labelledby="of-layers"><h2 id="of-layers">By layer</h2><p class="hint" id="lens"></p><div id="layers" class="sheet"></div></section>
<section aria-labelledby="of-heads"><h2 id="of-heads">By head</h2><p class="hint">Error of each head's mixed values, layer by layer; bright is large</p><div id="heads" class="sheet"></div></section>
</div>
<div>
<section aria-labelledby="of-tensors"><h2 id="of-tensors">Which tensors cause it</h2><p class="hint" id="patched"></p><div id="grid" class="sheet"></div><div id="tensors" class="sheet short"></div></section>
<section aria-labelledby="of-worst"><h2 id="of-worst">Largest differences</h2><div id="worst" class="sheet short"></div><div id="place" aria-live="polite"></div></section>
</div>
</main>
<p class="hint" id="said" role="status"></p>
"#
    );
    let plain = format!("<pre>{}</pre>", escape(&plain(list("layers"))));
    let page =
        Active { title: &title, script: SCRIPT, style: STYLE, body: &body, plain: &plain, data: &data };
    Ok(page.html())
}

/// The layers, for readers without scripts.
fn plain(layers: &[Json]) -> String {
    let mut out = String::from("layer      error     cosine         kl  top changed\n");
    for layer in layers {
        let number = |key: &str| layer[key].as_f64().map_or("-".to_owned(), |x| format!("{x:.6}"));
        let name = match layer["layer"].as_i64() {
            Some(-1) | None => "emb".to_owned(),
            Some(layer) => layer.to_string(),
        };
        let [error, cosine, kl] = ["error", "cosine", "kl"].map(number);
        let changed = layer["top_changed"].as_u64().map_or("-".to_owned(), |n| n.to_string());
        out += &format!("{name:>5}  {error:>9}  {cosine:>9}  {kl:>9}  {changed:>11}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Json {
        json!({
            "a": {"name": "<b>a</b>"}, "b": {"name": "b"},
            "layers": [{"layer": -1, "error": 0.0, "cosine": 1.0, "kl": 0.5, "top_changed": 2}],
            "heads": [], "worst": [], "tensors": [], "patched": null,
        })
    }

    #[test]
    fn names_are_escaped_and_the_layers_remain_without_scripts() {
        let page = html(&report()).unwrap_or_default();
        assert!(page.contains("<h1>&lt;b&gt;a&lt;/b&gt; and b</h1>"), "{page}");
        assert!(page.contains("  emb   0.000000   1.000000   0.500000            2\n"), "{page}");
        assert!(!page.contains("<b>a</b>"), "{page}");
    }

    #[test]
    fn a_page_that_no_browser_opens_is_refused() {
        let mut large = report();
        large["worst"] = vec![json!({}); CELLS + 1].into();
        assert_eq!(html(&large).map_err(|error| error.kind()), Err(ErrorKind::Size));
    }
}
