//! A fit over a data set of prompts: in one run, stopped and resumed, or in parts that are merged.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use serde_json::{Value, json};

use super::{FitOptions, JacobianSums};
use crate::arch::Arch;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::stop::Stop;
use crate::summed::{Summed, check_origin};

/// What is summed.
const ITEMS: &str = "prompts";

/// A part of a data set: of every `of` prompts one, the `number`-th, from 1. `3/8` in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// Parts in total.
    pub of: usize,
    /// Which of them, from 1.
    pub number: usize,
}

impl Part {
    /// All prompts.
    pub const WHOLE: Part = Part { of: 1, number: 1 };

    fn has(self, prompt: usize) -> bool {
        prompt % self.of + 1 == self.number
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('/').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match numbers {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Part { of, number }),
            _ => Err(Error::input("a part is 1/8 to 8/8")),
        }
    }
}

/// A fit, and the prompts that it has covered. Every face writes the same file, and continues from any other's.
#[derive(Debug, Clone)]
pub struct JacobianFit {
    sums: JacobianSums,
    /// The model's identity by content; `None` in another program's checkpoint.
    model_digest: Option<String>,
    /// The parts that are summed, ascending.
    parts: Vec<Part>,
    /// The prompts of the data set that were gone through, those of other parts too.
    covered: Summed,
    /// The next prompt's number.
    next: usize,
}

impl JacobianFit {
    /// An empty fit of a part of a data set. `model_digest` is the model's
    /// [identity by content](crate::identity::Identity::digest).
    ///
    /// # Errors
    /// As [`JacobianSums::new`].
    pub fn new(arch: &Arch, options: FitOptions, model_digest: &str, part: Part) -> Result<Self> {
        let (sums, covered) = (JacobianSums::new(arch, options)?, Summed::of(ITEMS));
        Ok(JacobianFit {
            sums,
            model_digest: Some(model_digest.to_owned()),
            parts: vec![part],
            covered,
            next: 0,
        })
    }

    /// Continues the fit in a file: one of ours, which must be of the same model, options and part, or another
    /// program's checkpoint, as far as it says. [`Self::add`] then takes the same prompts from the first.
    ///
    /// # Errors
    /// If the file is missing, damaged, or of another model, options or part; all that differs is named.
    pub fn resume(
        file: &Path,
        arch: &Arch,
        options: FitOptions,
        model_digest: &str,
        part: Part,
    ) -> Result<Self> {
        let begun = Self::read(file)?;
        let empty = Self::new(arch, options, model_digest, part)?;
        let digest = begun.model_digest.as_deref().unwrap_or(model_digest);
        check_origin(&begun.origin(Some(digest)), &empty.origin(Some(model_digest)))
            .map_err(|e| e.at(file.display()))?;
        Ok(JacobianFit { model_digest: empty.model_digest, ..begun })
    }

    /// Reads a fit's file.
    ///
    /// # Errors
    /// If the file is missing, damaged, or holds something else.
    pub fn read(file: &Path) -> Result<Self> {
        let at = |e: Error| e.at(file.display());
        let (sums, description) = JacobianSums::read(file)?;
        if let Some(next) = description["next"].as_u64() {
            let covered = Summed::unknown(ITEMS, next as usize);
            return Ok(JacobianFit { sums, model_digest: None, parts: vec![Part::WHOLE], covered, next: 0 });
        }
        let incomplete = || at(Error::new(ErrorKind::Format, "does not say of what its sums are"));
        let (digest, parts) = (description["model_digest"].as_str(), description["part"].as_str());
        let model_digest = Some(digest.ok_or_else(incomplete)?.to_owned());
        let parts = parts.ok_or_else(incomplete)?.split(',').map(str::parse).collect::<Result<Vec<Part>>>();
        let covered = Summed::from_json(ITEMS, &description["covered"]).map_err(at)?;
        Ok(JacobianFit { sums, model_digest, parts: parts.map_err(at)?, covered, next: 0 })
    }

