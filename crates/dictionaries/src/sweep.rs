//! Features changed one after another, and the effect of each on the prediction.

use std::collections::BTreeMap;

use easyroutine::edit::{Tensor, check_access};
use easyroutine::patching::{Addition, Additions, By, Grid, Metric};
use easyroutine::{Error, Model, Result, Stop};
use easyroutine_kernels::Rows;

use crate::attribution::{Encoded, encoded, scored, targets};
use crate::features::{Features, check_feature};
use crate::named::Dictionaries;

/// Limit on the cells of a grid.
const CELLS: usize = 1 << 16;
/// Limit on the numbers of additions that wait to be run, 128 MiB.
const WAITING: usize = 1 << 25;

/// The features of a sweep, and how each is changed.
#[derive(Debug, Clone)]
pub struct FeatureSweep {
    /// `features_NAME`; of a set with a layer, or `*` for all.
    pub keys: Vec<String>,
    /// Which features of these.
    pub chosen: Chosen,
    /// Where they are changed.
    pub positions: Vec<usize>,
    /// The columns.
    pub columns: FeatureColumns,
    /// What becomes of a feature: zero, a mean of it, or its value in another row.
    pub by: By,
    /// The metric.
    pub metric: Metric,
}

/// Which features are swept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// These, of every key.
    Listed(Vec<u32>),
    /// As many, those with the largest effects by a gradient's estimate ([`crate::attribute`]): at one position, or summed
    /// over them, as the columns are. Only features that the change can change are among them.
    Strongest(usize),
}

/// The columns of a grid of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureColumns {
    /// Each position by itself.
    Positions,
    /// One, for all positions at once.
    Together,
}

/// Changes one feature after another, as [`crate::FeatureOperation::Set`] would, and measures each: features by columns, in
/// the order listed or the strongest first. A cell has the bits of a whole run with its change; where that changes nothing
/// it is the unchanged run. `progress` gets the number of cells done and in total.
///
/// # Errors
/// If keys, features or positions do not exist; there are more than 65,536 cells; other rows have another length; the
/// metric cannot be computed, or has no gradient to choose features by; `stop` or `progress` ends it.
pub fn sweep_features(
    model: &Model,
    dictionaries: &Dictionaries,
    row: &[u32],
    sweep: &FeatureSweep,
    stop: Stop<'_>,
    mut progress: impl FnMut(usize, usize) -> Result<()>,
) -> Result<Grid> {
    let positions = sweep.checked_positions(row.len())?;
    let wanted = dictionaries.each_layer(sweep.keys.iter().map(String::as_str))?;
    sweep.by.check_lengths(row)?;
    check_places(dictionaries, &wanted)?;
    let columns: Vec<Vec<usize>> = match sweep.columns {
        FeatureColumns::Positions => (0..positions.len()).map(|token| vec![token]).collect(),
        FeatureColumns::Together => vec![(0..positions.len()).collect()],
    };
    sweep.check_size(&wanted, columns.len())?;
    if let Chosen::Listed(numbers) = &sweep.chosen {
        for (dictionary, layer) in &wanted {
            let n_features = dictionaries.all()[*dictionary].dictionary.layer(*layer)?.n_features();
            for number in numbers {
                check_feature(*number as usize, n_features)
                    .map_err(|e| e.at(format_args!("`{}`", dictionaries.key(*dictionary, *layer))))?;
            }
        }
    }
    let base = match &sweep.by {
        By::Patch(base) => Some(base.as_slice()),
        _ => None,
    };
    let runs = Additions::new(model, row, base, sweep.metric)?;
    let others = replacements(model, dictionaries, &wanted, &sweep.by, &positions, stop)?;
    let features = match &sweep.chosen {
        Chosen::Listed(numbers) => {
            let of = |at: usize| numbers.iter().map(move |number| (at, *number));
            (0..wanted.len()).flat_map(of).collect()
        }
        Chosen::Strongest(most) => {
            sweep.strongest(model, dictionaries, &wanted, row, others.as_deref(), &positions, *most, stop)?
        }
    };
    let own = encoded(model, dictionaries, &wanted, row, &positions)?;
    let from = Changed {
        dictionaries,
        wanted: &wanted,
        own: &own,
        others: others.as_deref(),
        positions: &positions,
    };
    let n_cells = features.len() * columns.len();
    let (mut values, mut waiting, mut numbers, mut done) = (Vec::with_capacity(n_cells), Vec::new(), 0, 0);
    progress(done, n_cells)?;
    let mut run = |waiting: &mut Vec<Vec<Addition>>, values: &mut Vec<f64>| {
        let found = runs.measure(waiting, || {
            done += 1;
            progress(done, n_cells)
        })?;
        waiting.clear();
        values.extend(found);
        Ok::<_, Error>(())
    };
    for (at, feature) in &features {
        for tokens in &columns {
            let set = from.additions(*at, *feature, tokens)?;
            numbers += set.iter().map(|one| one.vectors.values().len()).sum::<usize>();
            waiting.push(set);
            if numbers > WAITING {
                run(&mut waiting, &mut values)?;
                numbers = 0;
            }
        }
    }
    run(&mut waiting, &mut values)?;
    dictionaries.all().iter().try_for_each(|named| named.dictionary.check_unchanged())?;
    let name = |(at, feature): &(usize, u32)| {
        let (dictionary, layer) = wanted[*at];
        vec![format!("{}:{feature}", dictionaries.key(dictionary, layer)); columns.len()]
    };
    let layer = |(at, _): &(usize, u32)| {
        let (dictionary, layer) = wanted[*at];
        dictionaries.all()[dictionary].fits[layer].writes.layer().unwrap_or(0)
    };
    Ok(Grid {
        layers: features.iter().map(layer).collect(),
        features: features.iter().map(|(_, feature)| *feature).collect(),
        routed: Vec::new(),
        columns: match sweep.columns {
            FeatureColumns::Positions => positions.iter().map(|p| format!("position {p}")).collect(),
            FeatureColumns::Together => vec!["all positions".to_owned()],
        },
        activations: features.iter().map(name).collect(),
        values: values.chunks(columns.len()).map(<[f64]>::to_vec).collect(),
        unchanged: runs.unchanged()?,
        base: runs.base()?,
        metric: sweep.metric,
    })
}

