use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::plan::{batches, windows};

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_row_is_in_one_batch_within_the_budget_and_in_an_order_that_the_budget_does_not_change(
        lengths in vec(1usize..40, 1..60),
        budget in 1usize..120,
        size in 1usize..70,
    ) {
        let order = |budget| -> Vec<usize> {
            windows(lengths.len(), size, None).into_iter().flat_map(|window| batches(&lengths, window, budget).concat()).collect()
        };
        let seen: BTreeSet<usize> = order(budget).into_iter().collect();
        prop_assert_eq!(seen.len(), lengths.len());
        prop_assert_eq!(order(budget).len(), lengths.len());
        prop_assert_eq!(order(budget), order(usize::MAX));
        let mut next = 0;
        for window in windows(lengths.len(), size, None) {
            prop_assert_eq!(window.start, next);
            next = window.end;
            for batch in batches(&lengths, window.clone(), budget) {
                prop_assert!(batch.iter().all(|row| window.contains(row)));
                let tokens: usize = batch.iter().map(|row| lengths[*row]).sum();
                prop_assert!(tokens <= budget || batch.len() == 1);
            }
        }
        prop_assert_eq!(next, lengths.len());
    }
}
