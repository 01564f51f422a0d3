//! The equations of attention, with every place where a tap may look.

use std::ops::Range;

use easyroutine_kernels::Finish;
use easyroutine_sites::Site;

use super::emitter::Emitter;
use super::step::Reg::{AttnOut, Head, HeadKv, Qkv, Read, Unedited, Z};
use super::step::{Form, KeyHeads, Matrix, NormAt, Step, Values};
use crate::arch::{Activation, AttentionGate, PositionMark, QkNorm, QkNormAt};
use crate::tap::{Keeping, Want};

/// `attn_out = attention(read)`
pub(super) fn attention(p: &mut Emitter<'_>) {
    let [q, k, v] = columns(p);
    p.visit(Site::AttnIn, Read);
    p.product(Read, Matrix::Qkv, Finish::Store, Qkv);
    p.visit_columns(Site::Queries, Qkv, q.clone());
    p.visit_columns(Site::Keys, Qkv, k.clone());
    p.visit_columns(Site::Values, Qkv, v.clone());
    let mut keys = heads(p);
    projected(p, Site::ProjectedValue, &v);
    projected(p, Site::ProjectedKey, &k);
    projected(p, Site::ProjectedQuery, &q);
    place(p, keys, &q, &k);
    rotated(p, keys, q, k);
    if keys == KeyHeads::Grouped && is_stored_by_query_head(p) {
        p.push(Step::Spread);
        keys = KeyHeads::OfQueryHeads;
    }
    if p.asked.past.is_some() {
        p.push(Step::Keep { keys });
    }
    attend(p, keys);
    gate(p, p.width(Z));
    p.visit(Site::Z, Z);
    p.product(Z, Matrix::Out, Finish::Store, AttnOut);
    head_out(p);
    p.visit(Site::AttnRaw, AttnOut);
}

/// `z *= sigmoid(gate)`, where attention has a gate.
fn gate(p: &mut Emitter<'_>, width: usize) {
    if !p.layer().attention.as_ref().is_some_and(|attention| attention.gate == AttentionGate::Sigmoid) {
        return;
    }
    let by = p.width(Qkv) - width..p.width(Qkv);
    p.visit_columns(Site::AttnGate, Qkv, by.clone());
    p.push(Step::Gate { reg: Z, columns: 0..width, from: Qkv, by, act: Some(Activation::Sigmoid) });
}

/// Columns of queries, keys and values in their common product.
fn columns(p: &Emitter<'_>) -> [Range<usize>; 3] {
    let (q, k) = (p.arch.n_heads * p.arch.d_head, p.arch.n_kv_heads * p.arch.d_head);
    [0..q, q..q + k, q + k..q + 2 * k]
}

/// Each head's query, key and value. Keys and values are copied out to one a query head where a tap may change them, so that
/// an edit changes only what that head sees.
fn heads(p: &mut Emitter<'_>) -> KeyHeads {
    let n_heads = p.arch.n_heads;
    for head in 0..n_heads {
        let want = p.want(Site::HeadQueries, Some(head));
        p.visit_as(want, Site::HeadQueries, Some(head), Values::Columns(Qkv, p.head_columns(0, head)));
    }
    let wants = [Site::HeadKeys, Site::HeadValues].map(|site| (site, p.wants_of_heads(site)));
    let keys = match wants.iter().flat_map(|(_, wants)| wants).any(|want| *want == Want::Edit) {
        true => KeyHeads::OfQueryHeads,
        false => KeyHeads::Grouped,
    };
    if keys == KeyHeads::OfQueryHeads {
        p.push(Step::Spread);
    }
    for (half, (site, wants)) in wants.into_iter().enumerate() {
        for (head, want) in wants.into_iter().enumerate() {
            let values = match keys {
                KeyHeads::OfQueryHeads => Values::Columns(HeadKv, p.head_columns(0, half * n_heads + head)),
                KeyHeads::Grouped => {
                    let shared = n_heads + half * p.arch.n_kv_heads + head / p.group();
                    Values::Columns(Qkv, p.head_columns(0, shared))
                }
            };
            p.visit_as(want, site, Some(head), values);
        }
    }
    keys
}

