//! The sources of a graph's rows: features, errors and tokens of one prompt.

use std::collections::BTreeMap;

use easyroutine::{Cpu, Dtype, Error, ErrorKind, Frozen, Model, Result, Stop};
use easyroutine_dictionaries::{Dictionary, Features, Layer};
use easyroutine_kernels::{PackedMatrix, RowsMut};
use easyroutine_sites::{Point, Site};

use crate::graph::Feature;
use crate::options::Options;

/// A prompt's features, errors and tokens, and what they write.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    pub(crate) frozen: Frozen<'a>,
    pub(crate) dictionary: &'a Dictionary,
    /// By model layer: the place of its transcoder, if it has one.
    pub(crate) places: Vec<Option<Place>>,
    /// All active features, by layer, position and number.
    pub(crate) features: Vec<Feature>,
    /// The vectors that nodes write at each place, packed for products.
    pub(crate) groups: BTreeMap<(usize, usize), Group>,
    /// For each layer, its MLP's output without the skip connection, `[T, D]`.
    pub(crate) written: Vec<Vec<f32>>,
    pub(crate) zeroed: usize,
}

/// The place of one layer's transcoder.
#[derive(Debug)]
pub(crate) struct Place {
    /// Its number in the set.
    pub(crate) number: usize,
    pub(crate) reads: Point,
    pub(crate) skip: Option<Skip>,
}

/// A skip connection, packed for both directions.
#[derive(Debug)]
pub(crate) struct Skip {
    pub(crate) forward: PackedMatrix,
    pub(crate) backward: PackedMatrix,
}

/// The vectors written at one layer and position.
#[derive(Debug)]
pub(crate) struct Group {
    /// The nodes, numbered with all active features.
    pub(crate) nodes: Vec<usize>,
    /// Their vectors: nodes by D.
    pub(crate) vectors: PackedMatrix,
}

impl<'a> Sources<'a> {
    pub(crate) fn new(
        model: &'a Model,
        dictionary: &'a Dictionary,
        ids: &[u32],
        options: &Options,
        stop: Stop<'_>,
    ) -> Result<Sources<'a>> {
        options.check(ids.len())?;
        let places = places(model, dictionary)?;
        let reads: Vec<Point> = places.iter().flatten().map(|place| place.reads).collect();
        let frozen = model.freeze(ids, &reads, stop)?;
        let cpu = model.cpu();
        let mut encoded: BTreeMap<usize, Features> = BTreeMap::new();
        let mut features = Vec::new();
        for (layer, place) in places.iter().enumerate() {
            let Some(place) = place else { continue };
            stop.check()?;
            let all = dictionary.layer(place.number)?.encode(cpu, frozen.value(place.reads)?)?;
            let mut kept = Features::new(all.n_features());
            for position in 0..all.len() {
                let (numbers, values) =
                    if position < options.zeroed { (&[][..], &[][..]) } else { all.token(position) };
                let active = || numbers.iter().copied().zip(values.iter().copied());
                kept.push(active());
                let feature =
                    |(number, value): (u32, f32)| Feature { layer, position, number: number as usize, value };
                features.extend(active().map(feature));
            }
            encoded.insert(place.number, kept);
        }
        let mut sources = Sources {
            frozen,
            dictionary,
            places,
            features,
            groups: BTreeMap::new(),
            written: Vec::new(),
            zeroed: options.zeroed,
        };
        let n_layers = sources.places.len();
        for layer in 0..n_layers {
            stop.check()?;
            sources.add_layer(layer, &encoded)?;
        }
        Ok(sources)
    }

    /// Adds what is written at one layer: its features, those of other layers that reach it, and errors.
    fn add_layer(&mut self, layer: usize, encoded: &BTreeMap<usize, Features>) -> Result<()> {
        let cpu = self.frozen.model().cpu();
        let (n_tokens, point) = (self.n_tokens(), Point::layer_of(Site::MlpOut, layer));
        let Ok(out) = self.frozen.value(point) else {
            // A layer without an MLP.
            self.written.push(vec![0.0; n_tokens * self.width()]);
            return Ok(());
        };
        let width = out.n_columns();
        let mut written: Vec<f32> = (0..n_tokens).flat_map(|token| out.row(token)).copied().collect();
        let mut errors = written.clone();
        let mut of_position: Vec<Vec<usize>> = vec![Vec::new(); n_tokens];
        if let Some(place) = &self.places[layer] {
            let x = self.frozen.value(place.reads)?;
            if let Some(skip) = &place.skip {
                let mut through = vec![0.0; n_tokens * width];
                cpu.matmul(x, &skip.forward, None, RowsMut::dense(&mut through, n_tokens, width));
                written.iter_mut().zip(&through).for_each(|(x, skipped)| *x -= skipped);
            }
            let reaches = self.dictionary.sources(place.number);
            let sets: Vec<&Features> = reaches.clone().filter_map(|number| encoded.get(&number)).collect();
            let decoded = self.dictionary.decode(cpu, place.number, &sets, x)?;
            errors.iter_mut().zip(&decoded).for_each(|(error, decoded)| *error -= decoded);
            for (at, feature) in self.features.iter().enumerate() {
                let number = self.places[feature.layer].as_ref().map(|place| place.number);
                if number.is_some_and(|number| reaches.contains(&number)) {
                    of_position[feature.position].push(at);
                }
            }
        }
        for (position, mut nodes) in of_position.into_iter().enumerate().skip(self.zeroed) {
            let mut vectors = Vec::with_capacity((nodes.len() + 1) * width);
            for at in &nodes {
                let feature = self.features[*at];
                let written = self.writing(feature, layer)?;
                vectors.extend(written.unwrap_or_else(|| vec![0.0; width]));
            }
            nodes.push(self.error_node(layer, position));
            vectors.extend_from_slice(&errors[position * width..(position + 1) * width]);
            let packed = PackedMatrix::pack(cpu, Dtype::F32, nodes.len(), width, |n, row| {
                row.copy_from_slice(&vectors[n * width..(n + 1) * width]);
                Ok::<(), Error>(())
            })?;
            self.groups.insert((layer, position), Group { nodes, vectors: packed });
        }
        self.written.push(written);
        Ok(())
    }

    /// What a feature writes at a layer of the model.
    pub(crate) fn writing(&self, feature: Feature, layer: usize) -> Result<Option<Vec<f32>>> {
        let (Some(own), Some(target)) = (&self.places[feature.layer], &self.places[layer]) else {
            return Ok(None);
        };
        if !self.dictionary.sources(target.number).contains(&own.number) {
            return Ok(None);
        }
        self.dictionary.layer(own.number)?.writing(feature.number, feature.value, target.number)
    }

    /// The vectors that a node writes, and where, by its number with all active features; a token writes at no layer.
    pub(crate) fn vectors_of(&self, node: usize) -> Vec<(Option<usize>, usize, Vec<f32>)> {
        let n_errors = self.places.len() * self.n_tokens();
        if let Some(position) = node.checked_sub(self.features.len() + n_errors) {
            return vec![(None, position, self.frozen.tokens().row(position).to_vec())];
        }
        let written = self.groups.iter().filter_map(|((layer, position), group)| {
            let row = group.nodes.iter().position(|other| *other == node)?;
            let mut vector = vec![0.0; group.vectors.inputs()];
            group.vectors.read_row(row, &mut vector);
            Some((Some(*layer), *position, vector))
        });
        written.collect()
    }

    pub(crate) fn n_tokens(&self) -> usize {
        self.frozen.n_tokens()
    }

    /// D.
    pub(crate) fn width(&self) -> usize {
        self.frozen.tokens().n_columns()
    }

    /// Number of sources, with all active features.
    pub(crate) fn n_columns(&self) -> usize {
        self.features.len() + (self.places.len() + 1) * self.n_tokens()
    }

    /// Number of sources if only these features have a node.
    pub(crate) fn n_columns_of(&self, selected: &[usize]) -> usize {
        self.n_columns() - self.features.len() + selected.len()
    }

    pub(crate) fn error_node(&self, layer: usize, position: usize) -> usize {
        self.features.len() + layer * self.n_tokens() + position
    }

    pub(crate) fn token_node(&self, position: usize) -> usize {
        self.features.len() + self.places.len() * self.n_tokens() + position
    }

    /// The place and the layer of a feature.
    pub(crate) fn place_of(&self, feature: Feature) -> Result<(&Place, &Layer)> {
        match &self.places[feature.layer] {
            Some(place) => Ok((place, self.dictionary.layer(place.number)?)),
            None => Err(Error::input(format!("layer {} has no transcoder", feature.layer))),
        }
    }
}

