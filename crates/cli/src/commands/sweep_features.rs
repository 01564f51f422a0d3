//! `patch` and `ablate` of a dictionary's features.

use easyroutine::patching::{By, Grid, Metric};
use easyroutine_app::reports::GridPlaces;
use easyroutine_dictionaries::{Chosen, Dictionaries, FeatureColumns, FeatureSweep, sweep_features};
use serde_json::Value;

use super::dict_page::numbers;
use super::sweep::{Opened, positions};
use crate::args::{AlongArg, Finding, Sweep as SweepArgs};
use crate::changes;
use crate::failure::{Failure, one_line};
use crate::hosted;
use crate::progress::Counted;

/// Features swept unless flags say how many.
const STRONGEST: usize = 20;

/// Features to sweep, with their dictionaries opened.
pub(super) struct Asked {
    opened: changes::Opened,
    /// `features_NAME`; none for those of every dictionary.
    keys: Vec<String>,
    columns: FeatureColumns,
}

/// What a sweep of features changed.
pub(super) struct Places {
    names: String,
    columns: FeatureColumns,
    positions: Vec<usize>,
    dictionaries: Value,
}

/// What is asked of features; none where activations are swept.
///
/// # Errors
/// Features beside activations, or without a dictionary, and flags that say nothing of features.
pub(super) fn asked(
    sweep: &SweepArgs,
    finding: &Finding,
    otherwise: AlongArg,
) -> Result<Option<Asked>, Failure> {
    let has_dictionary = !sweep.dictionaries.dict.is_empty();
    let keys: Vec<String> =
        sweep.site.iter().flat_map(|sites| sites.split(',')).map(|key| key.trim().to_owned()).collect();
    let n = keys.iter().filter(|key| key.starts_with("features_")).count();
    if !has_dictionary {
        let Some(key) = keys.iter().find(|key| key.starts_with("features_")) else { return Ok(None) };
        return Err(Failure::usage(format!("--site {}: no dictionary is given", one_line(key)))
            .hint("name one: --dict NAME=PATH; its features are features_NAME"));
    }
    if n < keys.len() {
        return Err(Failure::usage("--site: with --dict, features are swept, not activations")
            .hint("sweep features_NAME, and activations in another command without --dict"));
    }
    if sweep.layers.is_some() {
        return Err(Failure::usage("--layers: a row of the grid is a feature")
            .hint("--site names the layers of a set: features_NAME_3"));
    }
    if sweep.estimating.estimate {
        return Err(Failure::usage("--estimate: features are run, one after another")
            .hint("attribute -a features_NAME --dict NAME=PATH estimates them all from one gradient"));
    }
    let columns = match sweep.along.unwrap_or(otherwise) {
        AlongArg::Positions => FeatureColumns::Positions,
        AlongArg::Features => FeatureColumns::Together,
        AlongArg::Heads | AlongArg::Sites | AlongArg::Experts => {
            return Err(Failure::usage("--along: features are swept along positions or features")
                .hint("features changes each at all positions at once"));
        }
    };
    Ok(Some(Asked { opened: sweep.dictionaries.open(finding)?, keys, columns }))
}

impl Asked {
    /// Changes one feature after another.
    pub(super) fn run(
        self,
        opened: &Opened,
        sweep: &SweepArgs,
        by: By,
        metric: Metric,
    ) -> Result<(Grid, Places), Failure> {
        let dictionaries = self.opened.fitted(&opened.session)?;
        let keys = if self.keys.is_empty() { dictionaries.keys() } else { self.keys };
        let chosen = match &sweep.features {
            Some(text) => Chosen::Listed(listed(text, &keys, dictionaries)?),
            None => Chosen::Strongest(sweep.top.map_or(STRONGEST, |top| top as usize)),
        };
        let positions = positions(sweep, opened)?;
        let names = keys.join(", ");
        let request =
            FeatureSweep { keys, chosen, positions: positions.clone(), columns: self.columns, by, metric };
        let changes = Counted::new("changes");
        let (model, ids) = (&opened.session.model, &opened.prompt.encoded.ids);
        let tell = |done, of| changes.tell(done, of);
        let grid = sweep_features(model, dictionaries, ids, &request, hosted::stop(), tell);
        changes.finish();
        let grid = grid.map_err(|error| hinted(error, sweep))?;
        let dictionaries = Value::Object(self.opened.record().clone());
        Ok((grid, Places { names, columns: self.columns, positions, dictionaries }))
    }
}

/// The error with a flag that would do, where the strongest features were asked for by a metric without a gradient.
fn hinted(error: easyroutine::Error, sweep: &SweepArgs) -> Failure {
    use crate::args::EffectArg;
    let failure = Failure::from(error);
    match (sweep.metric, &sweep.features) {
        (EffectArg::Kl | EffectArg::Rank, None) => {
            failure.hint("name the features, --features 3,17, or measure --metric logit-diff")
        }
        _ => failure,
    }
}

/// `3,17,100:110`; an open range ends with the smallest dictionary.
fn listed(text: &str, keys: &[String], dictionaries: &Dictionaries) -> Result<Vec<u32>, Failure> {
    let layers = dictionaries.each_layer(keys.iter().map(String::as_str))?;
    let sizes = layers.iter().map(|(dictionary, layer)| {
        let layers = dictionaries.all()[*dictionary].dictionary.layers();
        layers.get(*layer).map_or(0, easyroutine_dictionaries::Layer::n_features)
    });
    let size = sizes.min().unwrap_or(0) as u64;
    let mut found = Vec::new();
    for range in numbers("--features", text)? {
        let end = if range.end == u32::MAX { size as u32 } else { range.end };
        // A wrong end is refused with the first feature beyond the dictionary.
        let end = u64::from(end).min(size + 1) as u32;
        let end = end.max(range.start.saturating_add(u32::from(range.start < range.end)));
        if range.start >= end {
            return Err(Failure::usage(format!("--features: `{}` holds no feature", one_line(text)))
                .hint("100:110 are 100 to 109"));
        }
        found.extend((range.start..end).filter(|number| !found.contains(number)).collect::<Vec<_>>());
    }
    Ok(found)
}

impl Places {
    /// For a report.
    pub(super) fn shown(&self) -> GridPlaces<'_> {
        GridPlaces {
            names: self.names.clone(),
            sites: &[],
            by_position: self.columns == FeatureColumns::Positions,
            positions: &self.positions,
            dictionaries: Some(self.dictionaries.clone()),
        }
    }
}
