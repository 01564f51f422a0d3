//! The MLP of one block.

use easyroutine_kernels::Activation;
use easyroutine_sites::{Point, Site};

use super::buffer::Seen;
use super::moe::Experts;
use super::part::Output;
use super::run::{Flow, Run};
use crate::error::Result;
use crate::tap::Want;
use crate::weights::Projection;

/// An MLP with its weights.
#[derive(Debug)]
pub(crate) enum Mlp {
    /// `down(act(up(x)))`
    Plain { up: Projection, act: Activation, down: Projection },
    /// `down(act(gate(x)) * up(x))`, gate and up in one product.
    Gated { gate_up: Projection, act: Activation, down: Projection },
    /// A router and its experts.
    Experts(Experts),
}

impl Mlp {
    /// Whether its last product can add to the stream: experts are summed apart.
    pub(crate) fn can_add(&self) -> bool {
        !matches!(self, Mlp::Experts(_))
    }

    /// Whether it reads rows of f32: a router stays in f32, and experts pick rows.
    pub(crate) fn needs_rows(&self) -> bool {
        matches!(self, Mlp::Experts(_))
    }

    /// Reads `read`, writes `mlp_out` or adds to the stream; breaks where nothing further is wanted.
    pub(crate) fn forward(&self, run: &mut Run<'_>, layer: usize, to: Output) -> Result<Flow> {
        let (cpu, dtype, tokens) = (run.cpu(), run.model.dtype(), run.batch.n_tokens());
        let Run { scratch, seam, .. } = run;
        let (read, hidden) = (&scratch.read, &mut scratch.hidden);
        let point = Point::layer_of(Site::MlpHidden, layer);
        let is_watched = seam.plan.wants(point) != Want::Nothing;
        let seen = Seen::by_tap_if(is_watched);
        let down = match self {
            Mlp::Plain { up, act, down } => {
                let out = hidden.resize(seen, dtype, tokens, down.inputs());
                up.apply_activated(cpu, read.left(), *act, out);
                down
            }
            Mlp::Gated { gate_up, act, down } => {
                let out = hidden.resize(seen, dtype, tokens, down.inputs());
                gate_up.apply_gated(cpu, read.left(), *act, out);
                down
            }
            Mlp::Experts(experts) => {
                experts.forward(cpu, read.rows(), scratch.mlp_out.rows_mut());
                return Ok(Flow::Continue(()));
            }
        };
        if is_watched {
            seam.visit(point, hidden.rows_mut())?;
        }
        if seam.after(layer, Site::MlpHidden).is_break() {
            return Ok(Flow::Break(()));
        }
        match to {
            Output::Stream => down.add(cpu, hidden.left(), scratch.stream.rows_mut()),
            Output::Apart => down.apply(cpu, hidden.left(), scratch.mlp_out.rows_mut()),
        }
        Ok(Flow::Continue(()))
    }
}
