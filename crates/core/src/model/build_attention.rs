//! The weights of attention, in any storage layout.

use super::alibi;
use super::build_parts::unnamed;
use super::weights::{Attention, Latent, Qkv};
use crate::arch::{self, Arch, Bias, Heads, PositionMark, QkNorm, Window};
use crate::error::Result;
use crate::names::{HeadNorm as HeadNormName, LatentNames, LayerNames, QkvNames};
use crate::weights::{Loader, Norm, Projection};

/// The weights of a layer's attention.
pub(super) fn build(
    loader: &Loader<'_>,
    arch: &Arch,
    layer: usize,
    described: &arch::Attention,
    prefix: &str,
    names: &LayerNames,
) -> Result<Attention> {
    let heads = arch.heads(layer);
    let mut grouped = attention_spec(heads, described);
    if described.sinks == Bias::Stored {
        let name = names.sinks.ok_or_else(|| unnamed("sinks"))?;
        let sinks = loader.vector(&format!("{prefix}{name}"), heads.n)?;
        grouped.sinks = Some(sinks).filter(|sinks| !sinks.is_empty());
    }
    Ok(Attention {
        qkv: qkv(loader, heads, described, prefix, names, arch.d_model)?,
        out: loader.linear(prefix, names.out, arch.d_model, heads.mixed())?,
        of_query_heads: easyroutine_kernels::Attention { n_kv_heads: heads.n, ..grouped.clone() },
        grouped,
    })
}

/// A layer's attention in the kernels' terms.
fn attention_spec(heads: Heads, described: &arch::Attention) -> easyroutine_kernels::Attention {
    easyroutine_kernels::Attention {
        n_heads: heads.n,
        n_kv_heads: heads.n_kv,
        d_head: heads.d_head,
        d_value: heads.d_value,
        scale: described.scale,
        softcap: described.softcap,
        window: match described.window {
            Window::Full => None,
            Window::Sliding(n) => Some(n),
        },
        alibi: match described.position {
            PositionMark::Alibi(slopes) => Some(alibi::biases(slopes, heads.n, described.scale)),
            PositionMark::Rope(_) | PositionMark::None => None,
        },
        sinks: None,
    }
}

/// Norms of queries, keys and values.
pub(super) fn norms(
    loader: &Loader<'_>,
    heads: Heads,
    described: &arch::Attention,
    prefix: &str,
    names: &LayerNames,
) -> Result<[Option<Norm>; 3]> {
    let (qk_norm, d_head) = (described.qk_norm, heads.d_head);
    let head_norm = |name: Option<HeadNormName>, heads: usize| -> Result<Option<Norm>> {
        let (norm, width) = match qk_norm {
            QkNorm::None => return Ok(None),
            QkNorm::PerHead(norm) | QkNorm::PerHeadOwnWeights(norm) => (norm, d_head),
            QkNorm::Whole(norm) => (norm, heads * d_head),
        };
        if !norm.kind.has_weight() {
            return loader.norm("", norm, width).map(Some);
        }
        let norm = match name.ok_or_else(|| unnamed("a query or key norm"))? {
            HeadNormName::One(name) => {
                let shape = match qk_norm {
                    QkNorm::PerHeadOwnWeights(_) => vec![heads, width],
                    _ => vec![width],
                };
                loader.norm_shaped(&format!("{prefix}{name}"), norm, &shape)?
            }
            HeadNormName::EachHead(name) => {
                let each = |end: &str| -> Result<Vec<f32>> {
                    let mut all = Vec::with_capacity(heads * d_head);
                    for head in 0..heads {
                        let module = name.replace("{}", &head.to_string());
                        all.extend(loader.vector(&format!("{prefix}{module}.{end}"), d_head)?);
                    }
                    Ok(all)
                };
                loader.norm_of(norm, || each("weight"), || each("bias"))?
            }
        };
        Ok(Some(norm))
    };
    let queries = head_norm(names.q_norm, heads.n)?;
    if described.keys_of.is_some() {
        return Ok([queries, None, None]);
    }
    let values = described.v_norm.map(|norm| loader.norm("", norm, heads.d_value)).transpose()?;
    Ok([queries, head_norm(names.k_norm, heads.n_kv)?, values])
}

/// Queries, keys and values as one projection, in any storage layout.
fn qkv(
    loader: &Loader<'_>,
    heads: Heads,
    described: &arch::Attention,
    prefix: &str,
    names: &LayerNames,
    d_model: usize,
) -> Result<Qkv> {
    let one = match (names.qkv, described.latent) {
        (QkvNames::Latent(names), Some(latent)) => {
            let latent = self::latent(loader, prefix, heads, latent, names, d_model)?;
            return Ok(Qkv::Latent(Box::new(latent)));
        }
        (QkvNames::Latent(_), None) | (_, Some(_)) => return Err(unnamed("compressed keys and values")),
        (names, None) => qkv_at_once(loader, heads, d_model, prefix, names)?,
    };
    Ok(Qkv::AtOnce(one))
}

