//! The Python equivalent of a command.

use easyroutine::Dtype;
use easyroutine::edit::{Intervention, Operation, Part, Reference, Softmax};
use easyroutine::positions::Specifier;
use serde_json::{Value, json};

use super::python_runs;
use crate::args::{
    AlongArg, Attribute, ByArg, Command, CutArg, DictActive, DictCommand, EffectArg, Loading, Measure,
    MethodArg, ModelFlag, Next, SmoothArg, Sweep,
};

/// Flags for loading a model, which every call has.
const OF_MODEL: &[&str] = &[
    "--model",
    "--dtype",
    "--threads",
    "--revision",
    "--pre",
    "--adapter",
    "--allow-config-key",
    "--allow-tensor",
    "--no-adapter",
    "--offline",
];

/// Flags translated below, by command. A command with any other flag has no Python equivalent: omitting a flag would
/// change the result.
const SPELT: &[(&str, &[&str])] = &[
    ("lens", &["-k", "--layers", "--positions", "--component", "--track", "--intervene"]),
    ("attn", &["--layer", "--head", "--intervene"]),
    ("run", &["-k", "--generate", "--temperature", "--chat", "--intervene"]),
    ("dla", &["-k", "--answer", "--against", "--by", "--positions", "--intervene"]),
    (
        "patch",
        &[
            "--base",
            "--along",
            "--experts",
            "--site",
            "--layers",
            "--positions",
            "--metric",
            "--answer",
            "--against",
            "--estimate",
            "--check",
        ],
    ),
    (
        "ablate",
        &[
            "--by",
            "--with",
            "--along",
            "--experts",
            "--site",
            "--layers",
            "--positions",
            "--metric",
            "--answer",
            "--against",
            "--estimate",
            "--check",
        ],
    ),
    (
        "attribute",
        &["-k", "-a", "--base", "--method", "--metric", "--answer", "--against", "--check", "--steps"],
    ),
    ("edges", &["--base", "--top", "--answer", "--against"]),
    ("graph", &["--dict-set", "--answer"]),
    ("dict", &["-k", "--dict", "--intervene", "--features", "--examples"]),
    ("tokens", &[]),
    ("runs", &["--base", "--experiment", "--rows"]),
];

/// Whether all flags before `--` are translated. A value that looks like a flag only costs the Python equivalent.
fn is_spelt(words: &[String]) -> bool {
    let Some((_, flags)) = words.first().and_then(|name| SPELT.iter().find(|(command, _)| command == name))
    else {
        return false;
    };
    let mut given = words.iter().take_while(|word| *word != "--").filter(|word| word.starts_with('-'));
    given.all(|word| {
        let flag = word.split('=').next().unwrap_or_default();
        flags.contains(&flag) || OF_MODEL.contains(&flag) || word.parse::<i64>().is_ok()
    })
}

