//! `edges`: scores of edges, and the faithfulness of the circuit of the largest.

use std::path::Path;
use std::rc::Rc;

use easyroutine::Error;
use easyroutine::attribution::edges::{
    Circuit, CircuitRunner, EdgeMethod, EdgeScorer, Faithfulness, Graph, ends, sizes,
};
use easyroutine::patching::Metric;
use easyroutine::prompts;
use easyroutine::tokens::Tokenizer;
use easyroutine_app::edges::EdgeScores;
use easyroutine_app::record;
use easyroutine_app::reports::{self, CircuitWords};
use easyroutine_view::drawing::CircuitDrawing;
use serde_json::{Value, json};

use super::pairs::{self, Ids, Pairs};
use crate::args::{Args, EdgeArg, Edges, SmoothArg};
use crate::failure::Failure;
use crate::hosted;
use crate::output::{self, DRAWN, Destination};
use crate::progress::Counted;
use crate::session::{self, Session, token_text};

struct Opened<'a> {
    edges: &'a Edges,
    session: Rc<Session>,
    tokenizer: Rc<Tokenizer>,
    n_pairs: usize,
}

pub(crate) fn run(args: &Args, edges: &Edges) -> Result<(), Failure> {
    let targets = output::targets(args, DRAWN)?;
    refuse_unread(edges)?;
    let session = session::load(&edges.model.model, &edges.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &edges.model.loading.finding)?;
    let n_pairs = edges.pairs.as_ref().map_or(Ok(1), |file| pairs::count(file, edges.limit, edges.metric))?;
    let opened = Opened { edges, session, tokenizer, n_pairs };
    let graph = Graph::of(opened.session.model.arch())?;
    let (circuit, scores) = match &edges.circuit {
        Some(file) => read_circuit(&graph, file)?,
        None => {
            let scores = opened.scores()?;
            (Circuit::top(&graph, &scores, edges.top)?, scores)
        }
    };
    let found = opened.faithful(&graph, &circuit, &scores)?;
    opened.write(args, &targets, &graph, &circuit, &scores, &found)
}

fn refuse_unread(edges: &Edges) -> Result<(), Failure> {
    if edges.metric == SmoothArg::Ce {
        return Err(Failure::usage(
            "--metric ce: a circuit is compared at the last token, and `ce` is a sum over all",
        ));
    }
    if edges.steps.is_some() && edges.method != EdgeArg::EapIg {
        return Err(Failure::usage("--steps is for --method eap-ig"));
    }
    let reads_against = edges.metric == SmoothArg::LogitDiff;
    let reads_answer = edges.metric != SmoothArg::Kl;
    if edges.against.is_some() && !reads_against || edges.answer.is_some() && !reads_answer {
        return Err(Failure::usage("--answer, --against: the metric does not read it")
            .hint("logit-diff reads both; logit, logprob and p read --answer; kl reads neither"));
    }
    Ok(())
}

pub(super) fn metric_name(metric: SmoothArg) -> &'static str {
    match metric {
        SmoothArg::LogitDiff => "logit_diff",
        SmoothArg::Logit => "logit",
        SmoothArg::Logprob => "logprob",
        SmoothArg::P => "probability",
        SmoothArg::Kl => "kl",
        SmoothArg::Ce => "ce",
    }
}

fn read_circuit(graph: &Graph, file: &Path) -> Result<(Circuit, Vec<f64>), Failure> {
    let at = |e: Error| Failure::from(e).at(file.display());
    let text = session::read_file(file)?;
    let json: Value = serde_json::from_str(&text)
        .map_err(|e| Failure::failed(format!("{}: not JSON: {e}", file.display())))?;
    Circuit::from_json(graph, &json).map_err(at)
}

/// Results of running circuits.
struct Found {
    pairs: usize,
    clean: f64,
    corrupted: f64,
    /// The metric of the last pair.
    metric: Option<Metric>,
    circuit: f64,
    faithfulness: Option<f64>,
    curve: Option<Faithfulness>,
}

