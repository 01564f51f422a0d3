//! The MLP of one block.

use easyroutine_kernels::Activation;
use easyroutine_sites::{Point, Site};

use super::moe::Experts;
use super::part::Output;
use super::run::{Flow, Run};
use crate::error::Result;
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

    /// Reads `read`, writes `mlp_out` or adds to the stream; breaks where nothing further is wanted.
    pub(crate) fn forward(&self, run: &mut Run<'_>, layer: usize, to: Output) -> Result<Flow> {
        let (cpu, tokens) = (run.cpu(), run.batch.n_tokens());
        let Run { scratch, seam, .. } = run;
        let (read, hidden) = (scratch.read.rows(), &mut scratch.hidden);
        let down = match self {
            Mlp::Plain { up, act, down } => {
                hidden.resize(tokens, down.matrix.inputs());
                cpu.matmul_activated(read, &up.matrix, up.bias.as_deref(), *act, hidden.rows_mut());
                down
            }
            Mlp::Gated { gate_up, act, down } => {
                hidden.resize(tokens, down.matrix.inputs());
                cpu.matmul_gated(read, &gate_up.matrix, gate_up.bias.as_deref(), *act, hidden.rows_mut());
                down
            }
            Mlp::Experts(experts) => {
                experts.forward(cpu, read, scratch.mlp_out.rows_mut());
                return Ok(Flow::Continue(()));
            }
        };
        seam.visit(Point::layer_of(Site::MlpHidden, layer), hidden.rows_mut())?;
        if seam.after(layer, Site::MlpHidden).is_break() {
            return Ok(Flow::Break(()));
        }
        match to {
            Output::Stream => down.add(cpu, hidden.rows(), scratch.stream.rows_mut()),
            Output::Apart => down.apply(cpu, hidden.rows(), scratch.mlp_out.rows_mut()),
        }
        Ok(Flow::Continue(()))
    }
}
