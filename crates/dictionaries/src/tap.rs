//! Changes to features while a model runs, and features kept from a run.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use easyroutine::positions::{Context, Row, Specifier, select};
use easyroutine::sites::Point;
use easyroutine::{Cpu, Error, Result, Tap, Value, Want};
use easyroutine_kernels::Rows;

use crate::change::{FeatureChange, FeatureOperation};
use crate::features::{Features, check_feature};
use crate::named::Dictionaries;

/// Changes to features, checked against a model and its rows, as a tap.
#[derive(Debug)]
pub struct FeatureEdits<'d> {
    pub(crate) dictionaries: &'d Dictionaries,
    pub(crate) cpu: Cpu,
    pub(crate) rules: Vec<Rule>,
    /// For each dictionary in use, what its layers encoded in this run.
    pub(crate) held: BTreeMap<(usize, usize), Held>,
    /// In a backward pass, the gradient of the vectors that a layer reads, `[T, D_in]` for its tokens.
    pub(crate) by_read: BTreeMap<(usize, usize), Vec<f64>>,
}

/// One change to one dictionary.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) dictionary: usize,
    pub(crate) layers: Vec<usize>,
    pub(crate) feature: Option<usize>,
    pub(crate) operation: FeatureOperation,
    /// Per row.
    places: Vec<Places>,
}

/// Positions of a row, and the position from which on generated tokens are included.
#[derive(Debug, Clone)]
struct Places {
    named: BTreeSet<usize>,
    open: Option<usize>,
}

/// The features encoded by one layer.
#[derive(Debug)]
pub(crate) struct Held {
    /// Row and position of each token.
    pub(crate) tokens: Vec<(usize, usize)>,
    /// `[T, D_in]`
    pub(crate) x: Vec<f32>,
    pub(crate) before: Features,
    pub(crate) after: Features,
}

