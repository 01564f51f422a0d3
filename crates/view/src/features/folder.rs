//! Features as a folder: `index.html` with an index of all features, and scripts that hold some features each.
//!
//! A page opened from disk may not read files, but may load scripts. It loads one when a feature in it is chosen, so tens
//! of thousands of features need no server.

use serde_json::{Value as Json, json};

use super::html::{PLAIN, Scripts, Texts, framed, one, plain_row, short};
use super::report::{Feature, FeaturesReport};

/// Limit on the features in one script.
const FEATURES: usize = 256;
/// Limit on the example tokens in one script, about a megabyte.
const TOKENS: usize = 60_000;
/// Tokens shown beside a feature in the index.
const WORDS: usize = 4;

/// A file of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its name in the folder: `index.html`, `chunks/0.js`.
    pub name: String,
    /// Its contents.
    pub text: String,
}

/// Collects features and returns each file when it is full: memory holds the index and one file.
#[derive(Debug, Default)]
pub struct Folder {
    texts: Texts,
    index: Vec<Json>,
    plain: String,
    chunk: Vec<Json>,
    chunk_texts: Texts,
    chunk_tokens: usize,
    n_chunks: usize,
}

impl Folder {
    /// Adds a feature. Returns a file if this one filled it.
    pub fn add(&mut self, feature: &Feature) -> Option<File> {
        let entry = self.entry(feature);
        self.index.push(entry);
        if self.index.len() <= PLAIN {
            self.plain += &plain_row(feature);
        }
        self.chunk.push(one(feature, &mut self.chunk_texts));
        self.chunk_tokens +=
            feature.top.iter().chain(&feature.drawn).map(|kept| kept.tokens.len()).sum::<usize>();
        let is_full = self.chunk.len() >= FEATURES || self.chunk_tokens >= TOKENS;
        is_full.then(|| self.close())
    }

    /// The remaining files, `index.html` last. Title and facts are the report's; its features are not read.
    pub fn finish(mut self, report: &FeaturesReport) -> Vec<File> {
        let mut files = Vec::new();
        if !self.chunk.is_empty() {
            files.push(self.close());
        }
        let data = json!({ "texts": self.texts.texts, "features": self.index });
        let text = framed(report, &self.plain, &data, Scripts::Beside);
        files.push(File { name: "index.html".to_owned(), text });
        files
    }

    fn close(&mut self) -> File {
        let texts = std::mem::take(&mut self.chunk_texts).texts;
        let features = std::mem::take(&mut self.chunk);
        self.chunk_tokens = 0;
        let number = self.n_chunks;
        self.n_chunks += 1;
        let data = crate::page::embed(&json!({ "texts": texts, "features": features }));
        File { name: format!("chunks/{number}.js"), text: format!("easyroutine({number},{data});\n") }
    }

    /// A feature in the index: its numbers, the script that holds it, the words shown and the words searched.
    fn entry(&mut self, feature: &Feature) -> Json {
        let (texts, chunk) = (&mut self.texts, self.n_chunks);
        let raised = feature.top_logits.iter().flatten().map(|logit| &logit.token);
        let lowered = feature.bottom_logits.iter().flatten().map(|logit| &logit.token);
        let strongest = feature.top.iter().map(|kept| &kept.tokens[(kept.position - kept.start) as usize]);
        let shown: Vec<&String> = match feature.top_logits {
            Some(_) => raised.clone().take(WORDS).collect(),
            None => strongest.clone().take(WORDS).collect(),
        };
        let words: Vec<usize> = shown.into_iter().map(|token| texts.number(token)).collect();
        let mut said: Vec<usize> =
            raised.chain(lowered).chain(strongest).map(|token| texts.number(token)).collect();
        said.sort_unstable();
        said.dedup();
        json!({
            "n": feature.feature, "count": feature.count, "frequency": short(feature.frequency),
            "mean": short(feature.mean), "max": short(feature.max),
            "words": words, "said": said, "chunk": chunk,
        })
    }
}
