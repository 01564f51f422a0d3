//! The folder of `features`: the request, each part's progress, and whether all parts are complete.

use std::ops::Range;
use std::path::{Path, PathBuf};

use easyroutine::prompts::Prompt;
use easyroutine_dictionaries::Statistics;
use serde_json::{Map, Value, json};

use crate::failure::{Failure, one_line};
use crate::output;

/// The folder, as seen by one part.
pub(super) struct Folder {
    path: PathBuf,
    number: usize,
    of: usize,
}

impl Folder {
    /// Opens or creates the folder. A folder for another request is refused, with the difference named.
    pub(super) fn open(path: &Path, plan: &Value, (number, of): (usize, usize)) -> Result<Folder, Failure> {
        let failed = |e: std::io::Error| Failure::failed(format!("{}: {e}", path.display()));
        std::fs::create_dir_all(path.join("parts")).map_err(failed)?;
        let file = path.join("plan.json");
        let folder = Folder { path: path.to_owned(), number, of };
        if !file.exists() {
            let text = serde_json::to_vec_pretty(plan).map_err(|e| Failure::failed(e.to_string()))?;
            output::replace(&file, |at| std::fs::write(at, &text))?;
            return Ok(folder);
        }
        let found = std::fs::read(&file).map_err(failed)?;
        let found: Value = serde_json::from_slice(&found)
            .map_err(|e| Failure::failed(format!("{}: {e}", file.display())))?;
        let differs =
            plan.as_object().into_iter().flatten().find(|(key, value)| found.get(key) != Some(value));
        match differs {
            None => Ok(folder),
            Some((key, ours)) => {
                let theirs = found.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string);
                Err(Failure::usage(format!(
                    "{} holds features of another run: its `{key}` is {}, but {} was requested",
                    path.display(),
                    one_line(&theirs),
                    one_line(&ours.to_string())
                ))
                .hint("name another folder with -o, or remove this one"))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The prompts of this part.
    pub(super) fn range(&self, n: usize) -> Range<usize> {
        n * (self.number - 1) / self.of..n * self.number / self.of
    }

    /// This part's statistics for a key, and up to which prompt.
    pub(super) fn saved(&self, key: &str) -> Result<Option<(Statistics, usize)>, Failure> {
        let file = self.file(key, self.number);
        if !file.exists() {
            return Ok(None);
        }
        let (statistics, about) = Statistics::open(&file)?;
        let until = about
            .get("until")
            .and_then(Value::as_u64)
            .ok_or_else(|| Failure::failed(format!("{}: does not say how far it is", file.display())))?;
        Ok(Some((statistics, until as usize)))
    }

    /// This part's statistics for all keys, and up to which prompt. `None` if they differ in that: a run killed while
    /// saving leaves such files, and the prompts in between would count twice.
    pub(super) fn saved_of_all(&self, keys: &[String]) -> Result<Option<(Vec<Statistics>, usize)>, Failure> {
        let mut all = Vec::new();
        let mut common = None;
        for key in keys {
            let Some((statistics, until)) = self.saved(key)? else { return Ok(None) };
            if *common.get_or_insert(until) != until {
                return Ok(None);
            }
            all.push(statistics);
        }
        Ok(common.map(|until| (all, until)))
    }

    pub(super) fn save(&self, key: &str, statistics: &Statistics, until: usize) -> Result<(), Failure> {
        let about = Map::from_iter([("until".to_owned(), json!(until))]);
        let bytes = statistics.to_bytes(&about);
        output::replace(&self.file(key, self.number), |at| std::fs::write(at, &bytes))
    }

    /// All parts of a key joined, if every part is complete.
    pub(super) fn joined(&self, key: &str) -> Result<Option<Statistics>, Failure> {
        let plan = std::fs::read(self.path.join("plan.json")).map_err(|e| Failure::failed(e.to_string()))?;
        let plan: Value = serde_json::from_slice(&plan).map_err(|e| Failure::failed(e.to_string()))?;
        let n = plan.get("prompts").and_then(Value::as_u64).unwrap_or(0) as usize;
        let mut all: Option<Statistics> = None;
        for number in 1..=self.of {
            let part = Folder { path: self.path.clone(), number, of: self.of };
            let Some((statistics, until)) = part.saved(key)? else { return Ok(None) };
            if until < part.range(n).end {
                return Ok(None);
            }
            match &mut all {
                None => all = Some(statistics),
                Some(all) => all.merge(statistics)?,
            }
        }
        Ok(all)
    }

    fn file(&self, key: &str, number: usize) -> PathBuf {
        self.path.join("parts").join(format!("{key}.{number}-of-{}.safetensors", self.of))
    }
}

/// A hash of a list of prompts, to detect another list (FNV-1a; against mistakes, not malice).
pub(super) struct Digest(u64);

impl Digest {
    pub(super) fn new() -> Digest {
        Digest(0xCBF2_9CE4_8422_2325)
    }

    pub(super) fn add(&mut self, prompt: &Prompt) {
        let mut take = |byte: u8| self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        match prompt {
            Prompt::Text(text) => text.bytes().for_each(&mut take),
            Prompt::Messages(messages) => json!(messages).to_string().bytes().for_each(&mut take),
            Prompt::Ids(ids) => ids.iter().flat_map(|id| id.to_le_bytes()).for_each(&mut take),
        }
        take(0xFF);
    }

    pub(super) fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}
