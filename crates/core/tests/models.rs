//! The page of all families: how they differ, and how close they are to transformers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyroutine::families::{FAMILIES, WRAPPERS};

use crate::common::{cases, fixtures};

const PAGE: &str = "docs/MODELS.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The first sentence of a family's file: `OLMo: norms without parameters, ...`.
fn first_line(model_type: &str) -> (String, String) {
    let path = root().join(format!("crates/core/src/families/{model_type}.rs"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let doc: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//! ")).collect();
    let doc = doc.join(" ");
    let (name, differs) = doc.split_once(": ").unwrap_or((doc.trim_end_matches('.'), ""));
    (name.to_owned(), differs.trim_end_matches('.').to_owned())
}

/// The largest error of each tiny model, as the page of errors states it.
fn errors() -> BTreeMap<String, f64> {
    let text = std::fs::read_to_string(root().join("docs/ACCURACY.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| model"));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        // The last column is for products in bf16.
        let numbers = cells[1..cells.len() - 1].iter().filter_map(|cell| cell.parse::<f64>().ok());
        (cells[0].to_owned(), numbers.fold(0.0, f64::max))
    })
    .collect()
}

fn model_type(kind: &str, case: &str) -> String {
    let text = std::fs::read(fixtures().join(kind).join(case).join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&text).unwrap();
    config["model_type"].as_str().unwrap().to_owned()
}

fn page() -> String {
    let errors = errors();
    let mut largest: BTreeMap<String, f64> = BTreeMap::new();
    for case in cases("tiny") {
        let worst = largest.entry(model_type("tiny", &case)).or_default();
        *worst = worst.max(errors[&case]);
    }
    let mut text = String::from(
        "# Models\n\n\
         Every family of decoders, by the `model_type` of its config.json, with what it differs in from the usual decoder \
         since Llama. Each is checked against transformers on a small random model with every detail turned on: \"every \
         activation\" means that all places of all layers were compared, in both spellings of config.json, alone and padded, \
         \"text\" that the logits of a text were. The error is the largest difference over the largest value of a tensor, over \
         all kinds of activations and all sets of instructions ([ACCURACY.md](ACCURACY.md) has them one by one). \
         A test writes this page (`EASYROUTINE_BLESS=1 cargo test -p easyroutine --test core models::`).\n\n\
         | `model_type` | model | differs in | checked | largest error |\n|---|---|---|---|--:|\n",
    );
    for family in FAMILIES {
        let (name, differs) = first_line(family.model_type);
        let (checked, error) = match largest.get(family.model_type) {
            Some(error) => ("every activation", format!("{error:.0e}")),
            None => ("text", "< 1e-5".to_owned()),
        };
        text += &format!("| `{}` | {name} | {differs} | {checked} | {error} |\n", family.model_type);
    }
    text += "\n## Decoders of models that read images\n\n\
             Their text decoders are read: `text_config` with the defaults of its class, under every prefix that transformers has \
             written. The vision tower and its projector are left out, which `model info` and a note say; a token that holds the \
             place of an image is refused.\n\n| `model_type` | decoder | checked | error |\n|---|---|---|--:|\n";
    let wrapped: BTreeMap<String, String> = cases("wrappers")
        .into_iter()
        .map(|case| {
            let config = std::fs::read(fixtures().join("wrappers").join(&case).join("config.json")).unwrap();
            let config = easyroutine::config::Config::parse(&config).unwrap();
            let reading = easyroutine::families::read(&config, &[]).unwrap();
            (reading.wrapper.unwrap_or_default().to_owned(), reading.family.model_type.to_owned())
        })
        .collect();
    for wrapper in WRAPPERS {
        let decoder = &wrapped[wrapper.model_type];
        text += &format!("| `{}` | such as `{decoder}` | text | < 1e-5 |\n", wrapper.model_type);
    }
    text += "\n## Not read, and why\n\n\
             - `gemma3n`, `deepseek_v4`: they carry several residual streams, which the places of one stream cannot name.\n\
             - `diffllama`: it mixes by two patterns a head, which the place of one pattern cannot name.\n\
             - Encoders, and decoders that attend to one.\n";
    text
}

#[test]
fn the_page_lists_every_family() {
    let path = root().join(PAGE);
    if std::env::var_os("EASYROUTINE_BLESS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text == page(), "{PAGE} is not as the test writes it: EASYROUTINE_BLESS=1");
}