impl Opened<'_> {
    /// Visits every pair, as ids.
    fn each_pair(&self, mut visit: impl FnMut(Ids) -> Result<(), Failure>) -> Result<(), Failure> {
        let pairs = Pairs {
            model: &self.session.model,
            tokenizer: &self.tokenizer,
            cutting: &self.edges.cutting,
            metric: self.edges.metric,
        };
        let Some(file) = &self.edges.pairs else {
            let text = |text: &Option<String>| prompts::Prompt::Text(text.clone().unwrap_or_default());
            let (clean, corrupt) = (text(&self.edges.prompt), text(&self.edges.base));
            let token = |flag, given| session::token_named(flag, given, &self.tokenizer);
            let answer = token("--answer", &self.edges.answer)?;
            let against = token("--against", &self.edges.against)?;
            return visit(pairs.ids(clean, corrupt, answer, against)?);
        };
        pairs.each(file, self.edges.limit, visit)
    }

    fn method(&self) -> EdgeMethod {
        match self.edges.method {
            EdgeArg::Eap => EdgeMethod::Eap,
            EdgeArg::EapIg => EdgeMethod::EapIg { steps: self.edges.steps.unwrap_or(5) },
            EdgeArg::CleanCorrupted => EdgeMethod::CleanCorrupted,
        }
    }

    /// The origin of the sums; for a circuit read from a file, as far as known.
    fn origin(&self) -> Result<Value, Failure> {
        if let Some(file) = &self.edges.circuit {
            let metric = metric_name(self.edges.metric);
            return Ok(json!({"circuit": file, "metric": metric, "pairs": self.edges.pairs}));
        }
        // The digest reads every weight, so compute it only if a later run will continue from here.
        let digest = match &self.edges.state {
            Some(_) => Some(self.session.identity.digest()?),
            None => None,
        };
        let (rule, metric) = (self.edges.rule.rule(), metric_name(self.edges.metric));
        Ok(record::edge_scores(digest, self.method(), rule, metric))
    }

    /// Mean scores over all pairs.
    fn scores(&self) -> Result<Vec<f64>, Failure> {
        let scorer = EdgeScorer::new(&self.session.model, self.method(), self.edges.rule.rule())?;
        let mut kept = None;
        if let Some(file) = &self.edges.state {
            output::folder_exists(file)?;
            kept = Some((file.as_path(), self.origin()?));
        }
        let mut scores = EdgeScores::open(scorer, kept)?;
        if let (Some(file), n) = (&self.edges.state, scores.n())
            && n > 0
        {
            output::note("note", &format!("continues after {n} pairs of {}", file.display()));
        }
        let (mut number, bar) = (0, Counted::new("pairs"));
        let read = self.each_pair(|pair| {
            scores.add([&pair.clean, &pair.corrupted], pair.metric, hosted::stop())?;
            number += 1;
            Ok(bar.tell(number, self.n_pairs)?)
        });
        bar.finish();
        scores.finish(read)
    }

    /// Runs the circuit, and those of the curve, on every pair.
    fn faithful(&self, graph: &Graph, circuit: &Circuit, scores: &[f64]) -> Result<Found, Failure> {
        let model = &self.session.model;
        let runner = CircuitRunner::new(model)?;
        let mut circuits = vec![circuit.clone()];
        if self.edges.curve {
            for n in sizes(graph) {
                circuits.push(Circuit::top(graph, scores, n)?);
            }
        }
        let mut sums = vec![0.0; circuits.len()];
        let (mut metrics, mut pairs, mut metric) = ([0.0; 2], 0, None);
        let bar = Counted::new("pairs run");
        let all = self.n_pairs;
        let run = self.each_pair(|pair| {
            let values = runner.run(&pair.clean, &pair.corrupted, pair.metric, &circuits, hosted::stop())?;
            sums.iter_mut().zip(values).for_each(|(sum, x)| *sum += x);
            let ends = ends(model, &pair.clean, &pair.corrupted, pair.metric)?;
            metrics.iter_mut().zip(ends).for_each(|(sum, x)| *sum += x);
            pairs += 1;
            metric = Some(pair.metric);
            bar.tell(pairs, all)?;
            Ok(())
        });
        bar.finish();
        run?;
        let mean = |sum: f64| sum / pairs.max(1) as f64;
        let (clean, corrupted) = (mean(metrics[0]), mean(metrics[1]));
        let of_circuit = mean(sums[0]);
        let curve = match self.edges.curve {
            true => {
                let sizes = circuits[1..].iter().map(Circuit::len).collect();
                Some(Faithfulness::of(sizes, sums[1..].iter().map(|x| mean(*x)).collect(), clean, corrupted)?)
            }
            false => None,
        };
        let faithfulness = (clean != corrupted).then(|| (of_circuit - corrupted) / (clean - corrupted));
        Ok(Found { pairs, clean, corrupted, metric, circuit: of_circuit, faithfulness, curve })
    }

    fn write(
        &self,
        args: &Args,
        targets: &[Destination],
        graph: &Graph,
        circuit: &Circuit,
        scores: &[f64],
        found: &Found,
    ) -> Result<(), Failure> {
        let text = |id: u32| token_text(&self.tokenizer, id);
        let meaning =
            ["corrupting it raises the metric", "corrupting it lowers the metric"].map(str::to_owned);
        let metric = match (found.metric, &self.edges.pairs) {
            (Some(metric), None) => {
                reports::metric_words(metric, &|id| format!("{:?}", text(id)), ["clean", "run"])
            }
            _ => format!("mean {} over {} pairs", metric_name(self.edges.metric), found.pairs),
        };
        let faithful = found.faithfulness.map_or("none".to_owned(), |f| format!("{:.4}", unsigned_zero(f)));
        let method = match &self.edges.circuit {
            Some(file) => format!("the circuit of {}", file.display()),
            None => {
                let steps = match self.method() {
                    EdgeMethod::EapIg { steps } => format!(", {steps} steps"),
                    _ => String::new(),
                };
                format!("{}{steps}, the {} largest edges", self.method().name(), self.edges.top)
            }
        };
        // A circuit read from a file is run unchanged.
        let what = if self.edges.circuit.is_some() { "are in it" } else { "lie on a path" };
        let mut lines = vec![
            format!(
                "{} · {method}; {} of {} edges {what}",
                self.session.files.name,
                circuit.len(),
                graph.n_edges()
            ),
            format!(
                "metric: {metric} · clean {:.4} · corrupted {:.4} · circuit alone {:.4}",
                found.clean, found.corrupted, found.circuit
            ),
            format!(
                "faithfulness (circuit - corrupted) / (clean - corrupted): {faithful}; every other edge carries the corrupted run"
            ),
        ];
        lines.extend(found.curve.as_ref().map(reports::curve_words));
        lines.iter().skip(1).for_each(|line| output::note("circuit", &line.replace(" · ", "; ")));
        let prompts = match (&self.edges.prompt, &self.edges.base) {
            (Some(clean), Some(base)) => {
                vec![("clean".to_owned(), clean.clone()), ("corrupted".to_owned(), base.clone())]
            }
            _ => Vec::new(),
        };
        let mut json = circuit.to_json(graph, scores);
        json["easyroutine"] = json!({
            "schema": "easyroutine.edges/1",
            "model": self.session.model_json(),
            "method": self.origin()?,
            // Over a file of pairs each has tokens of its own.
            "metric": found.metric.filter(|_| self.edges.pairs.is_none()).map(Metric::to_json),
            "pairs": found.pairs,
            "clean": found.clean,
            "corrupted": found.corrupted,
            "circuit": {"edges": circuit.len(), "metric": found.circuit, "faithfulness": found.faithfulness},
            "curve": found.curve.as_ref().map(Faithfulness::to_json),
        });
        let words = CircuitWords { lines, prompts, meaning };
        let report = reports::circuit(graph, circuit, scores, words);
        let drawing = CircuitDrawing { report: &report, most: self.edges.k as usize };
        output::drawings(args, targets, &drawing, || Ok(json.to_string()))
    }
}

/// A number that four decimals show as zero, without the sign that it would keep.
fn unsigned_zero(x: f64) -> f64 {
    if x.abs() < 5e-5 { 0.0 } else { x }
}
