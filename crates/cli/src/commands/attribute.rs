//! `attribute`: which activations carry a metric of the logits.

use std::borrow::Cow;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::rc::Rc;

use easyroutine::attribution::{
    Baseline, Cell as Score, Check, Integrated, Quadrature, attribution_patching, check_largest,
    integrated_gradients,
};
use easyroutine::cache::Kept;
use easyroutine::gradients::Rule;
use easyroutine::patching::Metric;
use easyroutine::positions::Context;
use easyroutine::request::Request;
use easyroutine::tokens::Tokenizer;
use easyroutine_app::reports;
use serde_json::{Value, json};

use super::attribute_features;
use super::grad::{metric, refuse_unread, target, tensor_file};
use crate::args::{Args, Attribute, MethodArg, PointsArg, RuleArg, SmoothArg};
use crate::failure::Failure;
use crate::hosted;
use crate::output::{self, Cell, Destination, PLAIN};
use crate::progress::Counted;
use crate::session::{self, Prompt, Session, token_text};
use crate::tensors::{self, Stored};

/// Shared by both methods.
struct Opened<'a> {
    session: Rc<Session>,
    tokenizer: Rc<Tokenizer>,
    prompt: Prompt,
    base: Option<Prompt>,
    metric: Metric,
    attribute: &'a Attribute,
    file: Option<&'a Path>,
    targets: Vec<Destination>,
}

pub(crate) fn run(args: &Args, attribute: &Attribute) -> Result<(), Failure> {
    if attribute_features::is_asked(attribute)? {
        refuse_unread(&attribute.measure)?;
        if attribute.method != MethodArg::Patching {
            return Err(Failure::usage("--method integrated: features are scored by their gradients")
                .hint("leave --method out"));
        }
        return attribute_features::run(args, attribute);
    }
    if let Some(pairs) = &attribute.prompt.pairs {
        refuse_unread(&attribute.measure)?;
        refuse_other_method(attribute)?;
        return super::attribute_pairs::run(args, attribute, pairs);
    }
    let file = tensor_file(args)?;
    let targets = if file.is_none() { output::targets(args, PLAIN)? } else { Vec::new() };
    refuse_unread(&attribute.measure)?;
    refuse_other_method(attribute)?;
    let session = session::load(&attribute.model.model, &attribute.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &attribute.model.loading.finding)?;
    let context = session.model.arch().context;
    let asked = attribute.prompt.one();
    let prompt = asked.read(&tokenizer, context)?;
    let cut = |text: &String| asked.cut(text.clone(), &tokenizer, context);
    let base = attribute.base.as_ref().map(cut).transpose()?;
    let metric = metric(&attribute.measure, &session, &tokenizer, &prompt)?;
    let opened = Opened {
        session,
        tokenizer,
        prompt,
        base,
        metric,
        attribute,
        file: file.map(std::path::PathBuf::as_path),
        targets,
    };
    match attribute.method {
        MethodArg::Patching => opened.patching(),
        MethodArg::Integrated => opened.integrated(),
    }
}

/// Refuses flags of the other method.
fn refuse_other_method(attribute: &Attribute) -> Result<(), Failure> {
    let of_patching = [
        ("--activations", !attribute.activations.is_empty()),
        ("--rule", attribute.rule.is_some()),
        ("--check", attribute.check.is_some()),
        ("--positions", attribute.positions != ["all"]),
        ("-k", attribute.k.is_some()),
        ("--pairs", attribute.prompt.pairs.is_some()),
    ];
    let of_integrated = [("--points", attribute.points.is_some()), ("--steps", attribute.steps.is_some())];
    let (flags, other) = match attribute.method {
        MethodArg::Patching => (&of_integrated[..], "integrated"),
        MethodArg::Integrated => (&of_patching[..], "patching"),
    };
    if let Some((flag, _)) = flags.iter().find(|(_, is_given)| *is_given) {
        return Err(Failure::usage(format!("{flag} is for --method {other}")));
    }
    let has_other = attribute.base.is_some() || attribute.prompt.pairs.is_some();
    if attribute.method == MethodArg::Patching && !has_other {
        return Err(Failure::usage("attribution patching compares two prompts")
            .hint("name the other: --base TEXT; or --method integrated, from zeros"));
    }
    Ok(())
}