/// The Python program that gives the same result; `None` for a command without a call in the package, or with flags not
/// translated here. `words` are the command's, from its name on.
///
/// Tokens chosen by the command itself are taken from its report.
pub(super) fn of(command: &Command, words: &[String], report: &Value) -> Option<String> {
    if !is_spelt(words) {
        return None;
    }
    match command {
        Command::Lens(lens) => {
            let mut call = Call::of("lens", lens.prompt.prompt.as_deref()?);
            call.optional("layers", lens.layers.as_deref());
            call.positions("positions", &lens.positions)?;
            if lens.component != "resid_out" {
                call.text("component", &lens.component);
            }
            call.literal("k", &lens.k.to_string());
            call.token("track", lens.track.as_deref());
            call.interventions(&lens.changes.intervene)?;
            call.with_model(&lens.model)
        }
        Command::Attn(attn) => {
            let mut call = Call::of("attention", attn.prompt.prompt.as_deref()?);
            call.optional("layer", attn.layer.as_deref());
            call.optional("head", attn.head.as_deref());
            call.interventions(&attn.changes.intervene)?;
            call.with_model(&attn.model)
        }
        Command::Run(next) => run(next),
        Command::Dla(dla) => {
            let mut call = Call::of("direct_attribution", dla.prompt.prompt.as_deref()?);
            call.arguments.push(chosen(dla.answer.as_deref(), &report["answer"])?);
            call.arguments.extend(dla.against.as_deref().map(token));
            let by = match dla.by {
                CutArg::Part => "part",
                CutArg::Head => "head",
                CutArg::Neuron => "neuron",
                CutArg::Stream => return None,
            };
            call.text("by", by);
            call.positions("target_token_positions", &dla.positions)?;
            call.interventions(&dla.changes.intervene)?;
            call.with_model(&dla.model)
        }
        Command::Patch(patch) => {
            let mut call = Call::of("sweep", patch.prompt.prompt.as_deref()?);
            call.text("by", "patch");
            call.text("base", &patch.base);
            sweep(call, &patch.sweep, "positions", report)?.with_model(&patch.model)
        }
        Command::Ablate(ablate) => {
            let prompt = ablate.prompt.prompt.as_deref()?;
            let mut call = Call::of("sweep", prompt);
            match ablate.by {
                ByArg::Zero => call.text("by", "zero"),
                ByArg::Mean if ablate.over.is_some() => return None,
                ByArg::Mean => {
                    call.text("by", "mean");
                    call.literal("base", &format!("[{}]", literal(prompt)));
                }
                ByArg::Resample => {
                    call.text("by", "resample");
                    call.text("base", ablate.with.as_deref()?);
                }
            }
            sweep(call, &ablate.sweep, "heads", report)?.with_model(&ablate.model)
        }
        Command::Attribute(attribute) => attributed(attribute, report),
        Command::Edges(edges) => {
            let mut call = Call::of("edges", edges.prompt.as_deref()?);
            call.arguments.push(literal(edges.base.as_deref()?));
            // The data of a picture has the metric on top, the report among what is ours.
            let metric = report.get("metric").unwrap_or(&report["easyroutine"]["metric"]);
            call.literal("answer", &chosen(edges.answer.as_deref(), &metric["answer"])?);
            call.literal("against", &chosen(edges.against.as_deref(), &metric["against"])?);
            call.literal("top", &edges.top.to_string());
            call.with_model(&edges.model)
        }
        Command::Graph(graph) => {
            let mut call = Call::of("attribution_graph", graph.prompt.prompt.as_deref()?);
            call.arguments.push(literal(&graph.dict_set));
            if !graph.answer.is_empty() {
                let answers: Vec<String> = graph.answer.iter().map(|text| token(text)).collect();
                call.literal("answers", &format!("[{}]", answers.join(", ")));
            }
            call.with_model(&graph.model)
        }
        Command::Dict { command: DictCommand::Active(active) } => features(active, report),
        Command::Dict { command: DictCommand::Page(page) } => Some(format!(
            "import json\n\nwith open({}) as lines:\n    features = [json.loads(line) for line in lines]\n",
            literal(page.file.to_str()?)
        )),
        Command::Tokens(tokens) => {
            let prompt = literal(tokens.prompt.prompt.as_deref()?);
            Some(format!("{}ids = model.get_tokenizer().encode({prompt})\n", preamble(&tokens.model)))
        }
        Command::Runs(runs) => python_runs::of(runs),
        _ => None,
    }
}

/// The features of one dictionary of one layer: those of a set are asked for layer by layer in Python.
fn features(active: &DictActive, report: &Value) -> Option<String> {
    let [given] = active.changes.dictionaries.dict.as_slice() else { return None };
    let (_, path) = given.split_once('=')?;
    if report["keys"].as_array()?.len() != 1 {
        return None;
    }
    let mut call = Call::of("", active.prompt.prompt.as_deref()?);
    call.interventions(&active.changes.intervene)?;
    let import = if call.needs_intervention {
        "Dictionary, HookedModel, Intervention"
    } else {
        "Dictionary, HookedModel"
    };
    let preamble = preamble(&active.model).replacen("import HookedModel", &format!("import {import}"), 1);
    let arguments = call.arguments.join(", ");
    Some(format!("{preamble}features = Dictionary({}).features(model, {arguments})\n", literal(path)))
}

fn run(next: &Next) -> Option<String> {
    let prompt = next.prompt.prompt.as_deref()?;
    let generation = &next.generation;
    let Some(count) = generation.generate else {
        if next.prompt.chat.chat {
            return None;
        }
        let mut call = Call::of("predict", prompt);
        call.literal("k", &next.k.to_string());
        call.interventions(&next.changes.intervene)?;
        return call.with_model(&next.model);
    };
    let mut call = Call::of("generate", prompt);
    if next.prompt.chat.chat {
        call.arguments = vec![format!("[{}]", json!({"role": "user", "content": prompt}))];
    }
    call.literal("max_new_tokens", &count.to_string());
    call.literal("return_text", "True");
    if let Some(temperature) = generation.temperature.filter(|t| *t > 0.0) {
        call.literal("do_sample", "True");
        call.literal("temperature", &json!(temperature).to_string());
        call.literal("seed", &next.changes.seed.to_string());
    }
    call.interventions(&next.changes.intervene)?;
    call.with_model(&next.model)
}