    /// The sums.
    pub fn sums(&self) -> &JacobianSums {
        &self.sums
    }

    /// The number of prompts gone through so far, of this part or not.
    pub fn covered(&self) -> usize {
        self.covered.n()
    }

    /// The parts of the data set, ascending; `[1/1]` is all of it.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Takes the next prompt of the data set: adds it if it is of this part and not in the sums yet, and compares it if
    /// it is. `progress` is as in [`JacobianSums::add`].
    ///
    /// # Errors
    /// As [`JacobianSums::add`]; if the prompts in the sums are not the first of these.
    pub fn add(
        &mut self,
        model: &Model,
        ids: &[u32],
        stop: Stop<'_>,
        progress: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<()> {
        if !self.covered.has(&[ids], "")? {
            if self.parts.iter().any(|part| part.has(self.next)) {
                self.sums.add(model, ids, stop, progress)?;
            }
            self.covered.add(&[ids], "");
        }
        self.next += 1;
        Ok(())
    }

    /// Checks that the data set had all prompts in the sums, and that some count.
    ///
    /// # Errors
    /// If not.
    pub fn finish(&self) -> Result<()> {
        self.covered.finish()?;
        self.check_counts()
    }

    /// Checks that some prompts count.
    ///
    /// # Errors
    /// If not.
    pub fn check_counts(&self) -> Result<()> {
        if self.sums.n_prompts == 0 {
            let shortest = self.sums.options.shortest();
            return Err(Error::input(format!("no prompt has {shortest} tokens or more, so none counts"))
                .hint("give longer prompts, or skip fewer positions"));
        }
        Ok(())
    }

    /// Adds the fit of other parts of the same data set. All parts together are the fit of the whole, to the bit.
    ///
    /// # Errors
    /// If a part is there already, or the fits differ in model, options, number of parts or prompts.
    pub fn merge(&mut self, other: &JacobianFit) -> Result<()> {
        for part in &other.parts {
            let twice = |what: &str| {
                Err(Error::input(format!("its part {part} is {what}")).hint("prompts would count twice"))
            };
            if self.parts.contains(part) {
                return twice("there already");
            }
            if let Some(first) = self.parts.first().filter(|first| first.of != part.of) {
                return twice(&format!("not of the same division as {first}"));
            }
        }
        if self.model_digest != other.model_digest {
            return Err(Error::input("is of another model"));
        }
        if self.covered.n() != other.covered.n() {
            return Err(Error::input("went through another number of prompts")
                .hint("end each part first, by resuming it"));
        }
        if self.covered.to_json() != other.covered.to_json() {
            return Err(Error::input("went through other prompts, or cut them otherwise"));
        }
        self.sums.merge(&other.sums)?;
        self.parts.extend(&other.parts);
        self.parts.sort_unstable();
        if self.parts.len() == self.parts[0].of {
            self.parts = vec![Part::WHOLE];
        }
        Ok(())
    }

    /// What a file of this fit says of it.
    pub fn description(&self) -> Value {
        let mut description = self.sums.description();
        description["model_digest"] = json!(self.model_digest);
        description["part"] = json!(self.part_names());
        description["covered"] = self.covered.to_json();
        description
    }

    /// Writes the lens and the sums: [`JacobianSums::write`] with all of [`Self::description`].
    ///
    /// # Errors
    /// The writer's errors.
    pub fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        self.sums.write(&self.description(), out)
    }

    fn part_names(&self) -> String {
        self.parts.iter().map(Part::to_string).collect::<Vec<_>>().join(",")
    }

    /// What must be equal for this fit to be continued.
    fn origin(&self, model_digest: Option<&str>) -> Value {
        json!({
            "model_digest": model_digest,
            "d_model": self.sums.d_model,
            "n_layers": self.sums.n_layers(),
            "skip_first": self.sums.options.skip_first,
            "skip_last": self.sums.options.skip_last,
            "part": self.part_names(),
        })
    }
}
