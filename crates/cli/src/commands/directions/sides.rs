//! Activations of two sides: from prompts to run, or from a saved run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use easyroutine::cache::Kept;
use easyroutine::extract::{Example, Options, extract};
use easyroutine::positions::{Context, Specifier};
use easyroutine::prompts::{self, Prompt, Prompts, ReadOptions};
use easyroutine::request::Request;
use easyroutine::sites::{Extent, Point, Scope, Selector};
use easyroutine_dictionaries::check_control_vector;
use easyroutine_store::Run;
use serde_json::{Value, json};

use crate::args::Sides;
use crate::commands::runs::open_run;
use crate::failure::{Failure, one_line};
use crate::output;
use crate::session::{self, Session};

/// Vectors for a list of points, `[rows, width]` each.
type Vectors = Vec<(Point, Vec<f32>)>;

/// The activations of both sides.
pub(super) struct Read {
    pub(super) vectors: Vectors,
    /// Number of rows.
    pub(super) n: usize,
    /// Whether each row is on the positive side, if known.
    pub(super) labels: Option<Vec<bool>>,
    /// Which rows are held out, if a field says so.
    pub(super) held_out: Option<Vec<bool>>,
    /// The model, for results.
    pub(super) model: Value,
    /// The architecture, for a control vector.
    pub(super) model_type: String,
    /// Model, position and data, for a file's header.
    pub(super) about: BTreeMap<String, String>,
}

/// The default way to tell a row's side, if no flag does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsaid {
    /// The fields `positive` and `negative`.
    Pair,
    /// The field `label`.
    Label,
    /// Rows have no sides.
    Nothing,
}

/// Prompts with their labels.
struct Rows {
    prompts: Vec<(usize, Prompt)>,
    labels: Option<Vec<bool>>,
    held_out: Option<Vec<bool>>,
    data: String,
}

impl Sides {
    /// Reads the activations, running the model on prompts if there are any. They are read at `position` unless a flag
    /// names another.
    /// `is_control_vector` says that the result will be written as one.
    ///
    /// # Errors
    /// If files or runs cannot be read, labels do not have exactly two values, activations belong to several sites or do
    /// not fit a control vector, or rows have more than one position.
    pub(super) fn read(
        &self,
        position: &str,
        activations: &str,
        split: Option<&str>,
        unsaid: Unsaid,
        is_control_vector: bool,
    ) -> Result<Read, Failure> {
        let position = self.position.as_deref().unwrap_or(position);
        match &self.run {
            Some(name) => self.of_run(name, activations, split, unsaid, is_control_vector),
            None => self.of_prompts(position, activations, split, unsaid, is_control_vector),
        }
    }

    fn of_prompts(
        &self,
        position: &str,
        activations: &str,
        split: Option<&str>,
        unsaid: Unsaid,
        is_control_vector: bool,
    ) -> Result<Read, Failure> {
        let request = request(activations, position)?;
        let rows = match (&self.file, &self.positive, &self.negative) {
            (Some(file), ..) => self.of_file(file, split, unsaid)?,
            (None, Some(positive), Some(negative)) => self.of_two_files(positive, negative)?,
            _ => return Err(Failure::usage("no prompts given").hint("--file, or --positive and --negative")),
        };
        let model = self.model.as_deref().unwrap_or_default();
        let session = session::load(model, &self.loading)?;
        one_site(request.points(session.model.arch())?.iter().copied(), is_control_vector)?;
        let n = rows.prompts.len();
        let vectors = self.vectors(&session, rows.prompts, &request)?;
        let about = [
            ("model", session.files.name.clone()),
            ("model_digest", session.identity.digest()?.to_owned()),
            ("position", position.to_owned()),
            ("data", rows.data),
        ];
        Ok(Read {
            vectors,
            n,
            labels: rows.labels,
            held_out: rows.held_out,
            model: session.model_json(),
            model_type: session.model_type.to_owned(),
            about: about.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        })
    }

    fn of_two_files(&self, positive: &Path, negative: &Path) -> Result<Rows, Failure> {
        let sides = [(positive, true), (negative, false)];
        let (mut prompts, mut labels) = (Vec::new(), Vec::new());
        for (file, label) in sides {
            let read = self.reading.read(file)?;
            labels.extend(read.prompts.iter().map(|_| label));
            prompts.extend(read.rows.into_iter().zip(read.prompts));
        }
        let data = format!("{} prompts of {} and {}", prompts.len(), positive.display(), negative.display());
        Ok(Rows { prompts, labels: Some(labels), held_out: None, data })
    }

