//! Differences of vectors, and their summaries.

/// Of many numbers: the mean and the largest.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Mean {
    sum: f64,
    count: usize,
    most: f64,
}

impl Mean {
    pub(super) fn add(&mut self, x: f64) {
        self.sum += x;
        self.count += 1;
        self.most = if self.count == 1 { x } else { self.most.max(x) };
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The mean; 0 of none.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// The largest; 0 of none.
    pub fn most(&self) -> f64 {
        self.most
    }
}

/// How far vectors of B are from those of A, over many positions. Positions at which either holds NaN are counted and
/// add to nothing else.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// The norm of the difference over the norm of A's vector.
    pub error: Mean,
    /// 1 less the cosine of the angle between both: its mean, and where the angle is largest.
    pub angle: Mean,
    /// KL(A ‖ B) of what each model's lens predicts, in nats; of no position if the models have no unembedding.
    pub kl: Mean,
    /// Positions at which the most likely tokens differ.
    pub top_changed: usize,
    /// Positions with NaN.
    pub nan: usize,
}

impl Summary {
    pub(super) fn add(&mut self, vector: Vector, prediction: Option<(f64, bool)>) {
        let kl = prediction.map_or(0.0, |(kl, _)| kl);
        if vector.error.is_nan() || vector.cosine.is_nan() || kl.is_nan() {
            self.nan += 1;
            return;
        }
        self.error.add(vector.error);
        self.angle.add(1.0 - vector.cosine);
        if let Some((kl, is_changed)) = prediction {
            self.kl.add(kl);
            self.top_changed += usize::from(is_changed);
        }
    }

    /// The mean cosine.
    pub fn cosine(&self) -> f64 {
        1.0 - self.angle.mean()
    }

    /// The least cosine.
    pub fn least_cosine(&self) -> f64 {
        1.0 - self.angle.most()
    }
}

/// How far one vector of B is from that of A.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Vector {
    /// The norm of the difference over the norm of A's vector; NaN if either holds NaN or infinity.
    pub(super) error: f64,
    /// The cosine of the angle between both.
    pub(super) cosine: f64,
}

impl Vector {
    pub(super) fn of(a: &[f32], b: &[f32]) -> Vector {
        let [mut aa, mut ab, mut bb, mut apart] = [0.0; 4];
        for (a, b) in a.iter().zip(b) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            aa += a * a;
            ab += a * b;
            bb += b * b;
            apart += (b - a) * (b - a);
        }
        // Infinite less infinite is NaN.
        let error = if apart == 0.0 { 0.0 } else { (apart / aa).sqrt() };
        let cosine = match (aa == 0.0, bb == 0.0) {
            (true, true) => 1.0,
            (false, false) => (ab / (aa * bb).sqrt()).clamp(-1.0, 1.0),
            _ => 0.0,
        };
        Vector { error, cosine }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_vectors_are_exactly_equal_and_nan_is_counted() {
        let x: Vec<f32> = (0..99).map(|i| (i as f32).sin() * 1e3).collect();
        assert_eq!(Vector::of(&x, &x), Vector { error: 0.0, cosine: 1.0 });
        assert_eq!(Vector::of(&[0.0; 3], &[0.0; 3]), Vector { error: 0.0, cosine: 1.0 });
        assert_eq!(Vector::of(&[3.0, 4.0], &[-3.0, -4.0]), Vector { error: 2.0, cosine: -1.0 });
        let mut summary = Summary::default();
        summary.add(Vector::of(&[1.0, 2.0], &[1.0, f32::NAN]), None);
        summary.add(Vector::of(&[f32::INFINITY], &[f32::INFINITY]), None);
        summary.add(Vector::of(&[1.0], &[1.5]), Some((0.25, true)));
        assert_eq!((summary.nan, summary.error.count(), summary.error.mean()), (2, 1, 0.5));
        assert_eq!((summary.kl.mean(), summary.top_changed), (0.25, 1));
    }
}
