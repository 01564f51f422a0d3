//! Probes and steering vectors with their accuracy on held-out examples.

use easyroutine::Result;

use crate::directions::{Logistic, Probe, Steering, Vectors};

/// By default one in this many examples of each class is held out.
const HELD_OUT: usize = 4;

/// The fitting method of a probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ProbeMethod {
    /// [`Probe::logistic`]
    Logistic(Logistic),
    /// [`Probe::mean_difference`]
    MeanDifference,
}

impl ProbeMethod {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            ProbeMethod::Logistic(_) => "logistic",
            ProbeMethod::MeanDifference => "mean_difference",
        }
    }
}

/// How well a direction separates two sides, as shares of examples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    /// On the examples it was fitted on.
    pub fitted: f64,
    /// On the held-out examples; `None` if there are none.
    pub held_out: Option<f64>,
    /// The accuracy of always guessing the larger class of the held-out examples; one half for pairs.
    pub chance: f64,
}

/// Which rows to hold out: every fourth of each class, so that both parts have both classes whatever the order.
pub fn held_out(labels: &[bool]) -> Vec<bool> {
    let mut seen = [0usize; 2];
    let of_row = |label: &bool| {
        let seen = &mut seen[usize::from(*label)];
        *seen += 1;
        seen.is_multiple_of(HELD_OUT)
    };
    labels.iter().map(of_row).collect()
}

/// What is wrong with a held-out part, if its figure says little: rows of one class tell nothing of the other.
pub fn held_out_warning(labels: &[bool], held_out: &[bool]) -> Option<String> {
    let mut of_part = labels.iter().zip(held_out).filter(|(_, held)| **held).map(|(label, _)| *label);
    let first = of_part.next()?;
    let (same, other) = of_part.fold((1, 0), |(same, other), label| match label == first {
        true => (same + 1, other),
        false => (same, other + 1),
    });
    let class = if first { "positive" } else { "negative" };
    (other == 0).then(|| {
        format!("all {same} held-out rows are {class}: their accuracy does not say how well the classes are told apart")
    })
}

/// Fits a probe on the rows that are not held out.
///
/// # Shapes
/// rows: `[n, width]`; labels, held_out: `[n]`.
///
/// # Errors
/// As [`Probe::logistic`] and [`Probe::mean_difference`].
pub fn fit_probe(
    rows: Vectors<'_>,
    labels: &[bool],
    held_out: &[bool],
    method: ProbeMethod,
) -> Result<(Probe, Accuracy)> {
    let part = |wanted: bool| {
        let is_in = |row: usize| held_out.get(row) == Some(&wanted);
        let labels: Vec<bool> =
            labels.iter().enumerate().filter(|(row, _)| is_in(*row)).map(|(_, label)| *label).collect();
        (rows.chosen(is_in), labels)
    };
    let ((fitted, fitted_labels), (test, test_labels)) = (part(false), part(true));
    let (fitted, test) = (Vectors::new(&fitted, rows.width())?, Vectors::new(&test, rows.width())?);
    let probe = match method {
        ProbeMethod::Logistic(how) => Probe::logistic(fitted, &fitted_labels, how)?,
        ProbeMethod::MeanDifference => Probe::mean_difference(fitted, &fitted_labels)?,
    };
    let of_chance = if test_labels.is_empty() { &fitted_labels } else { &test_labels };
    let positive = of_chance.iter().filter(|label| **label).count();
    let accuracy = Accuracy {
        fitted: probe.accuracy(fitted, &fitted_labels),
        held_out: (!test.is_empty()).then(|| probe.accuracy(test, &test_labels)),
        chance: positive.max(of_chance.len() - positive) as f64 / of_chance.len() as f64,
    };
    Ok((probe, accuracy))
}

