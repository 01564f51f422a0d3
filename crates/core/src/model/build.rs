//! From an architecture and a checkpoint to a model. Every structural choice is made here, none in the forward pass.

use std::sync::{Arc, Mutex};

use easyroutine_kernels::{Cpu, Dtype};

use super::build_attention as attention;
use super::build_experts as experts;
use super::build_parts::{gate_up, unnamed};
use super::build_recurrence as recurrence;
use super::build_tables::{Tables, module_of, tables, with_hint};
use super::embed::{Embedding, PerLayer, Table};
use super::layers::ByLayer;
use super::weights::{Block, Mlp, Norms, Weights};
use super::xielu::Xielu;
use super::{Model, Unembedding};
use crate::arch::{self, Arch, Bias, Wiring};
use crate::error::{Error, ErrorKind, Result};
use crate::names::{LayerNames, Linear, MlpNames, Names};
use crate::weights::{Checkpoint, Files, Loader, Norm, Projection};

impl Model {
    /// Finds all weights. Matrices are read on demand. If `memory` bounds their bytes, they are held one layer at a time.
    ///
    /// # Errors
    /// If a tensor is missing, surplus, of the wrong shape or not floating point, or memory does not hold a layer.
    pub(crate) fn build(
        arch: Arch,
        names: &Names,
        checkpoint: Arc<Checkpoint>,
        cpu: Cpu,
        dtype: Dtype,
        memory: Option<u64>,
    ) -> Result<Model> {
        let by_layer = memory.is_some();
        let loader =
            Loader { checkpoint: &checkpoint, names, base: names.prefix, cpu: &cpu, dtype, by_layer };
        let tables = tables(&loader, &arch)?;
        let head = head(&loader, &arch, &tables)?;
        let embedding = embedding(&loader, &arch, &tables, &head, &checkpoint)?;
        let blocks =
            (0..arch.layers.len()).map(|layer| block(&loader, &arch, layer)).collect::<Result<_>>()?;
        let warned = checkpoint.finish(names);
        let mut warnings = warned.map_err(|error| with_hint(error, &arch, names, &checkpoint))?;
        warnings.extend(tables.warning);
        checkpoint.check_unchanged()?;
        let weights = Weights { embedding, blocks, unembedding: head };
        Ok(Model {
            arch,
            cpu,
            dtype,
            by_layer: memory.map(|memory| ByLayer::new(&weights, memory)).transpose()?,
            weights,
            warnings,
            registers: Mutex::default(),
        })
    }
}

/// Final norm and unembedding alone.
pub(crate) fn build_unembedding(
    arch: &Arch,
    names: &Names,
    checkpoint: &Arc<Checkpoint>,
    cpu: &Cpu,
    dtype: Dtype,
) -> Result<Unembedding> {
    if let Some(reason) = arch.lacks_unembedding() {
        return Err(Error::new(ErrorKind::Unsupported, reason));
    }
    let loader = Loader { checkpoint, names, base: names.prefix, cpu, dtype, by_layer: false };
    let found = unembedding(&loader, arch, &tables(&loader, arch)?)?;
    checkpoint.check_found().map_err(|error| with_hint(error, arch, names, checkpoint))?;
    Ok(found)
}

/// The modules that read the last stream.
pub(super) fn head(loader: &Loader<'_>, arch: &Arch, tables: &Tables) -> Result<Arc<Unembedding>> {
    let head = match &arch.head {
        arch::Head::Unembedding => unembedding(loader, arch, tables)?,
        arch::Head::Score(score) => self::score(loader, arch, score)?,
        arch::Head::Nothing { .. } => {
            // A final norm, and a matrix without rows.
            let (norm, project, inputs) = before_head(loader, arch)?;
            let matrix = Arc::new(loader.fused(Vec::new(), inputs, 0, |n| (0, n)));
            let files = Files::of(loader.checkpoint);
            Unembedding { norm, project, matrix, divisor: None, softcap: None, files }
        }
    };
    Ok(Arc::new(head))
}