/// The places of a dictionary's layers, by model layer.
fn places(model: &Model, dictionary: &Dictionary) -> Result<Vec<Option<Place>>> {
    let mut places: Vec<Option<Place>> = (0..model.arch().layers.len()).map(|_| None).collect();
    for (number, (fit, layer)) in
        dictionary.fit(model.arch())?.into_iter().zip(dictionary.layers()).enumerate()
    {
        let unfit = |what: String| Err(Error::new(ErrorKind::Unsupported, what));
        if !layer.is_transcoder() {
            return unfit(format!(
                "the dictionary reads and writes `{}`: a graph needs transcoders, which read what enters an MLP and write \
                 what leaves it",
                fit.reads
            ));
        }
        let before = matches!(fit.reads.site(), Site::ResidIn | Site::ResidMid | Site::MlpIn);
        let (Some(at), true) = (fit.writes.layer(), fit.writes.site() == Site::MlpOut && before) else {
            return unfit(format!(
                "the transcoder reads `{}` and writes `{}`: a graph needs one that writes `mlp_out` and reads `mlp_in`, \
                 `resid_mid` or `resid_in`",
                fit.reads, fit.writes
            ));
        };
        if fit.reads.layer() != Some(at) {
            return unfit(format!(
                "the transcoder reads `{}` and writes `{}`, which are of different layers",
                fit.reads, fit.writes
            ));
        }
        layer.check_linear()?;
        let skip = layer.skip_rows()?.map(|rows| skip(model.cpu(), &rows, layer)).transpose()?;
        if places[at].replace(Place { number, reads: fit.reads, skip }).is_some() {
            return unfit(format!("two transcoders of the set write `{}`", fit.writes));
        }
    }
    Ok(places)
}

fn skip(cpu: &Cpu, rows: &[f32], layer: &Layer) -> Result<Skip> {
    let (read, written) = (layer.d_in(), layer.d_out());
    let forward = PackedMatrix::pack(cpu, Dtype::F32, written, read, |n, row| {
        row.copy_from_slice(&rows[n * read..(n + 1) * read]);
        Ok::<(), Error>(())
    })?;
    let backward = forward.transposed(cpu);
    Ok(Skip { forward, backward })
}

/// Σ a · b in f64.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