fn sweep(mut call: Call, sweep: &Sweep, along: &str, report: &Value) -> Option<Call> {
    // Python opens dictionaries in lines of their own.
    if !sweep.dictionaries.dict.is_empty() {
        return None;
    }
    let along = match sweep.along {
        None => along,
        Some(AlongArg::Positions) => "positions",
        Some(AlongArg::Heads) => "heads",
        Some(AlongArg::Sites) => "sites",
        Some(AlongArg::Experts) => "experts",
        Some(AlongArg::Features) => return None,
    };
    call.text("along", along);
    if sweep.experts.is_some() {
        let number = |column: &Value| column.as_str()?.strip_prefix("expert ")?.parse::<usize>().ok();
        let experts = report["columns"].as_array()?.iter().map(number).collect::<Option<Vec<_>>>()?;
        call.literal("experts", &json!(experts).to_string());
    }
    match sweep.site.as_deref() {
        Some(sites) if sites.contains(',') => {
            call.literal("site", &json!(sites.split(',').map(str::trim).collect::<Vec<_>>()).to_string());
        }
        site => call.optional("site", site),
    }
    call.optional("layers", sweep.layers.as_deref());
    call.positions("positions", &sweep.positions)?;
    let metric = match sweep.metric {
        EffectArg::LogitDiff => "logit_diff",
        EffectArg::Normalised => "normalised_logit_diff",
        EffectArg::P => "probability",
        EffectArg::Kl => "kl",
        EffectArg::Rank => "rank",
    };
    call.text("metric", metric);
    if sweep.metric != EffectArg::Kl {
        call.literal("answer", &chosen(sweep.answer.as_deref(), &report["metric"]["answer"])?);
    }
    if matches!(sweep.metric, EffectArg::LogitDiff | EffectArg::Normalised) {
        call.literal("against", &chosen(sweep.against.as_deref(), &report["metric"]["against"])?);
    }
    if sweep.estimating.estimate {
        call.literal("estimate", "True");
    }
    if let Some(check) = sweep.estimating.check {
        call.literal("check", &check.to_string());
    }
    Some(call)
}

fn attributed(attribute: &Attribute, report: &Value) -> Option<String> {
    let prompt = attribute.prompt.prompt.as_deref()?;
    let mut call = match attribute.method {
        MethodArg::Patching => {
            let mut call = Call::of("attribution_patching", prompt);
            call.arguments.push(literal(attribute.base.as_deref()?));
            let keys = match attribute.activations.is_empty() {
                true => "z_L*".to_owned(),
                false => attribute.activations.join(","),
            };
            call.arguments.push(json!(keys.split(',').collect::<Vec<_>>()).to_string());
            call
        }
        MethodArg::Integrated => {
            let mut call = Call::of("integrated_gradients", prompt);
            if let Some(base) = &attribute.base {
                call.text("baseline", base);
            }
            if let Some(steps) = attribute.steps {
                call.literal("steps", &steps.to_string());
            }
            call
        }
    };
    measure(&mut call, &attribute.measure, &report["metric"])?;
    if let Some(check) = attribute.check {
        call.literal("check", &check.to_string());
    }
    call.with_model(&attribute.model)
}

fn measure(call: &mut Call, measure: &Measure, report: &Value) -> Option<()> {
    let metric = match measure.metric {
        SmoothArg::LogitDiff => "logit_diff",
        SmoothArg::Logit => "logit",
        SmoothArg::Logprob => "logprob",
        SmoothArg::P => "p",
        SmoothArg::Kl => "kl",
        SmoothArg::Ce => "ce",
    };
    call.text("metric", metric);
    if !matches!(measure.metric, SmoothArg::Kl | SmoothArg::Ce) {
        call.literal("answer", &chosen(measure.answer.as_deref(), &report["answer"])?);
    }
    if measure.metric == SmoothArg::LogitDiff {
        call.literal("against", &chosen(measure.against.as_deref(), &report["against"])?);
    }
    Some(())
}

/// A method call on the model.
struct Call {
    method: &'static str,
    arguments: Vec<String>,
    needs_intervention: bool,
}

impl Call {
    fn of(method: &'static str, prompt: &str) -> Self {
        Call { method, arguments: vec![literal(prompt)], needs_intervention: false }
    }

    fn literal(&mut self, name: &str, value: &str) {
        self.arguments.push(format!("{name}={value}"));
    }

    fn text(&mut self, name: &str, text: &str) {
        self.literal(name, &literal(text));
    }

