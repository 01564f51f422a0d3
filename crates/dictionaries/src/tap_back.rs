//! Gradients through changes of features.
//!
//! With the features f of what a layer reads, x: a feature that is changed adds (f' − f)·W_dec where the layer writes, and a
//! splice puts f'·W_dec + b_dec (+ x·W_skip) there. So the gradient g of what stands after the change passes on as it is, or
//! not at all under a splice; and x gets ∂(f' − f)/∂f·(W_dec·g) along the encoder's row of each active feature, where
//! ∂f'/∂f is 0 of a feature that was set and c of one that was scaled. Which features are active is constant.

use easyroutine::sites::Point;
use easyroutine::{Error, Result, Reversible, Value};

use crate::change::FeatureOperation;
use crate::tap::{FeatureEdits, Held, Rule};

impl Reversible for FeatureEdits<'_> {
    fn begin(&mut self) {
        self.held.clear();
        self.by_read.clear();
    }

    fn leads_on(&self, point: Point) -> bool {
        let all = self.dictionaries.all().iter().enumerate();
        all.flat_map(|(d, named)| named.fits.iter().enumerate().map(move |(layer, fit)| (d, layer, fit)))
            .any(|(d, layer, fit)| fit.reads == point && self.encodes(d, layer))
    }

    fn back(&mut self, point: Point, _: Option<&[f32]>, gradient: &mut Value<'_>) -> Result<()> {
        // What `at` did, the last first.
        let dictionaries = self.dictionaries;
        for (dictionary, named) in dictionaries.all().iter().enumerate().rev() {
            for (layer, fit) in named.fits.iter().enumerate().rev() {
                if fit.writes == point && self.writes(dictionary, layer) {
                    self.written_back(dictionary, layer, gradient)?;
                    named.dictionary.check_unchanged()?;
                }
                if fit.reads == point && self.encodes(dictionary, layer) {
                    self.read_back(dictionary, layer, gradient);
                }
            }
        }
        Ok(())
    }
}

