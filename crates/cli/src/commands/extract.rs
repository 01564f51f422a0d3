//! `extract`: activations of prompts to a safetensors file.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal};
use std::path::Path;

use easyroutine::Batch;
use easyroutine::cache::{ActivationCache, Kept, Numbers};
use easyroutine::positions::{Context, Row, Specifier};
use easyroutine::request::Request;
use easyroutine::sites::{Point, Selector};
use easyroutine::tokens::Tokenizer;
use serde_json::{Value, json};

use super::{dtype_name, saved};
use crate::args::{Args, Extract, Format};
use crate::changes;
use crate::failure::Failure;
use crate::session::{self, Prompt, Session};
use crate::tensors::{self, Stored};
use crate::{memory, output};

pub(crate) fn run(args: &Args, extract: &Extract) -> Result<(), Failure> {
    let (file, target) = target(args, extract)?;
    let request = request(extract)?;
    let interventions = extract.changes.read()?;
    let session = session::load(&extract.model.model, &extract.model.loading)?;
    request.points(session.model.arch())?;
    let tokenizer = match &extract.token_ids {
        Some(_) => session::tokenizer(&session.files).ok(),
        None => Some(session::tokenizer(&session.files)?),
    };
    let rows = rows(extract, tokenizer.as_ref(), session.model.arch().context)?;
    let batch = batch(&rows)?;
    let specials = tokenizer.as_ref().map_or(&[][..], Tokenizer::special_ids);
    needs_tokenizer(&request.positions, tokenizer.is_some())?;
    let context = Context { special: specials, pivots: &extract.pivot, seed: extract.seed };
    let described: Vec<Row<'_>> = (0..batch.n_rows())
        .map(|number| {
            let text = match &rows {
                Rows::Prompts(prompts) => {
                    Some((prompts[number].text.as_str(), &prompts[number].encoded.offsets[..]))
                }
                Rows::Ids(_) => None,
            };
            Row { number, ids: batch.row(number), text }
        })
        .collect();
    let edits = changes::checked(&interventions, &session.model, &described, context)?;
    if target == Target::Store {
        let interventions = &interventions;
        let job = saved::Job {
            session: &session,
            request: &request,
            rows: described,
            context,
            interventions,
            extract,
        };
        return saved::run(args, file, &job);
    }
    let cache = request.run_under(&session.model, &batch, &described, context, edits)?;
    write(file, &cache, &session, &extract.changes.intervene)?;
    if io::stderr().is_terminal() {
        let size = std::fs::metadata(file).map_or(0, |m| m.len());
        output::note("wrote", &format!("{} ({})", file.display(), memory::readable(size)));
    }
    Ok(())
}

/// Where activations go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    File,
    Store,
}

/// The one place that is written to, checked before any work.
fn target<'a>(args: &'a Args, extract: &Extract) -> Result<(&'a Path, Target), Failure> {
    let [place] = args.output.as_slice() else {
        return Err(Failure::usage("extract writes one file, or a run into a store")
            .hint("say which: -o activations.safetensors, or -o runs/"));
    };
    if saved::is_store(place) {
        return match args.format {
            Format::Auto | Format::Json | Format::Jsonl => Ok((place, Target::Store)),
            _ => Err(Failure::usage("where a run was saved is said as a line, or as --format json")),
        };
    }
    if let Some(flag) = extract.saving.given() {
        return Err(Failure::usage(format!(
            "{flag} is for runs in a store, and {} is a file",
            place.display()
        ))
        .hint("let -o name a folder: -o runs/"));
    }
    if args.format != Format::Auto || place.extension().is_none_or(|e| e != "safetensors") {
        return Err(Failure::usage(format!("{}: extract writes safetensors", place.display()))
            .hint("let the name end in .safetensors, or name a folder: -o runs/"));
    }
    output::folder_exists(place)?;
    Ok((place, Target::File))
}

fn request(extract: &Extract) -> Result<Request, Failure> {
    let mut activations = Vec::new();
    for text in &extract.activations {
        activations.extend(Selector::parse_list(text).map_err(easyroutine::Error::from)?);
    }
    let mut positions = Vec::new();
    for text in &extract.positions {
        positions.extend(Specifier::parse_list(text)?);
    }
    Ok(Request { activations, positions, ..Request::default() })
}

/// Without a tokenizer nobody knows which ids are special: silence would select the wrong tokens.
fn needs_tokenizer(positions: &[Specifier], has_tokenizer: bool) -> Result<(), Failure> {
    let speaks_of_special =
        |s: &&Specifier| matches!(s, Specifier::Special | Specifier::AllText | Specifier::RandomText(_));
    match positions.iter().find(speaks_of_special) {
        Some(specifier) if !has_tokenizer => Err(Failure::failed(format!(
            "position `{specifier}` needs the model's tokenizer, which could not be read"
        ))),
        _ => Ok(()),
    }
}

/// The rows as they were given.
enum Rows {
    Prompts(Vec<Prompt>),
    Ids(Batch),
}