/// The final norm, the projection from the stream's width if there is one, and the width that the head reads.
fn before_head(loader: &Loader<'_>, arch: &Arch) -> Result<(Option<Norm>, Option<Projection>, usize)> {
    let names = loader.names;
    let norm = match (arch.final_norm, names.final_norm) {
        (Some(norm), Some(name)) => Some(loader.norm(name, norm, arch.d_model)?),
        (Some(norm), None) if !norm.kind.has_weight() => Some(loader.norm("", norm, arch.d_model)?),
        _ => None,
    };
    let project = match names.project_out {
        Some(name) => {
            Some(loader.linear("", Linear::new(name, Bias::Absent), arch.embed.width, arch.d_model)?)
        }
        None => None,
    };
    let inputs = if project.is_some() { arch.embed.width } else { arch.d_model };
    Ok((norm, project, inputs))
}

/// A classification head: an unembedding with labels in place of ids.
fn score(loader: &Loader<'_>, arch: &Arch, score: &arch::Score) -> Result<Unembedding> {
    let (norm, project, inputs) = before_head(loader, arch)?;
    let own = Loader { base: "", ..*loader };
    let names = loader.names.score;
    let has = |name: &&&str| loader.checkpoint.has("", &format!("{name}.weight"));
    let Some(name) = names.iter().find(has).or(names.first()) else { return Err(unnamed("a head")) };
    let matrix = Arc::new(own.linear("", Linear::new(name, score.bias), score.labels, inputs)?);
    let files = Files::of(loader.checkpoint);
    Ok(Unembedding { norm, project, matrix, divisor: None, softcap: None, files })
}

fn unembedding(loader: &Loader<'_>, arch: &Arch, tables: &Tables) -> Result<Unembedding> {
    let names = loader.names;
    let (norm, project, inputs) = before_head(loader, arch)?;
    // The unembedding is stored next to the base model, not in it.
    let own = Loader { base: "", ..*loader };
    let (base, stored) = &tables.unembed;
    let module = if tables.is_one { (*base, module_of(stored)) } else { ("", names.unembed) };
    let table = loader.table(base, stored, module, arch.vocabulary, inputs)?;
    let mut matrix = loader.of_table(table, inputs);
    if arch.unembed.bias == Bias::Stored {
        // The bias belongs to the unembedding, even if the matrix is the embedding's.
        let bias = own.vector(&format!("{}.bias", names.unembed), arch.vocabulary)?;
        matrix.bias = Some(match matrix.bias {
            None => bias,
            Some(of_update) => bias.iter().zip(of_update).map(|(b, u)| b + u).collect(),
        });
    }
    if !arch.unembed.never.is_empty() {
        // Added to the lowest f32, every finite product vanishes.
        let bias = matrix.bias.get_or_insert_with(|| vec![0.0; arch.vocabulary]);
        for id in &arch.unembed.never {
            bias.get_mut(*id as usize).into_iter().for_each(|x| *x = f32::MIN);
        }
    }
    let matrix = Arc::new(matrix);
    Ok(Unembedding {
        norm,
        project,
        matrix,
        divisor: arch.unembed.divisor,
        softcap: arch.unembed.softcap,
        files: Files::of(loader.checkpoint),
    })
}

