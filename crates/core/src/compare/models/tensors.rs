//! The tensors of two checkpoints, matched by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::of_two_kinds;
use crate::error::{Error, ErrorKind, Result, list};
use crate::export::merged;
use crate::model::Model;
use crate::names::Names;
use crate::weights::Checkpoint;

/// What is exchanged at once: one tensor, or one of all experts of a layer.
#[derive(Debug)]
pub(super) struct Unit {
    /// Its name in A, `*` for the number of an expert.
    pub(super) name: String,
    pub(super) layer: Option<usize>,
    /// The names of each tensor in A and in B.
    pub(super) tensors: Vec<[String; 2]>,
}

/// How far a tensor of B is from that of A.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightsApart {
    /// Its name in A, `*` for the number of an expert.
    pub name: String,
    /// Its layer; `None` for those of no layer.
    pub layer: Option<usize>,
    /// Sizes of its axes.
    pub shape: Vec<usize>,
    /// How A and B store it: `BF16`, `Q4_K`.
    pub encodings: [String; 2],
    /// The norm of the difference over the norm of A's numbers; NaN if one of them is.
    pub error: f64,
    /// Whether all numbers are equal.
    pub is_equal: bool,
}

/// Matches the tensors of two models, as their checkpoints name them.
///
/// # Errors
/// Names what one has alone, and what differs in shape.
pub(super) fn matched(
    models: &[Model; 2],
    types: [&str; 2],
    names: &[Names; 2],
    checkpoints: &[Arc<Checkpoint>; 2],
) -> Result<Vec<Unit>> {
    let tied = models.each_ref().map(Model::is_tied);
    if tied[0] != tied[1] {
        let (one, other) = if tied[0] { ("A", "B") } else { ("B", "A") };
        let apart = format!("{one} has one matrix as embedding and unembedding, and {other} has two");
        return Err(of_two_kinds(types, &[apart]));
    }
    let [a, b] = [0, 1].map(|side| {
        let used = checkpoints[side].names_used(&names[side]);
        let named =
            used.into_iter().map(|name| (common_name(name, [&names[side], &names[0]]), name.to_owned()));
        named.collect::<BTreeMap<String, String>>()
    });
    // A tied pair is stored under either name, or under both.
    let tables = [names[0].embed, names[0].unembed].map(|module| format!("{module}.weight"));
    let is_table = |name: &String| tied[0] && tables.contains(name);
    let alone = |of: &BTreeMap<String, String>, other: &BTreeMap<String, String>| -> Vec<String> {
        of.keys().filter(|name| !other.contains_key(*name) && !is_table(name)).cloned().collect()
    };
    let lacking = [("A", alone(&a, &b)), ("B", alone(&b, &a))];
    let lacking = lacking.iter().filter(|(_, names)| !names.is_empty());
    let lacking =
        lacking.map(|(side, names)| format!("{side} alone has {}", list(names))).collect::<Vec<_>>();
    if !lacking.is_empty() {
        return Err(of_two_kinds(types, &lacking));
    }
    let mut units: Vec<Unit> = Vec::new();
    let mut of_experts: BTreeMap<String, usize> = BTreeMap::new();
    let of_table = |side: &BTreeMap<String, String>| -> Vec<String> {
        tables.iter().filter_map(|name| side.get(name).cloned()).collect()
    };
    if let (true, [first, ..], others) = (tied[0], of_table(&a).as_slice(), of_table(&b)) {
        // Copies are equal, so each name may take the other's first.
        let of_b = others.iter().map(|other| [first.clone(), other.clone()]);
        let of_a =
            of_table(&a).into_iter().skip(1).zip(others.first().cloned()).map(|(own, other)| [own, other]);
        units.push(Unit { name: first.clone(), layer: None, tensors: of_b.chain(of_a).collect() });
    }
    for (name, of_a) in a.iter().filter(|(name, _)| !is_table(name)) {
        let Some(of_b) = b.get(name) else { continue };
        let tensors = [of_a.clone(), of_b.clone()];
        let pattern = without_expert(of_a);
        let layer = layer_of(name, &names[0]);
        let next = units.len();
        let place = if pattern == *of_a { next } else { *of_experts.entry(pattern.clone()).or_insert(next) };
        match units.get_mut(place) {
            Some(unit) => unit.tensors.push(tensors),
            None => units.push(Unit { name: pattern, layer, tensors: vec![tensors] }),
        }
    }
    units.sort_by_key(|unit| unit.layer);
    check_shapes(&units, names, checkpoints)?;
    Ok(units)
}

