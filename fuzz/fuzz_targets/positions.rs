//! Position specifiers on a small row: indices lie in the row, groups cut them without a gap, the text reads back.
#![no_main]

use easyroutine::positions::{Context, Row, Specifier, select};
use libfuzzer_sys::fuzz_target;

const TEXT: &str = "The café é, Paris";
/// Byte spans of tokens; two share a character, as byte-level tokens do.
const SPANS: [(usize, usize); 7] = [(0, 3), (3, 7), (7, 9), (9, 10), (10, 12), (10, 12), (12, 19)];
const IDS: [u32; 7] = [1, 5, 6, 2, 8, 8, 3];

fuzz_target!(|input: (u8, i8, u64, &str)| {
    let (length, pivot, seed, text) = input;
    let Ok(specifiers) = Specifier::parse_list(text) else { return };
    let printed: Vec<String> = specifiers.iter().map(ToString::to_string).collect();
    let again = Specifier::parse_list(&printed.join(",")).expect("a printed list");
    assert_eq!(again, specifiers);

    let length = 1 + usize::from(length) % IDS.len();
    let whole = length == IDS.len();
    let row = Row { number: 0, ids: &IDS[..length], text: whole.then_some((TEXT, &SPANS[..])), n_new: 0 };
    let context = Context { special: &[1, 2], pivots: &[i64::from(pivot)], seed };
    let Ok(selected) = select(&specifiers, row, context) else { return };
    assert!(selected.indices.iter().all(|i| *i < length));
    assert_eq!(selected.groups.len(), specifiers.len());
    let mut end = 0;
    for group in &selected.groups {
        assert_eq!(group.start, end);
        end = group.end;
    }
    assert_eq!(end, selected.indices.len());
    assert_eq!(select(&specifiers, row, context).expect("the same again"), selected);
});
