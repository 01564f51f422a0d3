//! Feature activation functions.

/// How the encoder's outputs h become features (SAELens, `saes/*.py`; `sparsify/sparse_coder.py`).
#[derive(Debug, Clone, PartialEq)]
pub enum Activation {
    /// relu(h)
    Relu,
    /// relu(h) where h exceeds its threshold.
    JumpRelu {
        /// `[F']`
        threshold: Vec<f32>,
    },
    /// relu of the k largest h, ties to the lower feature.
    TopK {
        /// k.
        k: usize,
    },
    /// relu of the largest h in each of k groups of consecutive features.
    GroupMax {
        /// Number of groups.
        k: usize,
    },
    /// relu(h·scale + magnitude bias) where h + gate bias is above 0; the encoder has no other bias.
    Gated {
        /// `[F']`
        gate_bias: Vec<f32>,
        /// `[F']`
        magnitude_bias: Vec<f32>,
        /// e to the power of `r_mag`, `[F']`.
        scale: Vec<f32>,
    },
}

impl Activation {
    /// The name of the architecture.
    pub fn name(&self) -> &'static str {
        match self {
            Activation::Relu => "relu",
            Activation::JumpRelu { .. } => "jumprelu",
            Activation::TopK { .. } => "topk",
            Activation::GroupMax { .. } => "groupmax",
            Activation::Gated { .. } => "gated",
        }
    }
}

/// Selects one token's features while h arrives in ascending order of features.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    pub(crate) kept: Vec<(u32, f32)>,
    /// The current group, for `GroupMax`.
    group: Option<usize>,
}

impl Choice {
    /// Processes features with their h, in ascending order. A feature whose h cannot be chosen may be left out, but not
    /// for `GroupMax`.
    pub(crate) fn take(
        &mut self,
        activation: &Activation,
        n_features: usize,
        numbered: impl Iterator<Item = (usize, f32)>,
    ) {
        match activation {
            Activation::Relu => {
                self.kept.extend(numbered.filter(|(_, h)| *h > 0.0).map(|(i, h)| (i as u32, h)))
            }
            Activation::JumpRelu { threshold } => {
                let above = numbered.filter(|(i, h)| *h > threshold[*i] && *h > 0.0);
                self.kept.extend(above.map(|(i, h)| (i as u32, h)));
            }
            Activation::Gated { gate_bias, magnitude_bias, scale } => {
                let open = numbered.filter(|(i, h)| h + gate_bias[*i] > 0.0);
                let strong = open.map(|(i, h)| (i as u32, h * scale[i] + magnitude_bias[i]));
                self.kept.extend(strong.filter(|(_, f)| *f > 0.0));
            }
            // Features come in ascending order, so that among equal ones the later never enters.
            Activation::TopK { k } => {
                numbered.for_each(|(i, h)| keep_best(&mut self.kept, *k, (i as u32, h), is_worse))
            }
            Activation::GroupMax { k } => {
                let size = n_features / (*k).max(1);
                for (i, h) in numbered {
                    let group = i / size.max(1);
                    match self.kept.last_mut() {
                        Some(best) if self.group == Some(group) => {
                            if h > best.1 {
                                *best = (i as u32, h);
                            }
                        }
                        _ => self.kept.push((i as u32, h)),
                    }
                    self.group = Some(group);
                }
            }
        }
    }

    /// The features in ascending order, without those that are not above 0.
    pub(crate) fn finish(mut self) -> impl Iterator<Item = (u32, f32)> {
        self.kept.sort_unstable_by_key(|(number, _)| *number);
        self.kept.into_iter().filter(|(_, value)| *value > 0.0)
    }
}

/// Keeps the k best in a heap with the worst on top. An item that is as good as the worst never enters.
pub(crate) fn keep_best<T: Copy>(heap: &mut Vec<T>, k: usize, item: T, is_worse: impl Fn(T, T) -> bool) {
    if heap.len() < k {
        heap.push(item);
        let mut at = heap.len() - 1;
        while at > 0 && is_worse(heap[at], heap[(at - 1) / 2]) {
            heap.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    } else if k > 0 && is_worse(heap[0], item) {
        heap[0] = item;
        let mut at = 0;
        loop {
            let children = [2 * at + 1, 2 * at + 2];
            let worst = children
                .into_iter()
                .filter(|child| *child < k)
                .reduce(|a, b| if is_worse(heap[b], heap[a]) { b } else { a });
            match worst {
                Some(child) if is_worse(heap[child], heap[at]) => {
                    heap.swap(at, child);
                    at = child;
                }
                _ => break,
            }
        }
    }
}

/// Smaller, or equal with a higher feature.
fn is_worse(a: (u32, f32), b: (u32, f32)) -> bool {
    a.1 < b.1 || a.1 == b.1 && a.0 > b.0
}
