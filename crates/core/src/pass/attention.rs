//! The equations of attention, with every place where a tap may look.

use std::ops::Range;

use easyroutine_kernels::Finish;
use easyroutine_sites::Site;

use super::emitter::Emitter;
use super::reg::Reg;
use super::reg::Reg::{
    AttnOut, CompressedKv, CompressedQueries, Head, HeadKv, KvLatent, OwnKv, OwnQueries, Qkv, Read, Unedited,
    Z,
};
use super::step::{Form, KeyHeads, Matrix, NormAt, Step, Values};
use crate::arch::{
    Activation, Attention, AttentionGate, Heads, Latent, PositionMark, QkNorm, QkNormAt, ValuesFrom, Window,
};
use crate::tap::{Keeping, Want};

/// `attn_out = attention(read)`
pub(super) fn attention(p: &mut Emitter<'_>) {
    let [q, k, v] = columns(p.heads());
    p.visit(Site::AttnIn, Read);
    match p.layer().latent() {
        None => p.product(Read, Matrix::Qkv, Finish::Store, Qkv),
        Some(latent) => self::latent(p, latent),
    }
    p.visit_columns(Site::Queries, Qkv, q.clone());
    let keys = match p.layer().keys_of() {
        Some(layer) => keys_of(p, layer, &q),
        None => own_keys(p, [&q, &k, &v]),
    };
    attend(p, keys);
    gate(p, p.width(Z));
    p.visit(Site::Z, Z);
    p.product(Z, Matrix::Out, Finish::Store, AttnOut);
    head_out(p);
    p.visit(Site::AttnRaw, AttnOut);
}

/// `z *= sigmoid(gate)`, if attention has a gate.
fn gate(p: &mut Emitter<'_>, width: usize) {
    if !p.layer().attention.as_ref().is_some_and(|attention| attention.gate == AttentionGate::Sigmoid) {
        return;
    }
    let by = p.width(Qkv) - width..p.width(Qkv);
    p.visit_columns(Site::AttnGate, Qkv, by.clone());
    p.push(Step::Gate { reg: Z, columns: 0..width, from: Qkv, by, act: Some(Activation::Sigmoid) });
}

/// The block's own keys and values.
fn own_keys(p: &mut Emitter<'_>, [q, k, v]: [&Range<usize>; 3]) -> KeyHeads {
    p.visit_columns(Site::Keys, Qkv, k.clone());
    if p.layer().attention.as_ref().is_some_and(|attention| attention.values == ValuesFrom::Keys) {
        p.push(Step::KeysToValues);
    }
    p.visit_columns(Site::Values, Qkv, v.clone());
    head_queries(p);
    let mut keys = heads(p);
    projected(p, Site::ProjectedValue, v);
    projected(p, Site::ProjectedKey, k);
    projected(p, Site::ProjectedQuery, q);
    place(p, keys, q, k, v);
    p.visit_columns(Site::RotatedQueries, Qkv, q.clone());
    rotated_keys(p, keys, k);
    if keys == KeyHeads::Grouped && is_stored_by_query_head(p) {
        p.push(Step::Spread);
        keys = KeyHeads::OfQueryHeads;
    }
    match p.asked.past {
        Some(_) => p.push(Step::Keep { keys }),
        None if p.arch.lends_keys(p.number()) => p.push(Step::Lend { keys, to: lent(p, p.number()) }),
        None => {}
    }
    keys
}

/// Keys and values of an earlier layer; only queries are rotated.
fn keys_of(p: &mut Emitter<'_>, layer: usize, q: &Range<usize>) -> KeyHeads {
    head_queries(p);
    projected(p, Site::ProjectedQuery, q);
    place(p, KeyHeads::Kept { layer }, q, &(q.end..q.end), &(q.end..q.end));
    p.visit_columns(Site::RotatedQueries, Qkv, q.clone());
    match p.asked.past {
        Some(_) => KeyHeads::Kept { layer },
        None => KeyHeads::Lent { layer, reg: lent(p, layer) },
    }
}

/// The register that passes a layer's keys and values to later layers, one per kind of layer.
fn lent(p: &Emitter<'_>, layer: usize) -> Reg {
    match &p.arch.layers[layer].attention {
        Some(Attention { window: Window::Sliding(_), .. }) => Reg::LentSliding,
        _ => Reg::LentFull,
    }
}

/// Queries, keys and values from compressed vectors.
fn latent(p: &mut Emitter<'_>, latent: Latent) {
    let norm = latent.norm;
    match latent.queries {
        None => p.product(Read, Matrix::Queries, Finish::Store, OwnQueries),
        Some(width) => {
            p.product(Read, Matrix::CompressQueries, Finish::Store, CompressedQueries);
            let at = NormAt::CompressedQueries;
            p.push(Step::NormInPlace { at, norm, reg: CompressedQueries, columns: 0..width, group: width });
            p.product(CompressedQueries, Matrix::Queries, Finish::Store, OwnQueries);
        }
    }
    p.product(Read, Matrix::CompressKv, Finish::Store, CompressedKv);
    p.visit(Site::KvCompressed, CompressedKv);
    p.push(Step::NormLatent { norm, width: latent.keys_values });
    p.product(KvLatent, Matrix::KeysValues, Finish::Store, OwnKv);
    p.push(Step::JoinHeads { shared: latent.shared });
}