    fn of_file(&self, file: &Path, split: Option<&str>, unsaid: Unsaid) -> Result<Rows, Failure> {
        let pair = match (&self.pair, &self.label, unsaid) {
            (Some(pair), ..) => Some(pair.as_str()),
            (None, None, Unsaid::Pair) => Some("positive,negative"),
            _ => None,
        };
        if let Some(pair) = pair {
            return self.of_pairs(file, pair);
        }
        let Prompts { prompts, rows, .. } = self.reading.read(file)?;
        let n = prompts.len();
        let label = self.label.as_deref().or((unsaid == Unsaid::Label).then_some("label"));
        let names: Vec<String> = label.into_iter().chain(split).map(str::to_owned).collect();
        let fields = match names.is_empty() {
            true => Vec::new(),
            false => prompts::read_fields(file, &names, &rows, &self.reading.options())?,
        };
        let of =
            |wanted: Option<&str>| wanted.and_then(|wanted| fields.iter().find(|(name, _)| name == wanted));
        let labels = of(label).map(|(name, values)| labels(values, name)).transpose()?;
        let held_out = of(split).map(|(name, values)| split_of(values, name)).transpose()?;
        let data = format!("{n} rows of {}", file.display());
        Ok(Rows { prompts: rows.into_iter().zip(prompts).collect(), labels, held_out, data })
    }

    fn of_pairs(&self, file: &Path, pair: &str) -> Result<Rows, Failure> {
        let Some((positive, negative)) = pair.split_once(',').map(|(a, b)| (a.trim(), b.trim())) else {
            return Err(Failure::usage(format!("--pair: `{}` names one field", one_line(pair)))
                .hint("--pair positive,negative"));
        };
        let read = |field: &str| -> Result<Prompts, Failure> {
            let options = ReadOptions { field: field.to_owned(), ..self.reading.options() };
            Ok(prompts::read(file, &options)?)
        };
        let (positive, negative) = (read(positive)?, read(negative)?);
        if positive.rows != negative.rows {
            let other = |row: &&usize| !negative.rows.contains(row);
            let back = |row: &&usize| !positive.rows.contains(row);
            let row = positive.rows.iter().find(other).or_else(|| negative.rows.iter().find(back));
            return Err(Failure::usage(format!(
                "{}: row {} has one prompt of its pair",
                file.display(),
                row.copied().unwrap_or_default()
            )));
        }
        let n = positive.prompts.len();
        let labels = (0..2 * n).map(|row| row < n).collect();
        let data = format!("{n} pairs of {}", file.display());
        let sides = [positive, negative].into_iter().flat_map(|side| side.rows.into_iter().zip(side.prompts));
        Ok(Rows { prompts: sides.collect(), labels: Some(labels), held_out: None, data })
    }

    /// The vectors of prompts at their position.
    fn vectors(
        &self,
        session: &Session,
        prompts: Vec<(usize, Prompt)>,
        request: &Request,
    ) -> Result<Vectors, Failure> {
        let tokenizer = session::tokenizer(&session.files, &self.loading.finding)?;
        let most = session.model.arch().context;
        let mut examples = Vec::with_capacity(prompts.len());
        for (place, (number, prompt)) in prompts.into_iter().enumerate() {
            let Example { ids, .. } = self.cutting.example(number, prompt, &tokenizer, most)?;
            examples.push(Example { number: place, ids, ..Example::default() });
        }
        let context = Context { special: tokenizer.special_ids(), ..Context::default() };
        let cache = extract(&session.model, request, &examples, Options { context, ..Options::default() })?;
        let rows = |kept: &Kept| (0..examples.len()).flat_map(|row| kept.row(row).iter().copied()).collect();
        let point = |key: String| key.parse::<Point>().map_err(|e| Failure::failed(e.to_string()));
        cache.iter().map(|(key, kept)| Ok((point(key.to_string())?, rows(kept)))).collect()
    }

    fn of_run(
        &self,
        name: &str,
        activations: &str,
        split: Option<&str>,
        unsaid: Unsaid,
        is_control_vector: bool,
    ) -> Result<Read, Failure> {
        let run = open_run(self.base.as_deref(), name)?;
        let label = self.label.as_deref().or((unsaid != Unsaid::Nothing).then_some("label"));
        let field = |name: &str| {
            run.fields().find(|(own, _)| *own == name).map(|(_, values)| values).ok_or_else(|| {
                let known: Vec<&str> = run.fields().map(|(own, _)| own).collect();
                Failure::usage(format!("{}: no field `{}` was kept", run.path(), one_line(name)))
                    .hint(format!("it has {known:?}; `extract --keep-fields` keeps fields of the data set"))
            })
        };
        let labels = label.map(|name| labels(field(name)?, name)).transpose()?;
        let held_out = split.map(|name| split_of(field(name)?, name)).transpose()?;
        let points = points_of_run(&run, activations)?;
        one_site(points.iter().copied(), is_control_vector)?;
        let mut vectors = Vec::new();
        let mut n = None;
        for point in points {
            let (values, rows) = vectors_of_run(&run, &point.to_string())?;
            if *n.get_or_insert(rows) != rows {
                return Err(Failure::failed(format!("{}: {point} has {rows} rows", run.path())));
            }
            vectors.push((point, values));
        }
        let n = n.unwrap_or(0);
        let record = run.metadata();
        let model = record.model_name().to_owned();
        let digest = record.store().and_then(|store| store.get("model_digest")).and_then(Value::as_str);
        let data = format!("{n} rows of the run {}", run.path());
        let mut about = BTreeMap::from([("model".to_owned(), model.clone()), ("data".to_owned(), data)]);
        about.extend(digest.map(|digest| ("model_digest".to_owned(), digest.to_owned())));
        let json = json!({"name": model, "digest": digest});
        Ok(Read { vectors, n, labels, held_out, model: json, model_type: model, about })
    }
}