impl FeatureEdits<'_> {
    /// Where a layer writes: what the splice leaves of the gradient, and what comes to the vectors that were read.
    fn written_back(&mut self, dictionary: usize, target: usize, gradient: &mut Value<'_>) -> Result<()> {
        let within = &self.dictionaries.all()[dictionary].dictionary;
        let sources = within.sources(target);
        let held = |layer: usize| self.held.get(&(dictionary, layer));
        let Some(tokens) = sources.clone().find_map(held).map(|held| held.tokens.clone()) else {
            return Ok(());
        };
        let rules: Vec<&Rule> = self.rules.iter().filter(|rule| rule.dictionary == dictionary).collect();
        let to = within.layer(target)?;
        let mut found: Vec<(usize, usize, Vec<f64>)> = Vec::new();
        for (number, (row, position)) in tokens.into_iter().enumerate() {
            let Some(vector) = gradient.vector_mut(row, position) else { continue };
            let named = || rules.iter().filter(|rule| rule.names(row, position));
            let splices = named()
                .any(|rule| rule.operation == FeatureOperation::Splice && rule.layers.contains(&target));
            let g = vector.to_vec();
            if splices {
                vector.fill(0.0);
            }
            // What undoes the norm hangs on what the target reads, as far as a norm is by each vector's own numbers.
            let blank = vec![0.0; to.d_in()];
            let own = held(target).map_or(&blank[..], |held| held.vector(number, to.d_in()));
            let undo = to.undo(own)?;
            let mut by_scale = 0.0;
            for source in sources.clone() {
                let Some(held) = held(source) else { continue };
                let from = within.layer(source)?;
                let (numbers, values) = held.before.token(number);
                let slope = |feature: u32| {
                    let of_it = named().filter(|rule| {
                        rule.layers.contains(&source) && rule.feature == Some(feature as usize)
                    });
                    of_it.fold(1.0, |slope, rule| match rule.operation {
                        FeatureOperation::Set(_) => 0.0,
                        FeatureOperation::Scale(factor) => slope * f64::from(factor),
                        _ => slope,
                    }) - f64::from(u8::from(!splices))
                };
                let along = from.by_features(target, numbers, &g)?;
                let by_feature: Vec<(u32, f64)> = numbers
                    .iter()
                    .zip(&along)
                    .map(|(feature, along)| (*feature, slope(*feature) * along * undo.scale))
                    .collect();
                if to.undoes_norm {
                    by_scale += match splices {
                        true => sum_along(from, target, held.after.token(number), &g)?,
                        false => {
                            sum_along(from, target, held.after.token(number), &g)?
                                - numbers
                                    .iter()
                                    .zip(values)
                                    .zip(&along)
                                    .map(|((_, v), a)| f64::from(*v) * a)
                                    .sum::<f64>()
                        }
                    };
                }
                let normalised = from.by_normalised(&by_feature)?;
                let x = held.vector(number, from.d_in());
                found.push((source, number, from.norm.back(x, &normalised, 0.0, 0.0)));
            }
            if held(target).is_none() {
                continue;
            }
            let mut of_own = vec![0.0; to.d_in()];
            let mut by_shift = 0.0;
            if splices {
                by_scale +=
                    to.decoder_bias.iter().zip(&g).map(|(b, g)| f64::from(*b) * f64::from(*g)).sum::<f64>();
                by_shift = g.iter().map(|g| f64::from(*g)).sum();
                if let Some(skipped) =
                    to.skipped(&self.cpu, easyroutine_kernels::Rows::dense(own, 1, to.d_in()))?
                {
                    by_scale +=
                        skipped.iter().zip(&g).map(|(s, g)| f64::from(*s) * f64::from(*g)).sum::<f64>();
                }
                to.add_skip_back(&g, undo.scale, &mut of_own)?;
            }
            if to.undoes_norm {
                let nothing = vec![0.0; to.d_in()];
                let of_norm = to.norm.back(own, &nothing, by_scale, by_shift);
                of_own.iter_mut().zip(of_norm).for_each(|(sum, more)| *sum += more);
            }
            found.push((target, number, of_own));
        }
        for (layer, number, more) in found {
            let Some(held) = self.held.get(&(dictionary, layer)) else { continue };
            let width = more.len();
            let zeros = || vec![0.0; held.tokens.len() * width];
            let sum = self.by_read.entry((dictionary, layer)).or_insert_with(zeros);
            let sum = sum.get_mut(number * width..(number + 1) * width);
            let sum = sum.ok_or_else(|| Error::input("layers of a dictionary that encoded other tokens"))?;
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        Ok(())
    }

    /// Where a layer reads: the gradient by its features joins that of the vector.
    fn read_back(&mut self, dictionary: usize, layer: usize, gradient: &mut Value<'_>) {
        let Some(sum) = self.by_read.remove(&(dictionary, layer)) else { return };
        let Some(held) = self.held.get(&(dictionary, layer)) else { return };
        let width = sum.len() / held.tokens.len().max(1);
        for ((row, position), sum) in held.tokens.iter().zip(sum.chunks_exact(width.max(1))) {
            let Some(vector) = gradient.vector_mut(*row, *position) else { continue };
            vector.iter_mut().zip(sum).for_each(|(g, more)| *g = (f64::from(*g) + more) as f32);
        }
    }
}

/// Σ f·(W_dec·g) over the features of a token.
fn sum_along(
    layer: &crate::layer::Layer,
    target: usize,
    (numbers, values): (&[u32], &[f32]),
    g: &[f32],
) -> Result<f64> {
    let along = layer.by_features(target, numbers, g)?;
    Ok(along.iter().zip(values).map(|(along, value)| along * f64::from(*value)).sum())
}

impl Held {
    fn vector(&self, number: usize, width: usize) -> &[f32] {
        &self.x[number * width..][..width]
    }
}