/// Columns of queries, keys and values in a joined row.
fn columns(heads: Heads) -> [Range<usize>; 3] {
    let (q, k) = (heads.queries(), heads.queries() + heads.keys());
    [0..q, q..k, k..k + heads.values()]
}

/// The columns shifted by `first`.
fn from(first: usize, columns: Range<usize>) -> Range<usize> {
    first + columns.start..first + columns.end
}

/// Each head's query.
fn head_queries(p: &mut Emitter<'_>) {
    let heads = p.heads();
    for head in 0..heads.n {
        let want = p.want(Site::HeadQueries, Some(head));
        p.visit_as(want, Site::HeadQueries, Some(head), Values::Columns(Qkv, heads.of_query(head)));
    }
}

/// Each head's key and value. They are copied per query head where a tap may change them, so that an edit affects only
/// that head.
fn heads(p: &mut Emitter<'_>) -> KeyHeads {
    let heads = p.heads();
    let wants = [Site::HeadKeys, Site::HeadValues].map(|site| (site, p.wants_of_heads(site)));
    let keys = match wants.iter().flat_map(|(_, wants)| wants).any(|want| *want == Want::Edit) {
        true => KeyHeads::OfQueryHeads,
        false => KeyHeads::Grouped,
    };
    if keys == KeyHeads::OfQueryHeads {
        p.push(Step::Spread);
    }
    let [_, k, v] = columns(heads);
    for (site, wants) in wants {
        for (head, want) in wants.into_iter().enumerate() {
            let shared = head / heads.group();
            let values = match (site, keys) {
                (Site::HeadKeys, KeyHeads::OfQueryHeads) => Values::Columns(HeadKv, heads.of_query(head)),
                (Site::HeadKeys, _) => Values::Columns(Qkv, from(k.start, heads.of_query(shared))),
                (_, KeyHeads::OfQueryHeads) => {
                    Values::Columns(HeadKv, from(heads.queries(), heads.of_value(head)))
                }
                _ => Values::Columns(Qkv, from(v.start, heads.of_value(shared))),
            };
            p.visit_as(want, site, Some(head), values);
        }
    }
    keys
}

/// Whether the cache stores one key per query head, so that new ones must be stored alike.
fn is_stored_by_query_head(p: &Emitter<'_>) -> bool {
    p.asked.past.is_some_and(|is_of_query_heads| is_of_query_heads(p.number()))
}

/// Keys as the scores use them.
fn rotated_keys(p: &mut Emitter<'_>, keys: KeyHeads, k: &Range<usize>) {
    let want = p.want(Site::RotatedKeys, None);
    let values = match keys {
        KeyHeads::OfQueryHeads => Values::SharedKeys { width: k.len() },
        _ => Values::Columns(Qkv, k.clone()),
    };
    p.visit_as(want, Site::RotatedKeys, None, values);
}

/// Each head's vector through its slice of the output projection; for keys and values, through that of its group.
fn projected(p: &mut Emitter<'_>, site: Site, of: &Range<usize>) {
    let heads = p.heads();
    if site != Site::ProjectedValue && !heads.are_projected_alike() {
        // The output projection reads vectors of another width.
        return;
    }
    for head in 0..heads.n {
        let want = p.want(site, Some(head));
        if want > Want::Nothing {
            let shared = if site == Site::ProjectedQuery { head } else { head / heads.group() };
            let columns = from(of.start, heads.of_value(shared));
            p.push(Step::HeadProduct { head, from: Qkv, columns, to: Head });
            p.visit_as(want, site, Some(head), Values::Columns(Head, 0..p.arch.d_model));
        }
    }
}

/// Norms queries, keys and values, clamps all three, and rotates queries and keys to their positions.
fn place(p: &mut Emitter<'_>, keys: KeyHeads, q: &Range<usize>, k: &Range<usize>, v: &Range<usize>) {
    let Some(attention) = &p.layer().attention else { return };
    if attention.qk_norm_at == QkNormAt::Projected {
        norm_queries_and_keys(p, attention.qk_norm, keys, q, k);
    }
    norm_values(p, keys, v);
    if let Some(to) = attention.clip {
        let all = p.width(Qkv);
        match keys {
            KeyHeads::OfQueryHeads => {
                p.push(Step::Clamp { reg: Qkv, columns: q.clone(), to });
                p.push(Step::Clamp { reg: HeadKv, columns: 0..p.width(HeadKv), to });
            }
            _ => p.push(Step::Clamp { reg: Qkv, columns: 0..all, to }),
        }
    }
    if let PositionMark::Rope(rope) = attention.position {
        match keys {
            KeyHeads::OfQueryHeads => {
                p.push(Step::Rotate { reg: Qkv, columns: q.clone(), rope });
                p.push(Step::Rotate { reg: HeadKv, columns: 0..q.len(), rope });
            }
            // Queries and keys are adjacent and rotate in one step.
            _ => p.push(Step::Rotate { reg: Qkv, columns: q.start..k.end, rope }),
        }
    }
    if attention.qk_norm_at == QkNormAt::Rotated {
        norm_queries_and_keys(p, attention.qk_norm, keys, q, k);
    }
    if let Some(growth) = attention.query_growth {
        p.push(Step::Grow { columns: q.clone(), growth });
    }
}

