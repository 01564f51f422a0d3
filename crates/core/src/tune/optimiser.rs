//! Optimisers as in torch (`torch.optim.SGD`, `torch.optim.Adam`), with tuned-lens' schedules.

use crate::error::{Error, Result};

const MOMENTUM: f32 = 0.9;
const DECAY: f32 = 1e-3;
const BETAS: [f64; 2] = [0.9, 0.999];
const EPS: f64 = 1e-8;

/// The optimiser of translators.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Optimiser {
    /// Nesterov momentum 0.9, weight decay 1e-3; the rate is this times 1 - 0.9 and falls linearly to 0. tuned-lens'
    /// default, with a rate of 1.
    Sgd {
        /// The rate.
        rate: f64,
    },
    /// AMSGrad, weight decay 1e-3 added to the gradient; the rate rises over min(1000, steps / 5) steps, then falls linearly to
    /// 0. tuned-lens takes 1e-3.
    Adam {
        /// The rate.
        rate: f64,
    },
}

/// The parameters of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Steps over which the rate rises.
    pub warm_up: usize,
    /// All steps.
    pub steps: usize,
}

impl Optimiser {
    /// `sgd` or `adam`, with tuned-lens' rate unless another is given.
    ///
    /// # Errors
    /// If the name is unknown, or the rate is not positive.
    pub fn from_name(name: &str, rate: Option<f64>) -> Result<Self> {
        if let Some(rate) = rate.filter(|rate| !rate.is_finite() || *rate <= 0.0) {
            return Err(Error::input(format!("a rate of {rate} changes nothing: it must be positive")));
        }
        match name {
            "sgd" => Ok(Optimiser::Sgd { rate: rate.unwrap_or(1.0) }),
            "adam" => Ok(Optimiser::Adam { rate: rate.unwrap_or(1e-3) }),
            _ => Err(Error::input(format!("no optimiser `{name}`")).hint("they are sgd and adam")),
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Optimiser::Sgd { .. } => "sgd",
            Optimiser::Adam { .. } => "adam",
        }
    }

    /// Its rate before the schedule.
    pub fn base_rate(self) -> f64 {
        match self {
            Optimiser::Sgd { rate } | Optimiser::Adam { rate } => rate,
        }
    }

    /// Its schedule.
    pub fn schedule(self, steps: usize) -> Schedule {
        let warm_up = match self {
            Optimiser::Sgd { .. } => 0,
            Optimiser::Adam { .. } => (steps / 5).min(1000),
        };
        Schedule { warm_up, steps }
    }

    /// The rate of a step.
    pub fn rate(self, step: usize, steps: usize) -> f64 {
        let Schedule { warm_up, steps } = self.schedule(steps);
        let whole = match self {
            Optimiser::Sgd { rate } => rate * f64::from(1.0 - MOMENTUM),
            Optimiser::Adam { rate } => rate,
        };
        if step < warm_up {
            return whole * step as f64 / warm_up as f64;
        }
        whole * (steps.saturating_sub(step)) as f64 / (steps - warm_up).max(1) as f64
    }
}

/// The state of an optimiser for one layer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moments {
    /// For SGD the momentum; for Adam both moments and the largest second moment.
    pub(super) values: Vec<Vec<f32>>,
}

impl Moments {
    pub(super) fn new(optimiser: Optimiser, size: usize) -> Self {
        let n = match optimiser {
            Optimiser::Sgd { .. } => 1,
            Optimiser::Adam { .. } => 3,
        };
        Moments { values: vec![vec![0.0; size]; n] }
    }

    pub(super) fn step(&mut self, optimiser: Optimiser, step: usize, rate: f64, p: &mut [f32], g: &[f32]) {
        match (optimiser, self.values.as_mut_slice()) {
            (Optimiser::Sgd { .. }, [momentum]) => {
                for ((p, g), m) in p.iter_mut().zip(g).zip(momentum) {
                    let g = g + DECAY * *p;
                    // As in torch, the first step's momentum is the gradient itself.
                    *m = if step == 0 { g } else { MOMENTUM * *m + g };
                    *p -= rate as f32 * (g + MOMENTUM * *m);
                }
            }
            (Optimiser::Adam { .. }, [first, second, largest]) => {
                let n = (step + 1) as i32;
                let [one, two] = BETAS.map(|beta| 1.0 - beta.powi(n));
                let (size, root) = ((rate / one) as f32, two.sqrt() as f32);
                let [b1, b2] = BETAS.map(|beta| beta as f32);
                let moments = first.iter_mut().zip(second).zip(largest);
                for ((p, g), ((m, v), most)) in p.iter_mut().zip(g).zip(moments) {
                    let g = g + DECAY * *p;
                    *m += (1.0 - b1) * (g - *m);
                    *v = b2 * *v + (1.0 - BETAS[1]) as f32 * g * g;
                    *most = most.max(*v);
                    *p -= size * *m / (most.sqrt() / root + EPS as f32);
                }
            }
            _ => {}
        }
    }
}
