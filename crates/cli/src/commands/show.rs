//! `model show`: the forward pass step by step, with its costs, and the activations that can be read.

use easyroutine::pass::outline;
use serde_json::json;

use crate::args::{Args, ModelArgs};
use crate::failure::Failure;
use crate::output::{self, Cell, PLAIN};
use crate::session;

pub(crate) fn run(args: &Args, model: &ModelArgs) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let files = session::find(&model.reference()?, &model.loading.finding)?;
    let opened = session::open(&files, &model.loading.finding)?;
    let sections = outline(opened.arch());
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for section in &sections {
        for (i, row) in section.rows.iter().enumerate() {
            let name = if i == 0 { section.name.clone() } else { String::new() };
            let number = |n: u64| if n == 0 { Cell::new("", "") } else { n.to_string().into() };
            rows.push(vec![
                name.into(),
                row.step.clone().into(),
                number(row.width as u64),
                number(row.multiplications),
                row.sites.join(" ").into(),
            ]);
        }
    }
    let listed: Vec<_> = sections
        .iter()
        .map(|section| {
            let row = |row: &easyroutine::pass::Row| {
                json!({
                    "step": row.step,
                    "width": row.width,
                    "multiplications": row.multiplications,
                    "activations": row.sites,
                })
            };
            let steps: Vec<_> = section.rows.iter().map(row).collect();
            json!({"name": section.name, "count": section.count, "steps": steps})
        })
        .collect();
    let json = json!({"schema": "easyroutine.pass/1", "model": files.name, "sections": listed});
    let header = ["section", "step", "width", "multiplications", "activations after it"];
    output::tables(&targets, &header, &rows, &json)
}