/// Whether those of earlier tokens are stored with a key for each query head, so that new ones must be, too.
fn is_stored_by_query_head(p: &Emitter<'_>) -> bool {
    p.asked.past.is_some_and(|is_of_query_heads| is_of_query_heads(p.number()))
}

/// Queries and keys as the scores are taken of them.
fn rotated(p: &mut Emitter<'_>, keys: KeyHeads, q: Range<usize>, k: Range<usize>) {
    p.visit_columns(Site::RotatedQueries, Qkv, q);
    let want = p.want(Site::RotatedKeys, None);
    let values = match keys {
        KeyHeads::Grouped => Values::Columns(Qkv, k),
        KeyHeads::OfQueryHeads => Values::SharedKeys { width: k.len() },
    };
    p.visit_as(want, Site::RotatedKeys, None, values);
}

/// Each head's vector through its slice of the output projection; of keys and values its group's.
fn projected(p: &mut Emitter<'_>, site: Site, of: &Range<usize>) {
    for head in 0..p.arch.n_heads {
        let want = p.want(site, Some(head));
        if want > Want::Nothing {
            let shared = if site == Site::ProjectedQuery { head } else { head / p.group() };
            let columns = p.head_columns(of.start, shared);
            p.push(Step::HeadProduct { head, from: Qkv, columns, to: Head });
            p.visit_as(want, site, Some(head), Values::Columns(Head, 0..p.arch.d_model));
        }
    }
}

/// Norms queries and keys, clamps all three, and turns queries and keys to their positions.
fn place(p: &mut Emitter<'_>, keys: KeyHeads, q: &Range<usize>, k: &Range<usize>) {
    let Some(attention) = &p.layer().attention else { return };
    if attention.qk_norm_at == QkNormAt::Projected {
        norm_queries_and_keys(p, attention.qk_norm, keys, q, k);
    }
    if let Some(to) = attention.clip {
        let all = p.width(Qkv);
        match keys {
            KeyHeads::Grouped => p.push(Step::Clamp { reg: Qkv, columns: 0..all, to }),
            KeyHeads::OfQueryHeads => {
                p.push(Step::Clamp { reg: Qkv, columns: q.clone(), to });
                p.push(Step::Clamp { reg: HeadKv, columns: 0..p.width(HeadKv), to });
            }
        }
    }
    if let PositionMark::Rope(rope) = attention.position {
        match keys {
            // Queries and keys stand side by side and turn in one go.
            KeyHeads::Grouped => p.push(Step::Rotate { reg: Qkv, columns: q.start..k.end, rope }),
            KeyHeads::OfQueryHeads => {
                p.push(Step::Rotate { reg: Qkv, columns: q.clone(), rope });
                p.push(Step::Rotate { reg: HeadKv, columns: 0..q.len(), rope });
            }
        }
    }
    if attention.qk_norm_at == QkNormAt::Rotated {
        norm_queries_and_keys(p, attention.qk_norm, keys, q, k);
    }
    if let Some(growth) = attention.query_growth {
        p.push(Step::Grow { columns: q.clone(), growth });
    }
}

/// Norms queries and keys.
fn norm_queries_and_keys(
    p: &mut Emitter<'_>,
    qk_norm: QkNorm,
    keys: KeyHeads,
    q: &Range<usize>,
    k: &Range<usize>,
) {
    let d_head = p.arch.d_head;
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
    p.push(match keys {
        KeyHeads::Grouped => in_place(NormAt::Keys, k_norm, k, k_group),
        KeyHeads::OfQueryHeads => Step::NormHeadKeys { norm: k_norm, group: k_group },
    });
}

/// `z = softmax(scores) v`. A tap that wants scores stands before the softmax, as one that edits the pattern stands behind
/// it: both need the steps apart. One that only reads the pattern is shown it as it comes by.
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
        p.push(Step::HeadProduct { head, from: Z, columns: p.head_columns(0, head), to: Head });
        if want == Want::Edit {
            p.push(Step::Copy { from: Head, to: Unedited });
        }
        p.visit_as(want, Site::HeadOut, Some(head), Values::Columns(Head, 0..p.arch.d_model));
        if want == Want::Edit {
            p.push(Step::AddDifference { head });
        }
    }
}