impl Opened<'_> {
    fn text(&self, id: u32) -> String {
        token_text(&self.tokenizer, id)
    }

    /// The JSON common to both methods.
    fn summary(&self, method: &str, value: f64, base: Option<f64>) -> Value {
        json!({
            "schema": "easyroutine.attribute/1",
            "model": self.session.model_json(),
            "method": method,
            "metric": self.metric.to_json(),
            "value": value,
            "base": base,
            "prompts": {
                "prompt": self.prompt.text,
                "base": self.base.as_ref().map(|base| base.text.as_str()),
            },
        })
    }

    fn patching(&self) -> Result<(), Failure> {
        let Opened { session, prompt, attribute, .. } = self;
        let keys = match attribute.activations.is_empty() {
            true => "z_L*".to_owned(),
            false => attribute.activations.join(","),
        };
        let request = Request::parse(&keys, &attribute.positions.join(","))?;
        if attribute.measure.metric == SmoothArg::Kl && attribute.measure.target.is_some() {
            return Err(Failure::usage("--target: the base is what `kl` is measured from"));
        }
        let context =
            Context { special: self.tokenizer.special_ids(), seed: attribute.seed, ..Context::default() };
        let Some(base) = &self.base else { return Ok(()) };
        let rule = attribute.rule.map_or(Rule::Gradient, RuleArg::rule);
        let (rows, others, metrics) = ([prompt.row()], [base.row()], [self.metric]);
        let model = &session.model;
        let found =
            attribution_patching(model, &others, &rows, &request, &metrics, rule, context, hosted::stop())?;
        let check = attribute.check.map(|most| {
            let bar = Counted::new("runs");
            let progress = |done, of| bar.tell(done, of);
            let check = check_largest(model, &rows[0], &found, 0, most, progress);
            bar.finish();
            check
        });
        let check = check.transpose()?;
        let of_base =
            (self.metric != Metric::Kl && self.metric != Metric::CrossEntropy).then(|| found.base[0]);
        let mut summary = self.summary("patching", found.target[0], of_base);
        summary["rule"] = reports::rule_name(rule).into();
        summary["check"] = check.as_ref().map_or(Value::Null, Check::to_json);
        self.say(found.target[0], of_base, ["base", "base"]);
        if let Some(check) = &check {
            output::note("check", reports::check_words(check).trim_start_matches("check: "));
        }
        if let Some(file) = self.file {
            let named = |(point, kept): &(easyroutine::sites::Point, Kept)| (point.to_string(), kept.clone());
            return write(file, found.scores.iter().map(named).collect(), &summary);
        }
        let cells = found.largest(0, attribute.most());
        summary["cells"] = cells.iter().map(|cell| self.cell_json(cell)).collect();
        let mut rows: Vec<Vec<Cell>> = cells.iter().map(|cell| self.cell(cell)).collect();
        let mut header = vec!["activation", "position", "token", "part", "score"];
        if let Some(check) = &check {
            // The largest cells are those that were run, in the same order.
            header.push("exact");
            for (number, row) in rows.iter_mut().enumerate() {
                let exact = check.cells.get(number).map(|cell| cell.exact);
                row.push(
                    exact.map_or(String::new().into(), |exact| Cell::new(format!("{exact:+.4}"), exact)),
                );
            }
        }
        output::tables(&self.targets, &header, &rows, &summary)
    }

    /// Prints the metric: for a KL divergence with its reference, and the other value with its name.
    fn say(&self, value: f64, base: Option<f64>, [reference, name]: [&str; 2]) {
        let text = |id| format!("{:?}", self.text(id));
        let words = reports::metric_words(self.metric, &text, [reference, "run"]);
        let base = base.map_or(String::new(), |base| format!("; of the {name} {base:.6}"));
        output::note("metric", &format!("{words} = {value:.6}{base}"));
    }

    fn token(&self, position: usize) -> String {
        self.prompt.encoded.ids.get(position).map_or(String::new(), |id| self.text(*id))
    }

    fn cell_json(&self, cell: &Score) -> Value {
        json!({
            "activation": cell.point.to_string(),
            "position": cell.position,
            "token": self.token(cell.position),
            "part": cell.part,
            "score": cell.value,
        })
    }

    fn cell(&self, cell: &Score) -> Vec<Cell> {
        vec![
            cell.point.to_string().into(),
            Cell::new(cell.position.to_string(), cell.position),
            Cell::token(&self.token(cell.position)),
            cell.part.map_or(String::new(), |part| part.to_string()).into(),
            Cell::new(format!("{:+.4}", cell.value), cell.value),
        ]
    }

    fn integrated(&self) -> Result<(), Failure> {
        let Opened { session, prompt, attribute, .. } = self;
        let quadrature = match attribute.points.unwrap_or(PointsArg::Gausslegendre) {
            PointsArg::Left => Quadrature::Left,
            PointsArg::Right => Quadrature::Right,
            PointsArg::Midpoint => Quadrature::Midpoint,
            PointsArg::Gausslegendre => Quadrature::GaussLegendre,
        };
        let steps = attribute.steps.unwrap_or(50);
        let others: Vec<_> = self.base.iter().map(Prompt::row).collect();
        let baseline = if others.is_empty() { Baseline::Zero } else { Baseline::Rows(&others) };
        let target = target(&attribute.measure)?;
        let (rows, metrics) = ([prompt.row()], [self.metric]);
        let bar = Counted::new("points");
        let progress = |done, of| bar.tell(done, of);
        let model = &session.model;
        let target = target.as_deref();
        let found = integrated_gradients(
            model,
            &rows,
            baseline,
            &metrics,
            target,
            quadrature,
            steps,
            hosted::stop(),
            progress,
        );
        bar.finish();
        let found: Integrated = found?;
        found.warnings().iter().for_each(|warning| output::note("warning", warning));
        self.say(found.values[0], Some(found.baselines[0]), ["target", "baseline"]);
        output::note(
            "sum",
            &format!(
                "attributions sum to {:.6}; {:+.6} is missing",
                found.values[0] - found.baselines[0] - found.missing[0],
                found.missing[0]
            ),
        );
        let mut summary = self.summary("integrated", found.values[0], Some(found.baselines[0]));
        summary["steps"] = steps.into();
        summary["points"] = format!("{quadrature:?}").to_lowercase().into();
        summary["missing"] = found.missing[0].into();
        if let Some(file) = self.file {
            return write(file, vec![("input_embeddings".to_owned(), found.attributions)], &summary);
        }
        let tokens = &found.by_token()[0];
        let json = |(position, value): (usize, &f64)| json!({"position": position, "token": self.token(position), "score": value});
        summary["tokens"] = tokens.iter().enumerate().map(json).collect();
        let row = |(position, value): (usize, &f64)| {
            let (position, shown) = (Cell::new(position.to_string(), position), self.token(position));
            vec![position, Cell::token(&shown), Cell::new(format!("{value:+.4}"), value)]
        };
        let rows: Vec<Vec<Cell>> = tokens.iter().enumerate().map(row).collect();
        output::tables(&self.targets, &["position", "token", "attribution"], &rows, &summary)
    }
}

/// Writes the scores of one row, by activation.
fn write(file: &Path, scores: Vec<(String, Kept)>, summary: &Value) -> Result<(), Failure> {
    let stored = scores.iter().map(|(name, kept)| Stored {
        name: name.clone(),
        shape: kept.shape().unwrap_or_default(),
        numbers: tensors::Data::Kept(Cow::Borrowed(&kept.data)),
    });
    let stored: Vec<Stored<'_>> = stored.collect();
    let metadata: Vec<(&str, String)> = summary
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect();
    output::replace(file, |at| tensors::write(&mut BufWriter::new(File::create(at)?), &metadata, stored))
}