pub(super) fn embedding(
    loader: &Loader<'_>,
    arch: &Arch,
    tables: &Tables,
    head: &Arc<Unembedding>,
    checkpoint: &Arc<Checkpoint>,
) -> Result<Embedding> {
    let names = loader.names;
    let rows = arch.vocabulary;
    let table = if tables.is_one && arch.head == arch::Head::Unembedding {
        Table::Packed { matrix: Arc::clone(&head.matrix), rows }
    } else {
        let (base, stored) = &tables.embed;
        let module = (names.prefix, names.embed);
        Table::File(loader.table(base, stored, module, rows, arch.embed.width)?)
    };
    let project = match names.project_in {
        Some(name) => {
            Some(loader.linear("", Linear::new(name, Bias::Absent), arch.d_model, arch.embed.width)?)
        }
        None => None,
    };
    let norm = match (arch.embed.norm, names.embed_norm) {
        (Some(norm), Some(name)) => Some(loader.norm(name, norm, arch.embed.width)?),
        (Some(norm), None) if !norm.kind.has_weight() => Some(loader.norm("", norm, arch.embed.width)?),
        _ => None,
    };
    let positions = match (arch.embed.positions, names.positions) {
        (Some(learned), Some(name)) => {
            let shape = [learned.rows, arch.d_model];
            checkpoint.values(names.prefix, &format!("{name}.weight"), &shape)?
        }
        _ => Vec::new(),
    };
    let per_layer = match (arch.per_layer, names.per_layer) {
        (Some(inputs), Some(tables)) => {
            let all = arch.layers.len() * inputs.width;
            let (name, module) = (format!("{}.weight", tables.table), (names.prefix, tables.table));
            Some(PerLayer {
                table: loader.table(names.prefix, &name, module, inputs.rows, all)?,
                project: loader.linear("", Linear::new(tables.project, Bias::Absent), all, arch.d_model)?,
                norm: loader.norm(tables.norm, inputs.norm, inputs.width)?,
            })
        }
        (None, _) => None,
        (Some(_), None) => return Err(unnamed("further inputs of layers")),
    };
    Ok(Embedding { table, width: arch.embed.width, project, norm, positions, per_layer })
}

pub(super) fn block(loader: &Loader<'_>, arch: &Arch, layer: usize) -> Result<Block> {
    let described = &arch.layers[layer];
    let names = loader.names.of_layer(layer);
    let prefix = loader.names.layer.replace("{}", &layer.to_string());
    let norm = |norm: Option<arch::Norm>, name: Option<&str>| -> Result<Option<Norm>> {
        match norm {
            None => Ok(None),
            Some(norm) if !norm.kind.has_weight() => loader.norm("", norm, arch.d_model).map(Some),
            Some(norm) => {
                let name = name.ok_or_else(|| unnamed("a norm"))?;
                loader.norm(&format!("{prefix}{name}"), norm, arch.d_model).map(Some)
            }
        }
    };
    let [attention, attention_post, mlp_pre, mlp_post] = match described.wiring {
        Wiring::Sequential { attention, mlp } => [attention.pre, attention.post, mlp.pre, mlp.post],
        Wiring::Parallel { attention, mlp } => [Some(attention), None, mlp, None],
        Wiring::NormOnStream { attention, mlp, .. } => [Some(attention), None, Some(mlp), None],
    };
    let mixing = |norm: Option<arch::Norm>| norm.filter(|_| described.mixes());
    let of_mlp = |norm: Option<arch::Norm>| norm.filter(|_| described.mlp.is_some());
    let mut norms = Norms {
        attention: norm(mixing(attention), names.attention_norm)?,
        attention_post: norm(mixing(attention_post), names.attention_post_norm)?,
        mlp: norm(of_mlp(mlp_pre), names.mlp_norm)?,
        mlp_post: norm(of_mlp(mlp_post), names.mlp_post_norm)?,
        ..Norms::default()
    };
    let attention = match &described.attention {
        None => None,
        Some(described) => {
            [norms.queries, norms.keys, norms.values] =
                attention::norms(loader, arch.heads(layer), described, &prefix, names)?;
            Some(attention::build(loader, arch, layer, described, &prefix, names)?)
        }
    };
    let recurrence = match &described.recurrence {
        None => None,
        Some(described) => {
            let (built, gate) =
                recurrence::build(loader, &prefix, described, names.recurrence, arch.d_model)?;
            norms.gate = gate;
            if let arch::State::Selective { norm: Some(norm), .. } = described.state {
                norms.selected = Some(loader.norm("", norm, 0)?);
            }
            Some(built)
        }
    };
    let mlp = match described.mlp {
        None => None,
        Some(of) => Some(mlp(loader, arch.d_model, (of, described.factors.gate), &prefix, names)?),
    };
    [norms.router, norms.experts, norms.experts_post, norms.shared_post] =
        experts::norms(loader, arch, layer, &prefix, names)?;
    let (per_layer, post) = per_layer(loader, arch, &prefix, names)?;
    norms.per_layer_post = post;
    let leaving_scale = match (described.leaving_scale, names.leaving_scale) {
        (Bias::Absent, _) => None,
        (Bias::Stored, Some(name)) => loader.vector(&format!("{prefix}{name}"), 1)?.first().copied(),
        (Bias::Stored, None) => return Err(unnamed("a factor on the stream")),
    };
    Ok(Block { norms, attention, recurrence, mlp, per_layer, leaving_scale })
}