/// Computes a steering vector from all pairs. Its accuracy is the share of pairs whose positive side lies further along
/// it than the negative one. Held-out accuracy judges each pair by the vector of the other pairs, in four folds.
///
/// # Shapes
/// positive, negative: `[n, width]`; result: `[width]`.
///
/// # Errors
/// As [`Steering::vector`].
pub fn fit_steering(
    positive: Vectors<'_>,
    negative: Vectors<'_>,
    method: Steering,
) -> Result<(Vec<f64>, Accuracy)> {
    let vector = method.vector(positive, negative)?;
    let n = positive.len();
    let share = |right: usize| right as f64 / n as f64;
    let mut right = Some(0);
    for fold in 0..HELD_OUT {
        let is_rest = |pair: usize| pair % HELD_OUT != fold;
        let rest = [positive, negative].map(|side| side.chosen(is_rest));
        let width = positive.width();
        let fitted = method.vector(Vectors::new(&rest[0], width)?, Vectors::new(&rest[1], width)?);
        // Too few pairs, or pairs that do not differ, say nothing about the others.
        right = right
            .zip(fitted.ok())
            .filter(|_| n >= 2 * HELD_OUT)
            .map(|(right, vector)| right + ordered(&vector, positive, negative, |pair| !is_rest(pair)));
    }
    let accuracy = Accuracy {
        fitted: share(ordered(&vector, positive, negative, |_| true)),
        held_out: right.map(share),
        chance: 0.5,
    };
    Ok((vector, accuracy))
}

/// How many of these pairs have their positive side further along a vector.
fn ordered(
    vector: &[f64],
    positive: Vectors<'_>,
    negative: Vectors<'_>,
    counts: impl Fn(usize) -> bool,
) -> usize {
    let along = |row: &[f32]| row.iter().zip(vector).map(|(x, v)| f64::from(*x) * v).sum::<f64>();
    let pairs = positive.rows().zip(negative.rows()).enumerate();
    pairs.filter(|(pair, (p, n))| counts(*pair) && along(p) > along(n)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_classes_are_held_out_in_whatever_order_they_come() {
        let sorted: Vec<bool> = (0..40).map(|row| row < 24).collect();
        let held = held_out(&sorted);
        let of_class = |class: bool| held.iter().zip(&sorted).filter(|(h, l)| **h && **l == class).count();
        assert_eq!((of_class(true), of_class(false)), (6, 4));
        assert_eq!(held_out(&[true, false, true]), [false; 3]);
    }

    #[test]
    fn a_held_out_part_of_one_class_is_told() {
        let warned = |labels: [u8; 3], held: [u8; 3]| {
            held_out_warning(&labels.map(|label| label == 1), &held.map(|held| held == 1))
        };
        assert!(warned([1, 1, 0], [1, 1, 0]).unwrap().starts_with("all 2 held-out rows are positive"));
        assert!(warned([1, 0, 1], [0, 1, 0]).unwrap().starts_with("all 1 held-out rows are negative"));
        assert_eq!([warned([1, 0, 1], [1, 1, 0]), warned([1, 1, 0], [0, 0, 0])], [None, None]);
    }

    #[test]
    fn a_vector_of_noise_orders_held_out_pairs_by_chance_and_one_of_a_difference_orders_them_all() {
        let noise = |seed: usize| ((seed * 7919 + 13) % 997) as f32 / 997.0 - 0.5;
        let (n, width) = (64, 32);
        let side = |of: usize, shift: f32| -> Vec<f32> {
            (0..n * width).map(|i| noise(i * 2 + of) + if i % width == 0 { shift } else { 0.0 }).collect()
        };
        let fit = |shift: f32, method: Steering| {
            let (positive, negative) = (side(0, shift), side(1, -shift));
            let vectors = [&positive, &negative].map(|values| Vectors::new(values, width).unwrap());
            fit_steering(vectors[0], vectors[1], method).unwrap().1
        };
        for method in [Steering::Caa, Steering::PcaCenter] {
            let clear = fit(20.0, method);
            assert_eq!((clear.fitted, clear.held_out), (1.0, Some(1.0)), "{method:?}");
        }
        let nothing = fit(0.0, Steering::Caa);
        assert!(nothing.fitted > nothing.held_out.unwrap() + 0.1, "{nothing:?}");
        let few = side(0, 1.0);
        let few = Vectors::new(&few[..4 * width], width).unwrap();
        let other = side(1, 0.0);
        let other = Vectors::new(&other[..4 * width], width).unwrap();
        assert_eq!(fit_steering(few, other, Steering::Caa).unwrap().1.held_out, None);
    }
}