/// Norms queries, and keys if the block has its own.
fn norm_queries_and_keys(
    p: &mut Emitter<'_>,
    qk_norm: QkNorm,
    keys: KeyHeads,
    q: &Range<usize>,
    k: &Range<usize>,
) {
    let d_head = p.heads().d_head;
    let [(q_norm, q_group), (k_norm, k_group)] = match qk_norm {
        QkNorm::None => return,
        QkNorm::PerHead(norm) | QkNorm::PerHeadOwnWeights(norm) => [(norm, d_head), (norm, d_head)],
        QkNorm::Whole(norm) => [(norm, q.len()), (norm, k.len())],
    };
    let in_place = |at, norm, columns: &Range<usize>, group| Step::NormInPlace {
        at,
        norm,
        reg: Qkv,
        columns: columns.clone(),
        group,
    };
    p.push(in_place(NormAt::Queries, q_norm, q, q_group));
    match keys {
        KeyHeads::Grouped => p.push(in_place(NormAt::Keys, k_norm, k, k_group)),
        KeyHeads::OfQueryHeads => p.push(Step::NormHeadKeys { norm: k_norm, group: k_group }),
        KeyHeads::Lent { .. } | KeyHeads::Kept { .. } => {}
    }
}

/// Norms each head's value.
fn norm_values(p: &mut Emitter<'_>, keys: KeyHeads, v: &Range<usize>) {
    let v_norm = p.layer().attention.as_ref().and_then(|attention| attention.v_norm);
    let (Some(norm), heads) = (v_norm, p.heads()) else { return };
    let (reg, columns) = match keys {
        KeyHeads::Grouped => (Qkv, v.clone()),
        KeyHeads::OfQueryHeads => (HeadKv, heads.queries()..heads.queries() + heads.mixed()),
        KeyHeads::Lent { .. } | KeyHeads::Kept { .. } => return,
    };
    p.push(Step::NormInPlace { at: NormAt::Values, norm, reg, columns, group: heads.d_value });
}

/// `z = softmax(scores) v`. A tap that wants scores looks before the softmax, and one that edits the pattern after it:
/// both need separate steps. A tap that only reads the pattern sees it in passing.
fn attend(p: &mut Emitter<'_>, keys: KeyHeads) {
    let (scores, patterns) = (p.wants_of_heads(Site::Scores), p.wants_of_heads(Site::Pattern));
    let most = patterns.iter().copied().max().unwrap_or(Want::Nothing);
    let n_heads = p.arch.n_heads;
    if most == Want::Edit || scores.iter().any(|want| *want > Want::Nothing) {
        for head in 0..n_heads {
            p.push(Step::Scores { head, keys });
            p.visit_pairs(scores[head], Site::Scores, head, 0, Keeping::Refused);
            p.push(Step::Softmax { head });
            p.visit_pairs(patterns[head], Site::Pattern, head, 0, Keeping::Refused);
            p.push(Step::Mix { head, keys });
        }
    } else if most == Want::Read {
        let at_once = p.asked.heads_at_once.clamp(1, n_heads);
        for first in (0..n_heads).step_by(at_once) {
            let heads = first..n_heads.min(first + at_once);
            p.push(Step::Patterns { heads: heads.clone(), keys, form: Form::Rows });
            for head in heads {
                p.visit_pairs(patterns[head], Site::Pattern, head, head - first, Keeping::Allowed);
            }
        }
    } else {
        p.push(Step::Attend { keys, form: Form::Rows });
    }
}

/// Each head's part of the output; an edit changes the output by the difference.
fn head_out(p: &mut Emitter<'_>) {
    for head in 0..p.arch.n_heads {
        let want = p.want(Site::HeadOut, Some(head));
        if want == Want::Nothing {
            continue;
        }
        p.push(Step::HeadProduct { head, from: Z, columns: p.heads().of_value(head), to: Head });
        if want == Want::Edit {
            p.push(Step::Copy { from: Head, to: Unedited });
        }
        p.visit_as(want, Site::HeadOut, Some(head), Values::Columns(Head, 0..p.arch.d_model));
        if want == Want::Edit {
            p.push(Step::AddDifference { head });
        }
    }
}
