//! An architecture's computation for human readers: every step, its cost, and what can be read after it.

use easyroutine_kernels::Finish;

use super::reg::Reg;
use super::show::Shown;
use super::step::Step;
use super::{Asked, At, Section, emit};
use crate::arch::{Arch, ExpertGate, Layer, Recurrence, State};
use crate::tap::Want;

/// Sections of a pass that compute the same, in readable form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// `embedding`, `blocks 0 to 29`, `unembedding`.
    pub name: String,
    /// Number of these sections.
    pub count: usize,
    /// The steps of one of them.
    pub rows: Vec<Row>,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// The equation over named buffers; empty if the section begins with a place to look.
    pub step: String,
    /// Columns of the result, one row per token; 0 if it has none of its own.
    pub width: usize,
    /// Multiply-adds per token; for scores and mixed values, per token and key that it sees. For a step done once per
    /// head or expert, the total over all.
    pub multiplications: u64,
    /// Names of the activations that can be read after the step, in order: `resid_in_{layer}`.
    pub sites: Vec<String>,
}

/// What a forward pass computes when everything is read. Blocks that compute the same form one section, and the step of
/// one head or expert stands for all.
pub fn outline(arch: &Arch) -> Vec<Outline> {
    let asked = Asked { wants: &|_| Want::Read, past: None, heads_at_once: arch.n_heads };
    let mut outlines: Vec<(Outline, Vec<At>)> = Vec::new();
    for section in emit(arch, &asked, At::all(arch)).sections {
        let rows = rows(arch, &section);
        let is_block = section.at.layer().is_some();
        match outlines.iter_mut().find(|(outline, _)| is_block && outline.rows == rows) {
            Some((outline, sections)) => {
                outline.count += 1;
                sections.push(section.at);
            }
            None => {
                outlines.push((Outline { name: String::new(), count: 1, rows }, vec![section.at]));
            }
        }
    }
    let named = outlines.into_iter().map(|(outline, sections)| Outline { name: name(&sections), ..outline });
    named.collect()
}

fn rows(arch: &Arch, section: &Section) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for step in section.steps.iter().filter(|step| step.of_one().is_none_or(|number| number == 0)) {
        match step {
            Step::Visit(visit) => {
                if rows.is_empty() {
                    rows.push(Row::default());
                }
                rows.iter_mut().last().into_iter().for_each(|row| row.sites.push(visit.site.template()));
            }
            Step::Narrow { .. } => {}
            step => rows.push(Row {
                step: Shown { arch, at: section.at, step }.to_string(),
                width: width(arch, section.at, step),
                multiplications: multiplications(arch, section.at, step),
                sites: Vec::new(),
            }),
        }
    }
    rows
}

/// `embedding`, `block 3`, `blocks 0 to 5`, `blocks 1, 3, 5`.
fn name(sections: &[At]) -> String {
    let layers: Vec<usize> = sections.iter().filter_map(|at| at.layer()).collect();
    match layers.as_slice() {
        [] => sections.first().map(At::to_string).unwrap_or_default(),
        [one] => format!("block {one}"),
        [first, .., last] if last - first + 1 == layers.len() => format!("blocks {first} to {last}"),
        some => {
            let some: Vec<String> = some.iter().map(usize::to_string).collect();
            format!("blocks {}", some.join(", "))
        }
    }
}

