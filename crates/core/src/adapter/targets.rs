//! The modules that a config selects (peft, `tuners_utils.py`, `check_target_module_exists`).

use regex::{Regex, RegexBuilder};

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};

use super::ends_with_part;

/// The modules that a config selects.
#[derive(Debug)]
pub(super) struct Targets {
    which: Which,
    excluded: Which,
    saved: Vec<String>,
    layers: Option<Vec<u64>>,
    /// Finds a layer's number in a module's name.
    numbers: Vec<Regex>,
}

#[derive(Debug)]
enum Which {
    /// Not specified.
    Unsaid,
    /// Names, or final parts of names.
    Names(Vec<String>),
    /// Names that match entirely.
    Pattern(Regex),
    /// Every projection except the unembedding.
    AllLinear,
}

impl Targets {
    /// Reads all keys that select modules.
    pub(super) fn read(config: &Config) -> Result<Self> {
        let which = Which::read(config, "target_modules")?;
        let layers = match config.value("layers_to_transform") {
            None => None,
            Some(value) if value.is_u64() => value.as_u64().map(|one| vec![one]),
            Some(_) => config.optional_indices("layers_to_transform")?.filter(|list| !list.is_empty()),
        };
        let patterns = match config.value("layers_pattern") {
            None => Vec::new(),
            Some(value) if value.is_string() => value.as_str().into_iter().collect(),
            Some(_) => config.optional_texts("layers_pattern")?.unwrap_or_default(),
        };
        let patterns: Vec<&str> = patterns.into_iter().filter(|p| !p.is_empty()).collect();
        let numbers = if patterns.is_empty() {
            vec![compiled("layers_pattern", r"^.*?\.[^.]*\.(?P<idx>\d+)\.")?]
        } else {
            let full = |p: &&str| compiled("layers_pattern", &format!(r"^(?:|.*?\.)(?:{p})\.(?P<idx>\d+)\."));
            patterns.iter().map(full).collect::<Result<_>>()?
        };
        let saved = config.optional_texts("modules_to_save")?.unwrap_or_default();
        Ok(Targets {
            which,
            excluded: Which::read(config, "exclude_modules")?,
            saved: saved.into_iter().map(str::to_owned).collect(),
            layers,
            numbers,
        })
    }

    /// Whether peft would update this module.
    pub(super) fn include(&self, module: &str) -> bool {
        let is_saved = self.saved.iter().any(|saved| has_part(module, saved));
        if self.excluded.matches(module) || is_saved {
            return false;
        }
        match self.which {
            // Without a list, whatever the file holds was selected.
            Which::Unsaid => true,
            // Layers apply only to lists.
            Which::Names(_) => self.which.matches(module) && self.has_layer(module),
            Which::Pattern(_) | Which::AllLinear => self.which.matches(module),
        }
    }

    /// Whether a list or pattern in the config selects this module; "all projections" lists nothing.
    pub(super) fn lists(&self, module: &str) -> bool {
        matches!(self.which, Which::Names(_) | Which::Pattern(_)) && self.include(module)
    }

    /// Modules that are replaced completely.
    pub(super) fn saved(&self) -> &[String] {
        &self.saved
    }

    fn has_layer(&self, module: &str) -> bool {
        let Some(layers) = &self.layers else { return true };
        let number =
            self.numbers.iter().find_map(|regex| regex.captures(module)?.name("idx")?.as_str().parse().ok());
        number.is_some_and(|number: u64| layers.contains(&number))
    }
}

impl Which {
    fn read(config: &Config, key: &str) -> Result<Self> {
        Ok(match config.value(key) {
            None => Which::Unsaid,
            Some(value) => match value.as_str() {
                Some(text) if text.eq_ignore_ascii_case("all-linear") => Which::AllLinear,
                Some(text) => Which::Pattern(compiled(key, &format!("^(?:{text})$"))?),
                None => Which::Names(
                    config.optional_texts(key)?.unwrap_or_default().into_iter().map(str::to_owned).collect(),
                ),
            },
        })
    }

    fn matches(&self, module: &str) -> bool {
        match self {
            Which::Unsaid => false,
            Which::Names(names) => names.iter().any(|name| module == name || ends_with_part(module, name)),
            Which::Pattern(regex) => regex.is_match(module),
            Which::AllLinear => true,
        }
    }
}

/// Compiles a pattern from a config. Matching time is linear in the text, whatever the pattern; its size is bounded.
pub(super) fn compiled(key: &str, pattern: &str) -> Result<Regex> {
    RegexBuilder::new(pattern).size_limit(1 << 20).build().map_err(|e| {
        let reason = e.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
        Error::new(
            ErrorKind::Unsupported,
            format!("`{key}` holds a pattern that cannot be followed: {reason}"),
        )
        .hint("write the modules out as a list of names")
    })
}

/// Whether a dotted name has these whole parts anywhere.
fn has_part(name: &str, part: &str) -> bool {
    format!(".{name}.").contains(&format!(".{part}."))
}