impl FeatureSweep {
    fn checked_positions(&self, length: usize) -> Result<Vec<usize>> {
        let mut positions = self.positions.clone();
        positions.sort_unstable();
        positions.dedup();
        if let Some(position) = positions.iter().find(|position| **position >= length) {
            let what = format!("position {position} is outside the row, which has {length} tokens");
            return Err(Error::input(what));
        }
        let has_features = match &self.chosen {
            Chosen::Listed(numbers) => !numbers.is_empty(),
            Chosen::Strongest(most) => *most > 0,
        };
        if positions.is_empty() || self.keys.is_empty() || !has_features {
            return Err(Error::input("a sweep changes something: it needs features and positions"));
        }
        Ok(positions)
    }

    fn check_size(&self, wanted: &[(usize, usize)], columns: usize) -> Result<()> {
        let rows = match &self.chosen {
            Chosen::Listed(numbers) => numbers.len().saturating_mul(wanted.len()),
            Chosen::Strongest(most) => *most,
        };
        let cells = rows.saturating_mul(columns);
        if cells <= CELLS {
            return Ok(());
        }
        Err(Error::input(format!("{rows} features by {columns} columns are {cells} runs, and a sweep has at most {CELLS}"))
            .hint("name fewer features or positions, take the strongest, or change each feature at all positions at once"))
    }

    /// Those with the largest estimates: the layer's index and the feature.
    #[expect(clippy::too_many_arguments, reason = "each is known in another place")]
    fn strongest(
        &self,
        model: &Model,
        dictionaries: &Dictionaries,
        wanted: &[(usize, usize)],
        row: &[u32],
        others: Option<&[Features]>,
        positions: &[usize],
        most: usize,
        stop: Stop<'_>,
    ) -> Result<Vec<(usize, u32)>> {
        let metric = match self.metric {
            // Its slope is the difference's, times a number.
            Metric::NormalisedLogitDiff { answer, against } => Metric::LogitDiff { answer, against },
            metric => metric,
        };
        let found = scored(model, dictionaries, wanted, row, others, positions, metric, stop);
        let found = found.map_err(|e| e.at("the strongest features"))?;
        let at = |key: &str| wanted.iter().position(|(d, layer)| dictionaries.key(*d, *layer) == key);
        let mut sums: BTreeMap<(usize, u32), f64> = BTreeMap::new();
        for score in found.scores.iter().filter(|score| score.value != score.base) {
            let Some(at) = at(&score.key) else { continue };
            let sum = sums.entry((at, score.feature)).or_default();
            match self.columns {
                FeatureColumns::Together => *sum += score.score,
                FeatureColumns::Positions => *sum = sum.max(score.score.abs()),
            }
        }
        let mut order: Vec<((usize, u32), f64)> = sums.into_iter().collect();
        order.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        order.truncate(most);
        if order.is_empty() {
            return Err(Error::input("no feature is active at these positions, so none changes"));
        }
        Ok(order.into_iter().map(|(feature, _)| feature).collect())
    }
}

/// Refuses places that cannot be changed.
fn check_places(dictionaries: &Dictionaries, wanted: &[(usize, usize)]) -> Result<()> {
    for (dictionary, layer) in wanted {
        for target in targets(dictionaries, *dictionary, *layer) {
            check_access(dictionaries.all()[*dictionary].fits[target].writes.site())?;
        }
    }
    Ok(())
}

