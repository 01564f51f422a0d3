//! The page of `easyroutine serve`: files that a browser loads directly, without a build step.
//!
//! The page sends command lines to the server and draws the reports that come back. Its colours and its signs for
//! invisible characters are those of the one-file pages.

/// A file of the page.
#[derive(Debug, Clone, Copy)]
pub struct File {
    /// Its path; empty for the page itself.
    pub path: &'static str,
    /// Its media type.
    pub media_type: &'static str,
    /// Its content.
    pub content: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// All files of the page.
pub const FILES: &[File] = &[
    File { path: "", media_type: HTML, content: include_str!("index.html") },
    File {
        path: "app.css",
        media_type: CSS,
        content: concat!(
            include_str!("app.css"),
            include_str!("../circuit/drawing.css"),
            include_str!("../graph/drawing.css"),
            include_str!("../features/drawing.css")
        ),
    },
    File { path: "main.js", media_type: SCRIPT, content: include_str!("main.js") },
    File {
        path: "shared.js",
        media_type: SCRIPT,
        content: concat!(
            include_str!("../shared.js"),
            "export { pieces, printable, percent, blend, ink, css };\n"
        ),
    },
    File {
        path: "nodes.js",
        media_type: SCRIPT,
        content: concat!(include_str!("../nodes.js"), "export { nodeChoice, svgElement };\n"),
    },
    File {
        path: "circuit_drawing.js",
        media_type: SCRIPT,
        content: concat!(
            "import { nodeChoice, svgElement } from \"./nodes.js\";\n",
            include_str!("../circuit/drawing.js"),
            "export { circuitPicture };\n"
        ),
    },
    File {
        path: "graph_drawing.js",
        media_type: SCRIPT,
        content: concat!(
            "import { nodeChoice, svgElement } from \"./nodes.js\";\n",
            include_str!("../graph/drawing.js"),
            "export { graphPicture };\n"
        ),
    },
    File {
        path: "features_drawing.js",
        media_type: SCRIPT,
        content: concat!(include_str!("../features/drawing.js"), "export { featureDrawing };\n"),
    },
    File { path: "prompt.js", media_type: SCRIPT, content: include_str!("prompt.js") },
    File { path: "strip.js", media_type: SCRIPT, content: include_str!("strip.js") },
    File { path: "dom.js", media_type: SCRIPT, content: include_str!("dom.js") },
    File { path: "ask.js", media_type: SCRIPT, content: include_str!("ask.js") },
    File { path: "state.js", media_type: SCRIPT, content: include_str!("state.js") },
    File { path: "heat.js", media_type: SCRIPT, content: include_str!("heat.js") },
    File { path: "panel.js", media_type: SCRIPT, content: include_str!("panel.js") },
    File { path: "lens.js", media_type: SCRIPT, content: include_str!("lens.js") },
    File { path: "attention.js", media_type: SCRIPT, content: include_str!("attention.js") },
    File { path: "attribution.js", media_type: SCRIPT, content: include_str!("attribution.js") },
    File { path: "sweeps.js", media_type: SCRIPT, content: include_str!("sweeps.js") },
    File { path: "generation.js", media_type: SCRIPT, content: include_str!("generation.js") },
    File { path: "features.js", media_type: SCRIPT, content: include_str!("features.js") },
    File { path: "graph.js", media_type: SCRIPT, content: include_str!("graph.js") },
    File { path: "circuit.js", media_type: SCRIPT, content: include_str!("circuit.js") },
    File { path: "fields.js", media_type: SCRIPT, content: include_str!("fields.js") },
    File { path: "dashboards.js", media_type: SCRIPT, content: include_str!("dashboards.js") },
    File { path: "runs.js", media_type: SCRIPT, content: include_str!("runs.js") },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::colour::{CIVIDIS, diverging};

    #[test]
    fn the_page_has_the_colours_of_the_pictures() {
        let script = FILES.iter().find(|file| file.path == "heat.js").map_or("", |file| file.content);
        let hex = |colours: Vec<crate::colour::Rgb>| {
            colours.into_iter().map(|colour| colour.hex()[1..].to_owned()).collect::<Vec<_>>().join(" ")
        };
        let of = |sign: f64| (1..4).map(|step| diverging(sign * f64::from(step) / 3.0)).collect::<Vec<_>>();
        for colours in [CIVIDIS.to_vec(), of(-1.0), of(1.0)] {
            let written = format!("\"{}\"", hex(colours));
            assert!(script.contains(&written), "{written}");
        }
    }

    /// A module's imports are known only once it has arrived: without this a browser fetches them level by level.
    #[test]
    fn the_browser_is_told_of_every_script_at_once() {
        let page = FILES[0].content;
        for file in FILES.iter().filter(|file| file.media_type == SCRIPT) {
            let link = format!("<link rel=\"modulepreload\" href=\"{}\">", file.path);
            assert_eq!(page.matches(&link).count(), usize::from(file.path != "main.js"), "{}", file.path);
        }
    }

    #[test]
    fn the_page_loads_its_own_files_alone() {
        let named = |text: &str| FILES.iter().any(|file| file.path == text);
        for file in FILES.iter().filter(|file| file.path.ends_with(".js") && file.path != "shared.js") {
            for line in file.content.lines().filter(|line| line.starts_with("import ")) {
                let path = line.split("from \"./").nth(1).and_then(|rest| rest.split('"').next());
                assert!(path.is_some_and(named), "{}: {line}", file.path);
            }
        }
        for file in FILES {
            // A comment may contain a URL; nothing is loaded from one, and no inline code runs.
            for bad in [
                "src=\"http",
                "href=\"http",
                "url(",
                "@import",
                "innerHTML",
                "eval(",
                "<style",
                " style=",
                "insertAdjacentHTML",
            ] {
                assert!(!file.content.contains(bad), "{}: {bad}", file.path);
            }
        }
    }
}