/// Queries, keys and values from compressed vectors.
fn latent(
    loader: &Loader<'_>,
    prefix: &str,
    heads: Heads,
    latent: arch::Latent,
    names: LatentNames,
    d_model: usize,
) -> Result<Latent> {
    let arch::Latent { queries, keys_values, shared, norm } = latent;
    let of = |name: &str, width| loader.norm(&format!("{prefix}{name}"), norm, width);
    let (compress_queries, query_norm) = match (queries, names.compress_queries) {
        (Some(width), Some((down, norm))) => {
            (Some(loader.linear(prefix, down, width, d_model)?), Some(of(norm, width)?))
        }
        (None, None) => (None, None),
        _ => return Err(unnamed("compressed queries")),
    };
    let own = heads.n * (heads.d_head - shared + heads.d_value);
    Ok(Latent {
        compress_queries,
        query_norm,
        queries: loader.linear(prefix, names.queries, heads.queries(), queries.unwrap_or(d_model))?,
        compress_kv: loader.linear(prefix, names.compress_kv, keys_values + shared, d_model)?,
        kv_norm: of(names.kv_norm, keys_values)?,
        keys_values: loader.linear(prefix, names.keys_values, own, keys_values)?,
    })
}

/// Queries, keys and values in one product.
fn qkv_at_once(
    loader: &Loader<'_>,
    heads: Heads,
    d_model: usize,
    prefix: &str,
    names: QkvNames,
) -> Result<Projection> {
    let (q, k, d_head, group) = (heads.queries(), heads.keys(), heads.d_head, heads.group());
    let outputs = q + k + heads.values();
    match names {
        QkvNames::Latent(_) => Err(unnamed("queries, keys and values")),
        QkvNames::Queries { q: queries, unread } => {
            for module in unread {
                for end in ["weight", "bias"] {
                    loader.checkpoint.pass_over(loader.base, &format!("{prefix}{module}.{end}"));
                }
            }
            loader.linear(prefix, queries, q, d_model)
        }
        QkvNames::KeysAreValues { q: queries, k: keys } => {
            let parts =
                vec![loader.part(prefix, queries, q, d_model)?, loader.part(prefix, keys, k, d_model)?];
            Ok(loader.fused(parts, d_model, outputs, move |n| match n {
                n if n < q => (0, n),
                n => (1, (n - q) % k),
            }))
        }
        QkvNames::SplitGated { q: queries, k: keys, v: values } => {
            let parts = vec![
                loader.part(prefix, queries, 2 * q, d_model)?,
                loader.part(prefix, keys, k, d_model)?,
                loader.part(prefix, values, k, d_model)?,
            ];
            // In the file a head's gate follows its query; here all gates follow all values.
            let of_head = move |n: usize, gate: usize| (0, (2 * (n / d_head) + gate) * d_head + n % d_head);
            Ok(loader.fused(parts, d_model, outputs + q, move |n| match n {
                n if n < q => of_head(n, 0),
                n if n < q + k => (1, n - q),
                n if n < outputs => (2, n - q - k),
                n => of_head(n - outputs, 1),
            }))
        }
        QkvNames::Split { q: queries, k: keys, v: values } => {
            let parts = [
                loader.part(prefix, queries, q, d_model)?,
                loader.part(prefix, keys, k, d_model)?,
                loader.part(prefix, values, k, d_model)?,
            ];
            Ok(loader.fused(parts.into(), d_model, outputs, move |n| match n {
                n if n < q => (0, n),
                n if n < q + k => (1, n - q),
                n => (2, n - q - k),
            }))
        }
        QkvNames::Stacked(stacked) => loader.linear(prefix, stacked, outputs, d_model),
        QkvNames::ByGroup(by_group) => {
            let parts = vec![loader.part(prefix, by_group, outputs, d_model)?];
            Ok(loader.fused(parts, d_model, outputs, move |n| {
                let (head, within) = (n / d_head, n % d_head);
                // The rows of a group of heads: its queries, its key, its value.
                let place = match n {
                    n if n < q => head / group * (group + 2) + head % group,
                    n if n < q + k => (n - q) / d_head * (group + 2) + group,
                    n => (n - q - k) / d_head * (group + 2) + group + 1,
                };
                (0, place * d_head + within)
            }))
        }
        QkvNames::InBlocks { linear, blocks } => {
            let parts = vec![loader.part(prefix, linear, outputs, d_model)?];
            let width = q / blocks;
            Ok(loader.fused(parts, d_model, outputs, move |n| {
                // Queries, keys, values here; queries, values, keys in the file.
                let part = [0, 2, 1][n / q];
                let within = n % q;
                (0, (within / width * 3 + part) * width + within % width)
            }))
        }
        QkvNames::ByHead(by_head) => {
            let parts = vec![loader.part(prefix, by_head, outputs, d_model)?];
            Ok(loader.fused(parts, d_model, outputs, move |n| {
                let (part, within) = (n / q, n % q);
                (0, (within / d_head * 3 + part) * d_head + within % d_head)
            }))
        }
    }
}
