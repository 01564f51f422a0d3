//! The weights of a layer of experts, in any storage layout.

use super::build_parts::{gate_up, unnamed};
use super::experts::Expert;
use super::weights::{Mlp, Shared};
use crate::arch::{self, Arch, Bias};
use crate::error::Result;
use crate::names::{Correction, ExpertNames, LayerNames, Linear, MlpNames, SharedNames};
use crate::weights::{Loader, Norm, Projection};

/// Router, experts and the shared expert of a layer.
pub(super) fn build(
    loader: &Loader<'_>,
    prefix: &str,
    described: arch::Mlp,
    names: MlpNames,
    d_model: usize,
) -> Result<Mlp> {
    let (
        arch::Mlp::Experts { count, d_mlp, latent: width, shared: shares, router: rules, .. },
        MlpNames::Experts { router, correction, apart, experts, latent, shared },
    ) = (described, names)
    else {
        return Err(unnamed("experts"));
    };
    let stored = Stored { loader, prefix, count, d_mlp, width: width.unwrap_or(d_model) };
    let values = |name: &str, shape: &[usize]| {
        loader.checkpoint.values(loader.base, &format!("{prefix}{name}"), shape)
    };
    let correction = match correction {
        None => None,
        Some(Correction::Vector(name)) => Some(values(name, &[count])?),
        Some(Correction::Row(name)) => Some(values(name, &[1, count])?),
    };
    let factors = match (rules.factors, apart) {
        (Bias::Absent, _) => None,
        (Bias::Stored, Some(names)) => Some(values(names.factors, &[count])?),
        (Bias::Stored, None) => return Err(unnamed("factors of experts")),
    };
    let shared = match (shares, shared) {
        (Some(expert), Some(names)) => Some(Box::new(self::shared(loader, prefix, expert, names, d_model)?)),
        _ => None,
    };
    let latent = match (width, latent) {
        (None, _) => None,
        (Some(width), Some([input, out])) => {
            let input = loader.linear(prefix, input, width, d_model)?;
            Some(Box::new([input, loader.linear(prefix, out, d_model, width)?]))
        }
        (Some(_), None) => return Err(unnamed("projections around experts")),
    };
    Ok(Mlp::Experts {
        router: loader.linear_f32(prefix, router, count, d_model)?,
        correction,
        factors,
        experts: stored.experts(experts)?,
        latent,
        shared,
    })
}

/// Norms of a router and experts that read the stream directly: before the router and the experts, after these, and
/// after the shared expert.
pub(super) fn norms(
    loader: &Loader<'_>,
    arch: &Arch,
    layer: usize,
    prefix: &str,
    names: &LayerNames,
) -> Result<[Option<Norm>; 4]> {
    let (Some(arch::Mlp::Experts { router, .. }), MlpNames::Experts { apart: names, .. }) =
        (arch.layers[layer].mlp, names.mlp)
    else {
        return Ok([None, None, None, None]);
    };
    let Some(norm) = router.apart else { return Ok([None, None, None, None]) };
    let names = names.ok_or_else(|| unnamed("norms of experts"))?;
    let width = arch.d_model;
    let share = (width as f64).powf(-0.5) as f32;
    let of_router = || {
        let mut factors = loader.vector(&format!("{prefix}{}", names.router_scale), width)?;
        factors.iter_mut().for_each(|factor| *factor *= share);
        Ok(factors)
    };
    let of = |name: &str| loader.norm(&format!("{prefix}{name}"), norm, width).map(Some);
    Ok([
        Some(loader.norm_of(norm, of_router, || Ok(Vec::new()))?),
        of(names.experts)?,
        of(names.experts_post)?,
        of(names.shared_post)?,
    ])
}

fn shared(
    loader: &Loader<'_>,
    prefix: &str,
    expert: arch::SharedExpert,
    names: SharedNames,
    d_model: usize,
) -> Result<Shared> {
    let d_mlp = expert.d_mlp;
    Ok(match names {
        SharedNames::Split { gate, up, down, weigh } => Shared {
            up: gate_up(loader, prefix, ([gate, up], None), d_mlp, d_model)?,
            down: loader.linear(prefix, down, d_model, d_mlp)?,
            weigh: weigh
                .map(|name| {
                    loader.checkpoint.values(loader.base, &format!("{prefix}{name}.weight"), &[1, d_model])
                })
                .transpose()?,
        },
        SharedNames::Ungated { up, down } => Shared {
            up: loader.linear(prefix, up, d_mlp, d_model)?,
            down: loader.linear(prefix, down, d_model, d_mlp)?,
            weigh: None,
        },
        SharedNames::Stacked { gate_up, down } => {
            let parts = vec![loader.part(prefix, gate_up, 2 * d_mlp, d_model)?];
            Shared {
                up: loader.gated(parts, d_model, d_mlp, |n| (0, n)),
                down: loader.linear(prefix, down, d_model, d_mlp)?,
                weigh: None,
            }
        }
    })
}

/// The experts of a layer in a file.
struct Stored<'a> {
    loader: &'a Loader<'a>,
    prefix: &'a str,
    count: usize,
    d_mlp: usize,
    /// Width of what an expert reads and gives.
    width: usize,
}

