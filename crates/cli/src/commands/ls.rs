//! `model ls`: supported architectures, and the demo models.

use easyroutine::families::{FAMILIES, WRAPPERS};
use easyroutine::source::demos;
use serde_json::json;

use crate::args::Args;
use crate::failure::Failure;
use crate::output::{self, PLAIN};

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let mut rows: Vec<Vec<String>> = Vec::new();
    for family in FAMILIES {
        rows.push(vec!["architecture".to_owned(), family.model_type.to_owned(), String::new()]);
    }
    for wrapper in WRAPPERS {
        let about = "text decoder of a model that reads images".to_owned();
        rows.push(vec!["architecture".to_owned(), wrapper.model_type.to_owned(), about]);
    }
    for demo in demos() {
        rows.push(vec!["demo model".to_owned(), demo.name.to_owned(), demo.about.to_owned()]);
    }
    let json = json!({
        "schema": "easyroutine.models/1",
        "architectures": FAMILIES.iter().map(|f| f.model_type).chain(WRAPPERS.iter().map(|w| w.model_type)).collect::<Vec<_>>(),
        "demos": demos().iter().map(|d| json!({"name": d.name, "about": d.about, "hub_id": d.hub_id})).collect::<Vec<_>>(),
    });
    output::tables(&targets, &["kind", "name", "about"], &rows, &json)
}
