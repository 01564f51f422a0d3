//! The merges that a SentencePiece vocabulary implies.

use std::cmp::Ordering;
use std::collections::HashMap;

/// Every way to split a token into two tokens, best first: by the whole token's `priority` (higher is better), then
/// longer left halves, then longer right halves (in characters), then vocabulary order.
///
/// SentencePiece merges the pair whose result has the best score; with this list BPE does the same. Ties follow
/// `generate_merges` in transformers (tokenization_utils_base.py), on which ids depend.
///
/// `ids` is the vocabulary; `priorities` lists its tokens in the file's order and must hold no NaN.
pub(super) fn implied<'a>(
    ids: &HashMap<&'a str, u32>,
    priorities: &[(&'a str, f32)],
) -> Vec<(String, String)> {
    let mut cuts = Vec::new();
    for &(token, priority) in priorities {
        let length = token.chars().count();
        let first = cuts.len();
        for (left_length, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&left_id), Some(&right_id)) = (ids.get(left), ids.get(right)) {
                cuts.push(Cut {
                    left,
                    right,
                    left_id,
                    right_id,
                    priority,
                    left_length,
                    right_length: length - left_length,
                });
            }
        }
        cuts[first..].sort_by_key(|cut| (cut.left_id, cut.right_id));
    }
    cuts.sort_by(Cut::best_first);
    cuts.into_iter().map(|cut| (cut.left.to_owned(), cut.right.to_owned())).collect()
}

struct Cut<'a> {
    left: &'a str,
    right: &'a str,
    left_id: u32,
    right_id: u32,
    priority: f32,
    left_length: usize,
    right_length: usize,
}

impl Cut<'_> {
    fn best_first(&self, other: &Self) -> Ordering {
        // Adding zero makes -0.0 and 0.0 equal for `total_cmp`, as they are as numbers.
        (other.priority + 0.0)
            .total_cmp(&(self.priority + 0.0))
            .then(other.left_length.cmp(&self.left_length))
            .then(other.right_length.cmp(&self.right_length))
    }
}