impl Stored<'_> {
    /// All experts. Experts in one tensor exist together or not at all: a config may promise any number of them, so if
    /// the first is missing, the load fails at once.
    fn experts(&self, names: ExpertNames) -> Result<Vec<Expert>> {
        let names = self.as_stored(names);
        let faults = self.loader.checkpoint.n_faults();
        let first = self.expert(names, 0)?;
        let are_together = !matches!(names, ExpertNames::Each { .. } | ExpertNames::Ungated { .. });
        let count = if are_together && self.loader.checkpoint.n_faults() > faults { 1 } else { self.count };
        let others = (1..count).map(|e| self.expert(names, e));
        std::iter::once(Ok(first)).chain(others).collect()
    }

    /// Names of experts one by one, but of those in one tensor where the file has that: transformers 5 holds them so, and
    /// some releases store them so. Of experts in one tensor, the order of its axes that the file has: transformers 5
    /// writes outputs first where releases have inputs first.
    fn as_stored(&self, names: ExpertNames) -> ExpertNames {
        const GATE_UP: &str = "mlp.experts.gate_up_proj";
        const STACKED: ExpertNames = ExpertNames::Stacked { gate_up: GATE_UP, down: "mlp.experts.down_proj" };
        let Stored { loader, prefix, .. } = self;
        let outputs_first = |name: &str| {
            let shape = loader.checkpoint.shape(loader.base, &format!("{prefix}{name}"));
            shape.is_some_and(|shape| shape == [self.count, 2 * self.d_mlp, self.width])
        };
        match names {
            ExpertNames::StackedInOut { gate_up, down } if outputs_first(gate_up) => {
                ExpertNames::Stacked { gate_up, down }
            }
            ExpertNames::Each { gate, .. }
                if gate.name == "mlp.experts.{}.gate_proj"
                    && loader.checkpoint.has(loader.base, &format!("{prefix}{GATE_UP}")) =>
            {
                STACKED
            }
            _ => names,
        }
    }

    fn expert(&self, names: ExpertNames, e: usize) -> Result<Expert> {
        let &Stored { loader, prefix, count, d_mlp, width } = self;
        // For experts stored one by one.
        let part = |linear: Linear, outputs, inputs| {
            let name = linear.name.replace("{}", &e.to_string());
            loader.part_named(prefix, &name, linear, outputs, inputs)
        };
        match names {
            ExpertNames::Each { gate, up, down } => {
                let parts = vec![part(gate, d_mlp, width)?, part(up, d_mlp, width)?];
                let down = vec![part(down, width, d_mlp)?];
                Ok(Expert {
                    gate_up: loader.gated(parts, width, d_mlp, move |n| (n / d_mlp, n % d_mlp)),
                    down: loader.fused(down, d_mlp, width, |n| (0, n)),
                })
            }
            ExpertNames::Ungated { up, down } => Ok(Expert {
                gate_up: loader.fused(vec![part(up, d_mlp, width)?], width, d_mlp, |n| (0, n)),
                down: loader.fused(vec![part(down, width, d_mlp)?], d_mlp, width, |n| (0, n)),
            }),
            ExpertNames::Stacked { gate_up, down } => {
                let part = |name: &str, outputs, inputs| {
                    loader.stacked_part(&format!("{prefix}{name}"), [count, outputs, inputs])
                };
                let parts = vec![part(gate_up, 2 * d_mlp, width)?];
                let down = vec![part(down, width, d_mlp)?];
                let (first, first_down) = (e * 2 * d_mlp, e * width);
                Ok(Expert {
                    gate_up: loader.gated(parts, width, d_mlp, move |n| (0, first + n)),
                    down: loader.fused(down, d_mlp, width, move |n| (0, first_down + n)),
                })
            }
            ExpertNames::StackedInOut { gate_up, down } => {
                let part = |name: &str, outputs, inputs| {
                    loader.turned_part(&format!("{prefix}{name}"), e, [count, outputs, inputs])
                };
                let parts = vec![part(gate_up, 2 * d_mlp, width)?];
                let down = vec![part(down, width, d_mlp)?];
                Ok(Expert {
                    gate_up: loader.gated(parts, width, d_mlp, |n| (0, n)),
                    down: loader.fused(down, d_mlp, width, |n| (0, n)),
                })
            }
            ExpertNames::Alternating { gate_up, down } => {
                // Here gates precede neurons; in the file they alternate.
                let place = move |n| (0, if n < d_mlp { 2 * n } else { 2 * (n - d_mlp) + 1 });
                Ok(Expert {
                    gate_up: self.biased(gate_up, e, [2 * d_mlp, width], place)?,
                    down: self.biased(down, e, [width, d_mlp], |n| (0, n))?,
                })
            }
        }
    }

    /// One expert's projection with its bias.
    fn biased(
        &self,
        name: &str,
        e: usize,
        [outputs, inputs]: [usize; 2],
        place: impl Fn(usize) -> (usize, usize) + Send + Sync + 'static,
    ) -> Result<Projection> {
        let name = format!("{}{name}", self.prefix);
        let part = self.loader.biased_part(&name, e, [self.count, outputs, inputs])?;
        Ok(self.loader.fused(vec![part], inputs, outputs, place))
    }
}