fn rows(extract: &Extract, tokenizer: Option<&Tokenizer>, context: usize) -> Result<Rows, Failure> {
    if let Some(text) = &extract.token_ids {
        let ids: Vec<Vec<u32>> = integers(text, "--token-ids")?;
        let batch = match &extract.attention_mask {
            Some(mask) => Batch::from_padded(&ids, &integers(mask, "--attention-mask")?)?,
            None => Batch::new(&ids)?,
        };
        return Ok(Rows::Ids(if extract.cutting.truncate { truncated(&batch, context)? } else { batch }));
    }
    let texts = match (&extract.prompt, &extract.file) {
        (_, Some(file)) => {
            let text = session::read_file(file)?;
            text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
        }
        (Some(dash), None) if dash == "-" => vec![session::read_stdin()?],
        (Some(text), None) => vec![text.clone()],
        (None, None) => Vec::new(),
    };
    let Some(tokenizer) = tokenizer else { return Err(Failure::failed("the model has no tokenizer")) };
    if texts.is_empty() {
        return Err(Failure::usage("no prompt given: the file holds no line that is not empty"));
    }
    let cut = |text: String| extract.cutting.cut(text, tokenizer, context);
    Ok(Rows::Prompts(texts.into_iter().map(cut).collect::<Result<_, _>>()?))
}

/// The first tokens of each row, as many as the model's context has.
fn truncated(batch: &Batch, context: usize) -> Result<Batch, Failure> {
    let mut rows = Vec::with_capacity(batch.n_rows());
    for number in 0..batch.n_rows() {
        let row = batch.row(number);
        if row.len() > context {
            output::note(
                "warning",
                &format!("row {number}: kept the first {context} of {} tokens", row.len()),
            );
        }
        rows.push(&row[..row.len().min(context)]);
    }
    Ok(Batch::new(&rows)?)
}

fn batch(rows: &Rows) -> Result<Batch, Failure> {
    Ok(match rows {
        Rows::Ids(batch) => batch.clone(),
        Rows::Prompts(prompts) => {
            let ids: Vec<&[u32]> = prompts.iter().map(|p| p.encoded.ids.as_slice()).collect();
            Batch::new(&ids)?
        }
    })
}

/// Rows of whole numbers from JSON.
fn integers<T: TryFrom<u64>>(text: &str, flag: &str) -> Result<Vec<Vec<T>>, Failure> {
    let wrong = |what: String| {
        Failure::usage(format!("{flag}: {what}")).hint("rows of whole numbers as JSON: '[[1,2],[3,4]]'")
    };
    let value: Value = serde_json::from_str(text).map_err(|e| wrong(format!("not JSON: {e}")))?;
    let rows = value.as_array().ok_or_else(|| wrong("not a list of rows".to_owned()))?;
    let row = |(number, row): (usize, &Value)| {
        let row = row.as_array().ok_or_else(|| wrong(format!("row {number} is not a list")))?;
        row.iter()
            .map(|x| x.as_u64().and_then(|x| T::try_from(x).ok()))
            .map(|x| {
                x.ok_or_else(|| wrong(format!("row {number} holds something else than token ids or masks")))
            })
            .collect()
    };
    rows.iter().enumerate().map(row).collect()
}

/// Writes all activations: rows first where every row has the same T, else flat with offsets.
fn write(
    file: &Path,
    cache: &ActivationCache,
    session: &Session,
    interventions: &[String],
) -> Result<(), Failure> {
    let mut tensors = Vec::new();
    let rectangular = cache.is_rectangular();
    for (key, kept) in cache.iter() {
        let (name, numbers) = (key.to_owned(), Cow::Borrowed(&kept.data));
        match kept.shape().filter(|_| rectangular) {
            Some(shape) => tensors.push(Stored { name, shape, numbers }),
            None => {
                let (shape, offsets) = flat(kept, is_pairwise(key));
                tensors.push(Stored { name, shape, numbers });
                let (shape, numbers) = (vec![offsets.len()], Cow::Owned(Numbers::I64(offsets)));
                tensors.push(Stored { name: format!("{key}.offsets"), shape, numbers });
            }
        }
    }
    let mut metadata = metadata(cache, session);
    if !interventions.is_empty() {
        metadata.push(("interventions", json!(interventions).to_string()));
    }
    output::replace(file, |at| tensors::write(&mut BufWriter::new(File::create(at)?), &metadata, tensors))
}

/// Whether the two axes of an activation are both the selected positions.
fn is_pairwise(key: &str) -> bool {
    key.parse::<Point>().is_ok_and(|point| point.site().is_pairwise())
}

/// Shape and offsets of rows of different length laid end to end; patterns are squares and lie flat altogether.
fn flat(kept: &Kept, is_square: bool) -> (Vec<usize>, Vec<i64>) {
    let length = |shape: &Vec<usize>| if is_square { shape.iter().product() } else { shape[0] };
    let mut offsets = vec![0i64];
    let mut total = 0;
    for shape in &kept.row_shapes {
        total += length(shape);
        offsets.push(total as i64);
    }
    let inner: &[usize] = match kept.row_shapes.first() {
        Some(shape) if !is_square => &shape[1..],
        _ => &[],
    };
    ([&[total], inner].concat(), offsets)
}

/// What the tensors are of: strings, as safetensors has it; the values are JSON.
fn metadata(cache: &ActivationCache, session: &Session) -> Vec<(&'static str, String)> {
    vec![
        ("schema", "easyroutine.extract/1".to_owned()),
        ("model", session.files.name.clone()),
        ("model_type", session.model_type.to_owned()),
        ("commit", session.files.commit.clone().unwrap_or_default()),
        ("dtype", dtype_name(session.model.dtype()).to_owned()),
        ("mapping_index", Value::Object(cache.mapping_index()).to_string()),
        ("token_dict", Value::Object(cache.token_dict()).to_string()),
    ]
}