impl<'d> FeatureEdits<'d> {
    /// Checks changes against the dictionaries and the rows of a batch; each applies to every row.
    ///
    /// # Errors
    /// If there is no dictionary of a name, it lacks a layer or feature, or a position is outside a row.
    pub fn new(
        changes: &[FeatureChange],
        dictionaries: &'d Dictionaries,
        cpu: &Cpu,
        rows: &[Row<'_>],
        context: Context<'_>,
    ) -> Result<FeatureEdits<'d>> {
        let mut rules = Vec::new();
        for change in changes {
            let rule = rule(change, dictionaries, rows, context);
            rules.push(rule.map_err(|e| e.at(format_args!("change of `{}`", change.key)))?);
        }
        Ok(FeatureEdits {
            dictionaries,
            cpu: cpu.clone(),
            rules,
            held: BTreeMap::new(),
            by_read: BTreeMap::new(),
        })
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a layer must be encoded: a rule changes it, or splices a layer that it writes to.
    pub(crate) fn encodes(&self, dictionary: usize, layer: usize) -> bool {
        let within = &self.dictionaries.all()[dictionary].dictionary;
        self.rules.iter().filter(|rule| rule.dictionary == dictionary).any(|rule| {
            rule.layers.contains(&layer)
                || rule.operation == FeatureOperation::Splice
                    && rule.layers.iter().any(|target| within.sources(*target).contains(&layer))
        })
    }

    /// Whether anything may change where a layer writes.
    pub(crate) fn writes(&self, dictionary: usize, target: usize) -> bool {
        let within = &self.dictionaries.all()[dictionary].dictionary;
        let mut rules = self.rules.iter().filter(|rule| rule.dictionary == dictionary);
        rules.any(|rule| rule.layers.iter().any(|layer| within.sources(target).contains(layer)))
    }

    /// Encodes a layer's input at the tokens selected by any change to its dictionary.
    fn encode(&mut self, dictionary: usize, layer: usize, value: &Value<'_>) -> Result<()> {
        let rules: Vec<&Rule> = self.rules.iter().filter(|rule| rule.dictionary == dictionary).collect();
        let mut tokens = Vec::new();
        let mut x = Vec::new();
        for row in 0..value.batch().n_rows() {
            for position in value.batch().first(row)..value.batch().length(row) {
                if !rules.iter().any(|rule| rule.names(row, position)) {
                    continue;
                }
                if let Some(vector) = value.vector(row, position) {
                    tokens.push((row, position));
                    x.extend_from_slice(vector);
                }
            }
        }
        let coder = self.dictionaries.all()[dictionary].dictionary.layer(layer)?;
        let width = coder.d_in();
        let before = coder.encode(&self.cpu, Rows::dense(&x, tokens.len(), width))?;
        let mut after = before.clone();
        for rule in rules.iter().filter(|rule| rule.layers.contains(&layer)) {
            let Some(feature) = rule.feature else { continue };
            let change = |value: f32| match rule.operation {
                FeatureOperation::Set(number) => number,
                // Not a product: an ablated feature is 0 whatever its value.
                FeatureOperation::Scale(0.0) => 0.0,
                FeatureOperation::Scale(factor) => value * factor,
                _ => value,
            };
            let changed = after.changed(feature, change)?;
            let named = |token: usize| rule.names(tokens[token].0, tokens[token].1);
            after = after.merged(&changed, named);
        }
        self.held.insert((dictionary, layer), Held { tokens, x, before, after });
        Ok(())
    }

    /// Changes the activation where a layer of a dictionary writes.
    fn apply(&self, dictionary: usize, target: usize, value: &mut Value<'_>) -> Result<()> {
        let named = &self.dictionaries.all()[dictionary];
        let sources = named.dictionary.sources(target);
        let held = |layer: usize| self.held.get(&(dictionary, layer));
        let Some(tokens) = sources.clone().find_map(held).map(|held| held.tokens.clone()) else {
            return Ok(());
        };
        let rules = || self.rules.iter().filter(|rule| rule.dictionary == dictionary);
        let coder = named.dictionary.layer(target)?;
        // The target's input matters only for undoing a norm.
        let blank = vec![0.0; coder.d_in()];
        for (number, (row, position)) in tokens.into_iter().enumerate() {
            let x = match held(target) {
                Some(held) => &held.x[number * coder.d_in()..][..coder.d_in()],
                None => &blank,
            };
            let x = Rows::dense(x, 1, coder.d_in());
            let splices = rules().any(|rule| {
                rule.operation == FeatureOperation::Splice
                    && rule.layers.contains(&target)
                    && rule.names(row, position)
            });
            let mut new: Option<Vec<f32>> = None;
            if splices {
                let features: Option<Vec<Features>> =
                    sources.clone().map(|layer| Some(held(layer)?.after.only(number))).collect();
                let features =
                    features.ok_or_else(|| Error::input("a layer that is spliced was not encoded"))?;
                let features: Vec<&Features> = features.iter().collect();
                new = Some(named.dictionary.decode(&self.cpu, target, &features, x)?);
            } else {
                for source in sources.clone() {
                    let Some(held) = held(source) else { continue };
                    if held.before.token(number) == held.after.token(number) {
                        continue;
                    }
                    let (before, after) = (held.before.only(number), held.after.only(number));
                    let difference = named.dictionary.difference((source, target), &before, &after, x)?;
                    add(new.get_or_insert_with(|| current(value, row, position)), &difference, 1.0);
                }
            }
            for rule in rules().filter(|rule| rule.names(row, position)) {
                let (FeatureOperation::Steer(strength), Some(feature)) = (rule.operation, rule.feature)
                else {
                    continue;
                };
                for source in rule.layers.iter().filter(|layer| sources.contains(layer)) {
                    let direction = named.dictionary.layer(*source)?.direction(feature, target)?;
                    add(new.get_or_insert_with(|| current(value, row, position)), &direction, strength);
                }
            }
            if let (Some(new), Some(vector)) = (new, value.vector_mut(row, position)) {
                vector.copy_from_slice(&new);
            }
        }
        Ok(())
    }
}

fn current(value: &Value<'_>, row: usize, position: usize) -> Vec<f32> {
    value.vector(row, position).unwrap_or_default().to_vec()
}

fn add(to: &mut [f32], what: &[f32], factor: f32) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to += factor * what);
}

