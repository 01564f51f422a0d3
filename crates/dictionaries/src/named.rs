//! Dictionaries under user-given names, fitted to one model.

use std::sync::Arc;

use easyroutine::arch::Arch;
use easyroutine::{Error, Result};
use easyroutine_sites::nearest;

use crate::dictionary::{Dictionary, Fit};

/// A dictionary with its name and its places in a model.
#[derive(Debug)]
pub struct Named {
    /// The name: features are `features_NAME`.
    pub name: String,
    /// The dictionary.
    pub dictionary: Arc<Dictionary>,
    /// The places of its layers.
    pub fits: Vec<Fit>,
}

/// Dictionaries that are used together in one model.
#[derive(Debug, Default)]
pub struct Dictionaries {
    list: Vec<Named>,
}

impl Dictionaries {
    /// Adds a dictionary under a name.
    ///
    /// # Errors
    /// If the name is taken, empty, or has characters other than letters, digits, `_` and `-`, or the dictionary does
    /// not fit the model ([`Dictionary::fit`]).
    pub fn add(&mut self, name: &str, dictionary: impl Into<Arc<Dictionary>>, arch: &Arch) -> Result<()> {
        let dictionary = dictionary.into();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 100 || !name.chars().all(is_plain) {
            let shown: String = name.chars().take(100).flat_map(char::escape_debug).collect();
            return Err(Error::input(format!(
                "`{shown}` is not a name of a dictionary: letters, digits, `_` and `-` are"
            )));
        }
        // In a set, `a` and `a_3` would both give features_a_3.
        let clashes = |one: &str, other: &str| {
            let rest = other.strip_prefix(one).and_then(|rest| rest.strip_prefix('_'));
            one == other || rest.is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
        };
        if let Some(taken) = self.list.iter().find(|at| clashes(&at.name, name) || clashes(name, &at.name)) {
            return Err(Error::input(format!("two dictionaries are called `{name}` and `{}`", taken.name))
                .hint("give each a name of its own: --dict NAME=PATH"));
        }
        let fits = dictionary.fit(arch).map_err(|e| e.at(format!("dictionary `{name}`")))?;
        self.list.push(Named { name: name.to_owned(), dictionary, fits });
        Ok(())
    }

    /// All dictionaries, in the order added.
    pub fn all(&self) -> &[Named] {
        &self.list
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The dictionaries and layers that some keys name, ascending and each once.
    ///
    /// # Errors
    /// As [`Dictionaries::layers`], for any key.
    pub fn each_layer<'k>(&self, keys: impl IntoIterator<Item = &'k str>) -> Result<Vec<(usize, usize)>> {
        let mut found = Vec::new();
        for key in keys {
            let (dictionary, layers) = self.layers(key)?;
            found.extend(layers.into_iter().map(|layer| (dictionary, layer)));
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Resolves a key, `features_NAME`, or `features_NAME_3` or `features_NAME_*` for a set, to the dictionary's index
    /// and its layers' numbers.
    ///
    /// # Errors
    /// If no dictionary has this name (the error gives the nearest), a set lacks a layer in the key, or the dictionary
    /// lacks the layer.
    pub fn layers(&self, key: &str) -> Result<(usize, Vec<usize>)> {
        let shown: String = key.chars().take(120).flat_map(char::escape_debug).collect();
        let rest = key.strip_prefix("features_").ok_or_else(|| {
            Error::input(format!("`{shown}` is not a key of features: those are features_NAME"))
        })?;
        if let Some(at) = self.list.iter().position(|named| named.name == rest) {
            if self.list[at].dictionary.is_set() {
                return Err(Error::input(format!("`{shown}`: this dictionary is a set of layers"))
                    .hint(format!("name one, as in {shown}_3, or all: {shown}_*")));
            }
            return Ok((at, vec![0]));
        }
        let found = rest
            .rsplit_once('_')
            .and_then(|(name, layer)| Some((self.list.iter().position(|named| named.name == name)?, layer)));
        let Some((at, layer)) = found else {
            let names = self.list.iter().map(|named| named.name.as_str());
            let near = nearest(rest, names.clone()).map(|near| format!("; did you mean `features_{near}`?"));
            let known: Vec<String> = names.map(|name| format!("features_{name}")).collect();
            let hint = match known.is_empty() {
                true => "name one with --dict NAME=PATH".to_owned(),
                false => format!("dictionaries here: {}", known.join(", ")),
            };
            return Err(
                Error::input(format!("no dictionary for `{shown}`{}", near.unwrap_or_default())).hint(hint)
            );
        };
        let Named { dictionary, fits, .. } = &self.list[at];
        if !dictionary.is_set() {
            return Err(Error::input(format!("`{shown}`: this dictionary has one layer, and no number")));
        }
        if layer == "*" {
            return Ok((at, (0..fits.len()).collect()));
        }
        let number = layer.parse::<usize>().ok();
        let of = |fit: &Fit| fit.writes.layer();
        match fits.iter().position(|fit| number.is_some() && of(fit) == number) {
            Some(within) => Ok((at, vec![within])),
            None => {
                let known: Vec<String> = fits.iter().filter_map(of).map(|layer| layer.to_string()).collect();
                Err(Error::input(format!("`{shown}`: the dictionary has no layer `{layer}`"))
                    .hint(format!("it has the layers {}", known.join(", "))))
            }
        }
    }

    /// The keys of the features of all dictionaries, layer by layer.
    pub fn keys(&self) -> Vec<String> {
        let all = self.list.iter().enumerate();
        all.flat_map(|(d, named)| (0..named.fits.len()).map(move |layer| self.key(d, layer))).collect()
    }

    /// The key of one layer's features.
    pub fn key(&self, dictionary: usize, layer: usize) -> String {
        let Named { name, dictionary, fits } = &self.list[dictionary];
        match (dictionary.is_set(), fits[layer].writes.layer()) {
            (true, Some(number)) => format!("features_{name}_{number}"),
            _ => format!("features_{name}"),
        }
    }
}