/// Refuses tensors of different shapes.
fn check_shapes(units: &[Unit], names: &[Names; 2], checkpoints: &[Arc<Checkpoint>; 2]) -> Result<()> {
    let mut apart = Vec::new();
    for [a, b] in units.iter().flat_map(|unit| &unit.tensors) {
        let shape = |side: usize, name: &str| -> Result<Vec<usize>> {
            Ok(checkpoints[side].current(names[side].prefix, name)?.shape().to_vec())
        };
        let shapes = [shape(0, a)?, shape(1, b)?];
        if shapes[0] != shapes[1] {
            apart.push(format!("{a} {:?} and {:?}", shapes[0], shapes[1]));
        }
    }
    if apart.is_empty() {
        return Ok(());
    }
    let message = format!("tensors of A and B differ in shape: {}", list(&apart));
    Err(Error::new(ErrorKind::Unsupported, message))
}

/// A tensor's name without the prefix that a file may omit, and with the unembedding called as in A.
fn common_name(name: &str, [own, first]: [&Names; 2]) -> String {
    let rest = name.strip_prefix(own.prefix).unwrap_or(name);
    match rest.strip_prefix(own.unembed).filter(|end| end.starts_with('.')) {
        Some(end) => format!("{}{end}", first.unembed),
        None => rest.to_owned(),
    }
}

fn layer_of(name: &str, names: &Names) -> Option<usize> {
    let (before, after) = names.layer.split_once("{}")?;
    let rest = name.strip_prefix(before)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, rest) = rest.split_at(end);
    number.parse().ok().filter(|_| rest.starts_with(after))
}

/// The name with `*` for an expert's number.
fn without_expert(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('.').collect();
    let expert = parts.windows(2).position(|two| two[0] == "experts" && two[1].parse::<usize>().is_ok());
    if let Some(at) = expert {
        parts[at + 1] = "*";
    }
    parts.join(".")
}

impl Unit {
    /// How far its numbers in B are from those in A. Of a tied pair one name is read.
    pub(super) fn weights(
        &self,
        names: &[Names; 2],
        checkpoints: &[Arc<Checkpoint>; 2],
    ) -> Result<WeightsApart> {
        let mut sums = Sums::default();
        let (mut shape, mut encodings) = (Vec::new(), [BTreeSet::new(), BTreeSet::new()]);
        let mut seen = BTreeSet::new();
        for both in &self.tensors {
            let [a, b] = [0, 1].map(|side| checkpoints[side].current(names[side].prefix, &both[side]));
            let (a, b) = (a?, b?);
            shape = a.shape().to_vec();
            encodings[0].insert(a.encoding().to_string());
            encodings[1].insert(b.encoding().to_string());
            if !seen.insert(&both[0]) {
                continue;
            }
            if !a.is_of_floats() || !b.is_of_floats() {
                // Blocks and their scales are of use together only.
                sums.differing += usize::from(!a.same_as(&b));
                sums.apart = if sums.differing > 0 { f64::NAN } else { sums.apart };
                continue;
            }
            let module = |side: usize| both[side].strip_suffix(".weight").unwrap_or(&both[side]);
            let is_updated = [0, 1].map(|side| {
                let (checkpoint, prefix) = (&checkpoints[side], names[side].prefix);
                let module = module(side);
                checkpoint.has_update(prefix, module.strip_prefix(prefix).unwrap_or(module))
            });
            if is_updated.contains(&true) || !a.is_read_by_rows() || !b.is_read_by_rows() {
                let [a, b] = [0, 1].map(|side| merged(&checkpoints[side], &names[side], &both[side]));
                sums.add(&a?, &b?);
                continue;
            }
            let (rows, width) = a.rows();
            let mut values = [vec![0.0; width], vec![0.0; width]];
            for row in 0..rows {
                a.read_row(row, &mut values[0])?;
                b.read_row(row, &mut values[1])?;
                sums.add(&values[0], &values[1]);
            }
            a.drop_pages();
            b.drop_pages();
        }
        let encodings = encodings.map(|all| all.into_iter().collect::<Vec<_>>().join(", "));
        let error = match sums {
            Sums { apart: 0.0, .. } => 0.0,
            Sums { apart, of_a, .. } => (apart / of_a).sqrt(),
        };
        let is_equal = sums.differing == 0;
        Ok(WeightsApart { name: self.name.clone(), layer: self.layer, shape, encodings, error, is_equal })
    }
}

/// Sums over pairs of numbers.
#[derive(Default)]
struct Sums {
    apart: f64,
    of_a: f64,
    differing: usize,
}

impl Sums {
    fn add(&mut self, a: &[f32], b: &[f32]) {
        for (a, b) in a.iter().zip(b) {
            if a.to_bits() == b.to_bits() {
                self.of_a += f64::from(*a) * f64::from(*a);
                continue;
            }
            let (a, b) = (f64::from(*a), f64::from(*b));
            self.of_a += a * a;
            self.apart += (b - a) * (b - a);
            self.differing += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_an_expert_is_left_open_and_that_of_a_layer_is_not() {
        assert_eq!(
            without_expert("model.layers.3.mlp.experts.17.up_proj.weight"),
            "model.layers.3.mlp.experts.*.up_proj.weight"
        );
        assert_eq!(
            without_expert("model.layers.3.mlp.experts.up_proj"),
            "model.layers.3.mlp.experts.up_proj"
        );
    }
}