    fn optional(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    fn token(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.literal(name, &token(text));
        }
    }

    fn positions(&mut self, name: &str, given: &[String]) -> Option<()> {
        if !given.is_empty() {
            let specifiers = Specifier::parse_lists(given).ok()?;
            self.literal(name, &positions(&specifiers));
        }
        Some(())
    }

    fn interventions(&mut self, given: &[String]) -> Option<()> {
        if given.is_empty() {
            return Some(());
        }
        let written = given.iter().map(|text| intervention(text)).collect::<Option<Vec<_>>>()?;
        self.needs_intervention = true;
        self.literal("interventions", &format!("[{}]", written.join(", ")));
        Some(())
    }

    fn with_model(self, model: &ModelFlag) -> Option<String> {
        let mut text = preamble(model);
        if self.needs_intervention {
            text = text.replacen("import HookedModel", "import HookedModel, Intervention", 1);
        }
        Some(format!("{text}result = model.{}({})\n", self.method, self.arguments.join(", ")))
    }
}

fn preamble(model: &ModelFlag) -> String {
    let Loading { finding, dtype, threads, memory, device: _ } = &model.loading;
    let mut arguments = vec![literal(&model.model)];
    if dtype.dtype() == Dtype::Bf16 {
        arguments.push("dtype=\"bfloat16\"".to_owned());
    }
    arguments.extend(threads.map(|n| format!("threads={n}")));
    arguments.extend(memory.map(|bytes| format!("memory={bytes}")));
    let mut text = |name: &str, value: &Option<String>| {
        arguments.extend(value.as_ref().map(|value| format!("{name}={}", literal(value))));
    };
    text("revision", &finding.revision);
    text("pre", &finding.pre);
    text("adapter", &finding.adapter);
    let mut list = |name: &str, values: &[String]| {
        if !values.is_empty() {
            arguments.push(format!("{name}={}", json!(values)));
        }
    };
    list("allow_config_keys", &finding.allow_config_key);
    list("allow_tensors", &finding.allow_tensor);
    if finding.no_adapter {
        arguments.push("adapter=False".to_owned());
    }
    format!(
        "from easyroutine.interpretability import HookedModel\n\nmodel = HookedModel.from_pretrained({})\n",
        arguments.join(", ")
    )
}

/// A change that sets to zero or scales, in Python. Those that read a file or another row are written differently.
fn intervention(text: &str) -> Option<String> {
    let Intervention { activation, entries, part, operation } =
        text.parse::<Intervention<Reference>>().ok()?;
    let is_before = matches!(part, Part::Columns(_, Softmax::Before) | Part::Rows(_, Softmax::Before));
    let factor = match operation {
        Operation::Scale(factor) => factor,
        Operation::Set(0.0) => 0.0,
        // A knock-out, which is a factor of 0 in Python.
        Operation::Set(f32::NEG_INFINITY) if is_before => 0.0,
        _ => return None,
    };
    let (name, at) = match &part {
        Part::Full(at) => ("full", positions(at)),
        Part::Columns(at, Softmax::After) => ("columns", positions(at)),
        Part::Columns(at, Softmax::Before) => ("columns_pre_softmax", positions(at)),
        Part::Rows(at, Softmax::After) => ("rows", positions(at)),
        Part::Rows(at, Softmax::Before) => ("rows_pre_softmax", positions(at)),
        _ => return None,
    };
    if !entries.is_empty() {
        return None;
    }
    let factor =
        if factor == 0.0 { String::new() } else { format!(", multiplication_value={}", json!(factor)) };
    Some(format!("Intervention(\"{name}\", {}, {at}{factor})", literal(&activation.to_string())))
}

/// Specifiers as a list: `-1` is a number, `4:9` a pair, anything else its text.
fn positions(specifiers: &[Specifier]) -> String {
    let one = |specifier: &Specifier| match crate::commands::runs::position(specifier) {
        Value::Array(pair) => {
            format!("({})", pair.iter().map(Value::to_string).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    };
    format!("[{}]", specifiers.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// The token that was named, or chosen by the command.
fn chosen(named: Option<&str>, of_report: &Value) -> Option<String> {
    named.map(token).or_else(|| of_report.as_u64().map(|id| id.to_string()))
}

/// A token by its text, or by its id.
fn token(text: &str) -> String {
    match text.strip_prefix("id:").and_then(|id| id.parse::<u32>().ok()) {
        Some(id) => id.to_string(),
        None => literal(text),
    }
}

/// A Python string literal: JSON's escapes are valid in Python too.
pub(super) fn literal(text: &str) -> String {
    Value::from(text).to_string()
}