/// What features become, layer by layer, a token for each position; none where they become zero.
fn replacements(
    model: &Model,
    dictionaries: &Dictionaries,
    wanted: &[(usize, usize)],
    by: &By,
    positions: &[usize],
    stop: Stop<'_>,
) -> Result<Option<Vec<Features>>> {
    let mean = |rows: &[Vec<u32>], over: Over| -> Result<Vec<Features>> {
        let mut means: Vec<Means> = Vec::new();
        for ids in rows {
            stop.check()?;
            let every: Vec<usize> = (0..ids.len()).collect();
            let taken = if over == Over::Rows { positions } else { &every };
            let found = encoded(model, dictionaries, wanted, ids, taken)?.features;
            means.resize_with(found.len(), || {
                Means::new(if over == Over::Rows { positions.len() } else { 1 })
            });
            means.iter_mut().zip(&found).for_each(|(means, found)| means.add(found));
        }
        if means.is_empty() {
            return Err(Error::input("a mean over no rows"));
        }
        wanted
            .iter()
            .zip(means)
            .map(|((dictionary, layer), means)| {
                let coder = dictionaries.all()[*dictionary].dictionary.layer(*layer)?;
                Ok(means.features(coder.n_features(), positions.len()))
            })
            .collect()
    };
    Ok(match by {
        By::Zero => None,
        By::Mean(rows) => Some(mean(rows, Over::Tokens)?),
        By::MeanOfRows(rows) => Some(mean(rows, Over::Rows)?),
        By::Resample(other) | By::Patch(other) => {
            Some(encoded(model, dictionaries, wanted, other, positions)?.features)
        }
    })
}

/// What a mean is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Rows,
    Tokens,
}

/// Means of features: of each position, or one of all tokens.
struct Means {
    sums: Vec<BTreeMap<u32, f64>>,
    tokens: usize,
}

impl Means {
    fn new(n: usize) -> Means {
        Means { sums: vec![BTreeMap::new(); n], tokens: 0 }
    }

    fn add(&mut self, features: &Features) {
        let n = self.sums.len();
        for token in 0..features.len() {
            let (numbers, values) = features.token(token);
            for (number, value) in numbers.iter().zip(values) {
                *self.sums[token % n].entry(*number).or_default() += f64::from(*value);
            }
        }
        self.tokens += features.len();
    }

    /// A token for each position.
    fn features(&self, n_features: usize, positions: usize) -> Features {
        let n = self.sums.len();
        let count = (self.tokens / n).max(1) as f64;
        let mut means = Features::new(n_features);
        for position in 0..positions {
            let sums = &self.sums[position % n];
            means.push(sums.iter().map(|(number, sum)| (*number, (sum / count) as f32)));
        }
        means
    }
}

/// From what features are to what they become.
struct Changed<'a> {
    dictionaries: &'a Dictionaries,
    wanted: &'a [(usize, usize)],
    own: &'a Encoded,
    others: Option<&'a [Features]>,
    positions: &'a [usize],
}

impl Changed<'_> {
    /// What a change of one feature at some tokens adds, wherever it writes; nothing where it stays as it is.
    fn additions(&self, at: usize, feature: u32, tokens: &[usize]) -> Result<Vec<Addition>> {
        let (dictionary, layer) = self.wanted[at];
        let named = &self.dictionaries.all()[dictionary];
        let (own, feature) = (&self.own.features[at], feature as usize);
        let other = |token: usize| self.others.map_or(0.0, |others| others[at].value(token, feature));
        let changing = tokens.iter().copied().filter(|token| own.value(*token, feature) != other(*token));
        let changing: Vec<usize> = changing.collect();
        if changing.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for target in targets(self.dictionaries, dictionary, layer) {
            let to = named.dictionary.layer(target)?;
            let mut vectors = Vec::with_capacity(changing.len() * to.d_out());
            for token in &changing {
                // As `FeatureEdits`: what another layer reads matters only for undoing a norm.
                let x = match target == layer {
                    true => self.own.x[at][token * to.d_in()..][..to.d_in()].to_vec(),
                    false => vec![0.0; to.d_in()],
                };
                let before = own.only(*token);
                let after = before.set(feature, other(*token))?;
                let x = Rows::dense(&x, 1, to.d_in());
                vectors.extend(named.dictionary.difference((layer, target), &before, &after, x)?);
            }
            let point = named.fits[target].writes;
            found.push(Addition {
                point,
                positions: changing.iter().map(|token| self.positions[*token]).collect(),
                vectors: Tensor::new(point.to_string(), &[changing.len(), to.d_out()], vectors)?,
            });
        }
        Ok(found)
    }
}