/// How a layer uses its additional input.
fn per_layer(
    loader: &Loader<'_>,
    arch: &Arch,
    prefix: &str,
    names: &LayerNames,
) -> Result<(Option<[Projection; 2]>, Option<Norm>)> {
    let Some(inputs) = arch.per_layer else { return Ok((None, None)) };
    let names = names.per_layer.ok_or_else(|| unnamed("a further input"))?;
    let linear =
        |name, outputs, inputs| loader.linear(prefix, Linear::new(name, Bias::Absent), outputs, inputs);
    let projections =
        [linear(names.gate, inputs.width, arch.d_model)?, linear(names.project, arch.d_model, inputs.width)?];
    let norm = loader.norm(&format!("{prefix}{}", names.norm), inputs.norm, arch.d_model)?;
    Ok((Some(projections), Some(norm)))
}

fn mlp(
    loader: &Loader<'_>,
    d_model: usize,
    (described, gate_factor): (arch::Mlp, Option<f32>),
    prefix: &str,
    names: &LayerNames,
) -> Result<Mlp> {
    Ok(match (described, names.mlp) {
        (arch::Mlp::Plain { d_mlp, .. }, MlpNames::Plain { up, down }) => Mlp::Dense {
            up: loader.linear(prefix, up, d_mlp, d_model)?,
            down: loader.linear(prefix, down, d_model, d_mlp)?,
        },
        (arch::Mlp::Xielu { d_mlp }, MlpNames::Xielu { up, down, act }) => {
            let one = |name: &str, shape: &[usize]| -> Result<f32> {
                let values =
                    loader.checkpoint.values(loader.base, &format!("{prefix}{act}.{name}"), shape)?;
                Ok(values.first().copied().unwrap_or_default())
            };
            Mlp::Xielu {
                up: loader.linear(prefix, up, d_mlp, d_model)?,
                down: loader.linear(prefix, down, d_model, d_mlp)?,
                xielu: Xielu::new(
                    one("alpha_p", &[1])?,
                    one("alpha_n", &[1])?,
                    one("beta", &[])?,
                    one("eps", &[])?,
                ),
            }
        }
        (arch::Mlp::Gated { d_mlp, .. }, MlpNames::Gated { gate, up, down }) => Mlp::Dense {
            up: gate_up(loader, prefix, ([gate, up], gate_factor), d_mlp, d_model)?,
            down: loader.linear(prefix, down, d_model, d_mlp)?,
        },
        (arch::Mlp::Gated { d_mlp, .. }, MlpNames::GatedStacked { gate_up, down }) => {
            let parts = vec![loader.part(prefix, gate_up, 2 * d_mlp, d_model)?];
            Mlp::Dense {
                up: loader.gated(parts, d_model, d_mlp, |n| (0, n)),
                down: loader.linear(prefix, down, d_model, d_mlp)?,
            }
        }
        (arch::Mlp::Experts { .. }, MlpNames::Experts { .. }) => {
            experts::build(loader, prefix, described, names.mlp, d_model)?
        }
        _ => return Err(unnamed("an MLP of this kind")),
    })
}