/// The requested points of a run.
fn points_of_run(run: &Run, activations: &str) -> Result<BTreeSet<Point>, Failure> {
    let held: BTreeSet<Point> = run.names().filter_map(|name| name.parse().ok()).collect();
    let past = |number: fn(Point) -> Option<usize>| {
        held.iter().filter_map(|p| number(*p)).max().map_or(0, |n| n + 1)
    };
    let extent =
        Extent { n_layers: past(Point::layer), n_heads: past(Point::head), n_experts: past(Point::expert) };
    let mut found = BTreeSet::new();
    for selector in Selector::parse_list(activations).map_err(|e| Failure::usage(e.to_string()))? {
        let points = selector.points(extent).map_err(|e| Failure::usage(format!("{}: {e}", run.path())))?;
        let had: Vec<Point> = points.iter().copied().filter(|point| held.contains(point)).collect();
        if had.is_empty() || selector.is_exact() && had.len() < points.len() {
            return Err(Failure::usage(format!("{} holds no `{}`", run.path(), one_line(activations)))
                .hint(format!("easyroutine runs load '{}' lists what it holds", run.path())));
        }
        found.extend(had);
    }
    Ok(found)
}

/// One vector per example, and the number of examples.
fn vectors_of_run(run: &Run, key: &str) -> Result<(Vec<f32>, usize), Failure> {
    let loaded = run.read(key)?;
    let (shape, width) = (&loaded.shape, loaded.shape.last().copied().unwrap_or(0));
    let values = loaded.to_f32().unwrap_or_else(|| loaded.widened());
    loaded.check_unchanged()?;
    let examples = loaded.examples();
    let is_one_each = loaded.offsets.windows(2).all(|pair| pair[1] - pair[0] == 1);
    if width == 0 || values.len() != examples * width || !is_one_each {
        return Err(Failure::usage(format!(
            "{}: `{key}` is of shape {shape:?}; one vector of each example is read",
            run.path()
        ))
        .hint("extract one position: --positions last"));
    }
    Ok((values, examples))
}

fn request(activations: &str, position: &str) -> Result<Request, Failure> {
    let request = Request::parse(activations, position)?;
    let is_one =
        matches!(request.positions.as_slice(), [Specifier::Last(_) | Specifier::First | Specifier::At(_)]);
    match is_one {
        true => Ok(request),
        false => Err(Failure::usage(format!(
            "--position {}: one position of each prompt is read",
            one_line(position)
        ))
        .hint("last, first, 5 or -2")),
    }
}

/// A file names its vectors by layer, so they belong to one site with one vector per layer. A control vector allows fewer.
fn one_site(points: impl Iterator<Item = Point> + Clone, is_control_vector: bool) -> Result<(), Failure> {
    let first = points.clone().next().map(Point::site);
    let is_plain = |point: Point| {
        Some(point.site()) == first && matches!(point.site().scope(), Scope::Layer | Scope::LetteredLayer)
    };
    if is_control_vector {
        points.clone().try_for_each(|point| check_control_vector(point.site().name(), point.layer()))?;
    }
    match points.clone().all(is_plain) {
        true => Ok(()),
        false => Err(Failure::usage("-a: activations of one site that has a vector a layer")
            .hint("for example 'resid_out_*', or 'mlp_out_4:9'")),
    }
}

/// Labels with two values, of which the larger is positive.
fn labels(values: &[Value], name: &str) -> Result<Vec<bool>, Failure> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut distinct: Vec<&Value> = Vec::new();
    for value in values {
        if distinct.len() < 3 && !distinct.contains(&value) {
            distinct.push(value);
        }
    }
    let [one, other] = distinct.as_slice() else {
        let many = if distinct.len() < 2 { "one value" } else { "more than two values" };
        return Err(Failure::usage(format!("--label {}: {many}; two are expected", one_line(name))));
    };
    let is_larger = match (number(one), number(other)) {
        (Some(one), Some(other)) => one > other,
        _ => text(one) > text(other),
    };
    let positive = if is_larger { one } else { other };
    output::note("note", &format!("positive is `{name}` = {}", one_line(&text(positive))));
    Ok(values.iter().map(|value| value == *positive).collect())
}

/// A label as a number; cells of CSV are strings.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

fn split_of(values: &[Value], name: &str) -> Result<Vec<bool>, Failure> {
    let held_out: Vec<bool> = values.iter().map(|value| value == "test").collect();
    match held_out.contains(&true) {
        true => Ok(held_out),
        false => Err(Failure::usage(format!("--split {}: no row says `test`", one_line(name)))),
    }
}