fn rule(
    change: &FeatureChange,
    dictionaries: &Dictionaries,
    rows: &[Row<'_>],
    context: Context<'_>,
) -> Result<Rule> {
    let (dictionary, layers) = dictionaries.layers(&change.key)?;
    let named = &dictionaries.all()[dictionary];
    for layer in &layers {
        let coder = named.dictionary.layer(*layer)?;
        if let Some(feature) = change.feature {
            check_feature(feature, coder.n_features())?;
        }
        if let FeatureOperation::Set(number)
        | FeatureOperation::Scale(number)
        | FeatureOperation::Steer(number) = change.operation
            && !number.is_finite()
        {
            return Err(Error::input(format!("{number} is not a number for a feature")));
        }
        easyroutine::edit::check_access(named.fits[*layer].writes.site())?;
    }
    let places = rows.iter().map(|row| {
        let prompt = row.prompt();
        let named = select(&change.positions, prompt, context)?.indices.into_iter().collect();
        let open = change.positions.contains(&Specifier::All).then_some(prompt.ids.len());
        Ok(Places { named, open })
    });
    let places = places.collect::<Result<Vec<_>>>()?;
    Ok(Rule { dictionary, layers, feature: change.feature, operation: change.operation, places })
}

impl Rule {
    pub(crate) fn names(&self, row: usize, position: usize) -> bool {
        self.places.get(row).is_some_and(|places| {
            places.named.contains(&position) || places.open.is_some_and(|open| position >= open)
        })
    }
}

impl FeatureEdits<'_> {
    /// Whether every token's vector where a layer writes is replaced by the decoded one.
    fn replaces(&self, dictionary: usize, target: usize) -> bool {
        self.rules.iter().any(|rule| {
            rule.dictionary == dictionary
                && rule.operation == FeatureOperation::Splice
                && rule.layers.contains(&target)
                && !rule.places.is_empty()
                && rule.places.iter().all(|places| places.open.is_some())
        })
    }
}

impl Tap for FeatureEdits<'_> {
    fn wants(&self, point: Point) -> Want {
        // In the order of `at`.
        let mut want = Want::Nothing;
        for (dictionary, named) in self.dictionaries.all().iter().enumerate() {
            for (layer, fit) in named.fits.iter().enumerate() {
                if fit.reads == point && self.encodes(dictionary, layer) {
                    want = want.then(Want::Read);
                }
                if fit.writes == point && self.writes(dictionary, layer) {
                    want =
                        want.then(if self.replaces(dictionary, layer) { Want::Replace } else { Want::Edit });
                }
            }
        }
        want
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        let dictionaries = self.dictionaries;
        for (dictionary, named) in dictionaries.all().iter().enumerate() {
            for (layer, fit) in named.fits.iter().enumerate() {
                if fit.reads == point && self.encodes(dictionary, layer) {
                    self.encode(dictionary, layer, value)?;
                    named.dictionary.check_unchanged()?;
                }
                if fit.writes == point && self.writes(dictionary, layer) {
                    self.apply(dictionary, layer, value)?;
                    named.dictionary.check_unchanged()?;
                }
            }
        }
        Ok(())
    }
}

/// Receives features, with their key, as soon as they are known.
type Give<'d> = Box<dyn FnMut(String, SparseFeatures) + 'd>;

/// Keeps the features of a run in sparse form.
pub struct FeatureCapture<'d> {
    dictionaries: &'d Dictionaries,
    cpu: Cpu,
    wanted: Vec<(usize, usize)>,
    /// Per row, the kept positions.
    positions: Vec<Vec<usize>>,
    /// The row numbers used in indices; by default the index in the batch.
    numbers: Option<Vec<usize>>,
    give: Option<Give<'d>>,
    kept: BTreeMap<(usize, usize), SparseFeatures>,
}

