//! Shared by all pages: a policy that forbids any request, and data that cannot end its element.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use crate::text::field;

/// A page whose script draws `data`: only this script and this style may run, by their hash.
pub(crate) struct Active<'a> {
    /// Markup, like everything here except script and style: nothing from outside is in it unescaped.
    pub(crate) title: &'a str,
    pub(crate) script: &'a str,
    pub(crate) style: &'a str,
    pub(crate) body: &'a str,
    /// What remains without scripts.
    pub(crate) plain: &'a str,
    pub(crate) data: &'a Json,
}

impl Active<'_> {
    pub(crate) fn html(&self) -> String {
        self.framed("")
    }

    /// The same for a page that also loads scripts beside it: from its own server, or from disk, where `'self'` matches
    /// nothing.
    pub(crate) fn html_with_scripts(&self) -> String {
        self.framed(" 'self' file:")
    }

    fn framed(&self, more_scripts: &str) -> String {
        let (script, style) = (lean(self.script), lean(self.style));
        let policy = format!("script-src {}{more_scripts}; style-src {}", hash(&script), hash(&style));
        let data = embed(self.data);
        let body = format!(
            "{}<noscript>{}</noscript>\n<script type=\"application/json\" id=\"data\">{data}</script>\n\
             <script>{script}</script>\n",
            self.body, self.plain
        );
        frame(self.title, &policy, &style, &body)
    }
}

/// A page around a picture, without a script; only the picture's style is allowed. The title is markup.
pub(crate) fn around(title: &str, picture: &str, style: &str) -> String {
    const PAGE: &str = "body{margin:0;background:#fff}main{overflow-x:auto}svg{display:block}";
    let policy = format!("style-src {} {}", hash(PAGE), hash(style));
    frame(title, &policy, PAGE, &format!("<main>\n{picture}</main>\n"))
}

/// A page without a script. Title and body are markup.
pub(crate) fn still(title: &str, style: &str, body: &str) -> String {
    let style = lean(style);
    frame(title, &format!("style-src {}", hash(&style)), &style, body)
}

/// A one-file page that may make no requests.
fn frame(title: &str, policy: &str, style: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; {policy}; img-src data:; \
         base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

/// JSON for a script element: nothing in it can end the element or be invisible.
pub(crate) fn embed(data: &Json) -> String {
    let mut out = String::new();
    for c in data.to_string().chars() {
        let plain = c == ' ' || c.is_ascii_graphic() && !matches!(c, '<' | '>' | '&');
        if plain || !c.is_ascii() && field(c.encode_utf8(&mut [0; 4])).starts_with(c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// Source without indentation and comment lines, which have no meaning here.
fn lean(source: &str) -> String {
    let lines =
        source.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn hash(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text.as_bytes())))
}
