//! `graph`: an attribution graph of a prompt over transcoder features.

use easyroutine::tokens::Tokenizer;
use easyroutine_graphs::{Graph, Options, Texts, lines, report, to_json};
use easyroutine_view::drawing::GraphDrawing;
use serde_json::json;

use crate::args::{Args, Format, Graph as Flags};
use crate::failure::{Failure, one_line};
use crate::output::{self, DRAWN};
use crate::progress::Counted;
use crate::session::{self, Prompt, token_id, token_text};
use crate::{changes, hosted};

pub(crate) fn run(args: &Args, flags: &Flags) -> Result<(), Failure> {
    let formats: Vec<Format> =
        DRAWN.iter().copied().filter(|format| !matches!(format, Format::Svg | Format::Png)).collect();
    let targets = output::targets(args, &formats)?;
    let finding = &flags.model.loading.finding;
    let dictionary = session::dictionary(&flags.dict_set, &flags.reading.options(), finding)?;
    for warning in &dictionary.certificate().warnings {
        output::note("warning", &one_line(warning));
    }
    let session = session::load(&flags.model.model, &flags.model.loading)?;
    changes::tell_of_other_model(None, &dictionary, &session);
    let tokenizer = session::tokenizer(&session.files, &flags.model.loading.finding)?;
    let prompt = flags.prompt.read(&tokenizer, session.model.arch().context)?;
    let ids = &prompt.encoded.ids;
    let named = flags.answer.iter().map(|text| token_id("--answer", text, &tokenizer));
    let answers = named.collect::<Result<Vec<u32>, Failure>>()?;
    let options = Options {
        targets: (!answers.is_empty()).then_some(answers),
        max_logits: flags.logits,
        probability: flags.probability,
        max_features: flags.max_features,
        zeroed: flags.skip_first,
        checks: flags.check,
        ..Options::default()
    };
    warn_of_first(&tokenizer, ids, flags.skip_first);
    let bar = Counted::new("rows");
    let made = Graph::new(&session.model, &dictionary, ids, &options, hosted::stop(), &mut |done, of| {
        // The run itself checks for interruption.
        let _ = bar.tell(done, of);
    });
    bar.finish();
    let graph = made?;
    let pruned = graph.prune(flags.node_threshold, flags.edge_threshold)?;
    let texts = texts(flags, &tokenizer, &prompt, &graph)?;
    let mut said = lines(&graph, &pruned);
    said.iter().for_each(|line| output::note("graph", &line.replace(" · ", "; ")));
    said.insert(0, format!("{} · {}", session.files.name, texts.scan));
    let settings = json!({
        "schema": "easyroutine.graph/1",
        "model": session.model_json(),
        "dictionary": dictionary.certificate().to_json(),
        "settings": {
            "max_logits": options.max_logits,
            "probability": options.probability,
            "answers": options.targets,
            "max_features": options.max_features,
            "skip_first": options.zeroed,
            "node_threshold": flags.node_threshold,
            "edge_threshold": flags.edge_threshold,
        },
    });
    let drawing = report(&graph, &pruned, &shown(&tokenizer, &prompt, &graph, &texts), said);
    let json = || Ok(to_json(&graph, &pruned, flags.node_threshold, &texts, settings.clone()).to_string());
    output::drawings(args, &targets, &GraphDrawing { report: &drawing, most: flags.k as usize }, json)
}

/// Warns if the first tokens, which are left out, include a word of the prompt.
fn warn_of_first(tokenizer: &Tokenizer, ids: &[u32], skip_first: usize) {
    let special = tokenizer.special_ids();
    if let Some(id) = ids.iter().take(skip_first).find(|id| !special.contains(id)) {
        let text = token_text(tokenizer, *id);
        let warning = format!(
            "{text:?} stands at the beginning, where features and errors are left out: --bos yes puts a token before it, \
             where the tokenizer has one"
        );
        output::note("warning", &warning);
    }
}

/// Texts for display: bytes that are not text are shown as numbers.
fn shown(tokenizer: &Tokenizer, prompt: &Prompt, graph: &Graph, texts: &Texts) -> Texts {
    Texts {
        tokens: prompt.encoded.ids.iter().map(|id| token_text(tokenizer, *id)).collect(),
        logits: graph.logits.iter().map(|logit| token_text(tokenizer, logit.id)).collect(),
        ..texts.clone()
    }
}

/// Texts as in circuit-tracer: each id decoded alone.
fn texts(flags: &Flags, tokenizer: &Tokenizer, prompt: &Prompt, graph: &Graph) -> Result<Texts, Failure> {
    let ids = &prompt.encoded.ids;
    let decoded = |id: u32| tokenizer.decode(&[id], false);
    let folder = std::path::Path::new(flags.dict_set.trim_end_matches('/'))
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    Ok(Texts {
        slug: flags.slug.clone().unwrap_or_else(|| slug(&prompt.text)),
        scan: flags.scan.clone().or(folder).unwrap_or_default(),
        prompt: tokenizer.decode(ids, false)?,
        tokens: ids.iter().map(|id| decoded(*id)).collect::<Result<_, _>>()?,
        logits: graph.logits.iter().map(|logit| decoded(logit.id)).collect::<Result<_, _>>()?,
    })
}

/// The first words of a prompt, for use in a URL.
fn slug(prompt: &str) -> String {
    let words = prompt.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut slug = String::new();
    for word in words.take(6) {
        if slug.len() + word.len() > 40 {
            break;
        }
        if !slug.is_empty() {
            slug.push('-');
        }
        slug.push_str(&word.to_ascii_lowercase());
    }
    if slug.is_empty() { "graph".to_owned() } else { slug }
}