/// Columns that a step writes.
fn width(arch: &Arch, at: At, step: &Step) -> usize {
    let heads = arch.heads(at.layer().unwrap_or(0));
    match step {
        Step::Product { outputs, .. } | Step::Unembed { outputs, .. } => *outputs,
        Step::Attend { .. } | Step::Patterns { .. } | Step::Mix { .. } => heads.mixed(),
        Step::NormInPlace { columns, .. }
        | Step::Rotate { columns, .. }
        | Step::Clamp { columns, .. }
        | Step::Gate { columns, .. }
        | Step::ScaleColumns { columns, .. }
        | Step::Grow { columns, .. } => columns.len(),
        Step::Xielu => layer(arch, at).map_or(0, Layer::d_mlp),
        Step::Convolve { .. } => of_recurrence(arch, at, Recurrence::convolved),
        Step::SelectBlocks { .. } => of_recurrence(arch, at, Recurrence::selected),
        Step::SelectiveScan(_) | Step::StateSpace(_) | Step::GatedDelta(_) | Step::RecurrentUnit(_) => {
            of_recurrence(arch, at, Recurrence::width)
        }
        Step::Spread => heads.spread().keys() + heads.spread().values(),
        Step::NormHeadKeys { .. } => heads.queries(),
        Step::NormLatent { width, .. } => *width,
        Step::KeysToValues => heads.values(),
        Step::Lend { .. } => heads.keys() + heads.values(),
        Step::AddPerLayer { .. } => arch.per_layer.map_or(0, |inputs| arch.layers.len() * inputs.width),
        Step::GatePerLayer { columns } => columns.len(),
        Step::JoinHeads { .. } => heads.queries() + heads.keys() + heads.values(),
        Step::Moments => 3,
        Step::Embed { to: Reg::Embedded, .. } => arch.embed.width,
        Step::Divide { .. } | Step::Softcap { .. } => arch.vocabulary,
        Step::Scores { .. } | Step::Softmax { .. } | Step::Keep { .. } => 0,
        Step::Route { top_k, .. } => *top_k,
        Step::Narrow { .. } | Step::Visit(_) | Step::KeepStates => 0,
        Step::Embed { .. }
        | Step::Positions { .. }
        | Step::Copy { .. }
        | Step::Norm { .. }
        | Step::HeadProduct { .. }
        | Step::AddDifference { .. }
        | Step::Scale { .. }
        | Step::Add { .. }
        | Step::WeighShared
        | Step::ScaleLeaving
        | Step::Choose { .. } => arch.d_model,
        Step::Experts { .. } | Step::ExpertOut { .. } | Step::AddExpert { .. } => of_experts(arch, at),
    }
}

fn layer(arch: &Arch, at: At) -> Option<&Layer> {
    at.layer().and_then(|layer| arch.layers.get(layer))
}

fn of_recurrence(arch: &Arch, at: At, width: impl Fn(&Recurrence) -> usize) -> usize {
    layer(arch, at).and_then(|layer| layer.recurrence.as_ref()).map_or(0, width)
}

/// Width of what experts read and give.
fn of_experts(arch: &Arch, at: At) -> usize {
    layer(arch, at).and_then(Layer::experts_latent).unwrap_or(arch.d_model)
}

/// As [`Row::multiplications`].
pub(crate) fn multiplications(arch: &Arch, at: At, step: &Step) -> u64 {
    let heads = arch.heads(at.layer().unwrap_or(0));
    let count = match step {
        Step::Product { inputs, outputs, finish: Finish::Gate(_), .. } => 2 * inputs * outputs,
        Step::Product { inputs, outputs, .. } | Step::Unembed { inputs, outputs, .. } => inputs * outputs,
        Step::HeadProduct { .. } => heads.mixed() * arch.d_model,
        Step::Attend { .. } | Step::Patterns { .. } => heads.queries() + heads.mixed(),
        Step::Scores { .. } => heads.queries(),
        Step::Mix { .. } => heads.mixed(),
        Step::WeighShared => arch.d_model,
        Step::Convolve { kernel, .. } => kernel * of_recurrence(arch, at, Recurrence::convolved),
        Step::SelectBlocks { width, blocks } => 2 * width * (width / blocks),
        Step::SelectiveScan(State::Selective { width, size, rank, .. }) => width * (rank + 3 * size),
        // Decay, write and read; the delta rule also reads the key's value before it writes.
        Step::StateSpace(State::Space { heads, d_head, size, .. }) => 3 * heads * d_head * size,
        Step::GatedDelta(State::Delta { value_heads, d_key, d_value, .. }) => {
            4 * value_heads * d_key * d_value
        }
        Step::RecurrentUnit(_) => 2 * of_recurrence(arch, at, Recurrence::width),
        Step::Experts { d_mlp, top_k, gate, .. } | Step::ExpertOut { d_mlp, top_k, gate, .. } => {
            let matrices = if matches!(gate, ExpertGate::None(_)) { 2 } else { 3 };
            matrices * top_k * d_mlp * of_experts(arch, at)
        }
        _ => 0,
    };
    count as u64
}