/// Features in sparse form: one entry per non-zero feature.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseFeatures {
    /// Row, index among the row's selected positions, feature; ascending.
    pub indices: Vec<[i32; 3]>,
    /// Values.
    pub values: Vec<f32>,
    /// Number of rows, most positions per row, number of features.
    pub shape: [i64; 3],
}

impl std::fmt::Debug for FeatureCapture<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeatureCapture").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl<'d> FeatureCapture<'d> {
    /// Keeps the features with these keys, at these positions of each row.
    ///
    /// # Errors
    /// As [`Dictionaries::layers`].
    pub fn new(
        keys: &[String],
        dictionaries: &'d Dictionaries,
        cpu: &Cpu,
        positions: Vec<Vec<usize>>,
    ) -> Result<FeatureCapture<'d>> {
        let wanted = dictionaries.each_layer(keys.iter().map(String::as_str))?;
        let (cpu, kept) = (cpu.clone(), BTreeMap::new());
        Ok(FeatureCapture { dictionaries, cpu, wanted, positions, numbers: None, give: None, kept })
    }

    /// The same with row numbers for the indices.
    #[must_use]
    pub fn numbered(self, numbers: Vec<usize>) -> Self {
        FeatureCapture { numbers: Some(numbers), ..self }
    }

    /// The same, but passes features on instead of keeping them: for a tap that other code runs and drops.
    #[must_use]
    pub fn giving(self, give: impl FnMut(String, SparseFeatures) + 'd) -> Self {
        FeatureCapture { give: Some(Box::new(give)), ..self }
    }

    /// The kept features, by key.
    pub fn finish(self) -> Vec<(String, SparseFeatures)> {
        let dictionaries = self.dictionaries;
        self.kept.into_iter().map(|((d, layer), kept)| (dictionaries.key(d, layer), kept)).collect()
    }

    fn reads(&self, point: Point) -> impl Iterator<Item = (usize, usize)> + '_ {
        let fits = move |at: &(usize, usize)| self.dictionaries.all()[at.0].fits[at.1].reads == point;
        self.wanted.iter().copied().filter(fits)
    }
}

impl Tap for FeatureCapture<'_> {
    fn wants(&self, point: Point) -> Want {
        if self.reads(point).next().is_some() { Want::Read } else { Want::Nothing }
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        for (dictionary, layer) in self.reads(point).collect::<Vec<_>>() {
            let within = &self.dictionaries.all()[dictionary].dictionary;
            let coder = within.layer(layer)?;
            let (mut tokens, mut x) = (Vec::new(), Vec::new());
            for (row, positions) in self.positions.iter().enumerate() {
                for (number, position) in positions.iter().enumerate() {
                    if let Some(vector) = value.vector(row, *position) {
                        tokens.push((row, number));
                        x.extend_from_slice(vector);
                    }
                }
            }
            let features = coder.encode(&self.cpu, Rows::dense(&x, tokens.len(), coder.d_in()))?;
            within.check_unchanged()?;
            let most = self.positions.iter().map(Vec::len).max().unwrap_or(0);
            let shape = [self.positions.len() as i64, most as i64, coder.n_features() as i64];
            let mut kept = SparseFeatures { indices: Vec::new(), values: Vec::new(), shape };
            for (token, (row, number)) in tokens.into_iter().enumerate() {
                let (numbers, values) = features.token(token);
                let row = self.numbers.as_ref().and_then(|numbers| numbers.get(row).copied()).unwrap_or(row);
                let place = |feature: &u32| [row as i32, number as i32, *feature as i32];
                kept.indices.extend(numbers.iter().map(place));
                kept.values.extend_from_slice(values);
            }
            match &mut self.give {
                Some(give) => give(self.dictionaries.key(dictionary, layer), kept),
                None => match self.kept.entry((dictionary, layer)) {
                    Entry::Vacant(place) => drop(place.insert(kept)),
                    // A later pass of a generation has later tokens, or none.
                    Entry::Occupied(mut place) => {
                        place.get_mut().indices.extend(kept.indices);
                        place.get_mut().values.extend(kept.values);
                    }
                },
            }
        }
        Ok(())
    }
}
