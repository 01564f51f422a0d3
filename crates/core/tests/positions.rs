//! Every way to name tokens, row by row.

use easyroutine::positions::{Context, Row, Selected, Specifier, select};
use easyroutine::request::Request;
use easyroutine::sites::Slice;
use easyroutine::tokens::{Bos, Tokenizer};
use easyroutine::{Batch, Error, ErrorKind};
use proptest::arbitrary::any;
use proptest::collection::vec;
use proptest::strategy::Strategy;

use crate::common::{assert_same_bits, extract, fixtures, holds, references, tiny};

/// Selects from a row of ids 100, 101, ...
fn of(specifiers: &str, length: u32, context: Context<'_>) -> Result<Selected, Error> {
    of_row(specifiers, 0, length, context)
}

fn of_row(specifiers: &str, number: usize, length: u32, context: Context<'_>) -> Result<Selected, Error> {
    let ids: Vec<u32> = (100..100 + length).collect();
    select(&Specifier::parse_list(specifiers).unwrap(), Row::of(number, &ids), context)
}

#[track_caller]
fn check(specifiers: &str, length: u32, context: Context<'_>, expected: &[usize]) {
    let selected = of(specifiers, length, context).unwrap_or_else(|e| panic!("{specifiers}: {e}"));
    assert_eq!(selected.indices, expected, "{specifiers} of {length}");
}

#[track_caller]
fn refused(specifiers: &str, length: u32, context: Context<'_>) -> String {
    let error = of_row(specifiers, 3, length, context).expect_err(specifiers);
    assert_eq!(error.kind(), ErrorKind::Input, "{specifiers}");
    error.to_string()
}

#[test]
fn every_specifier_names_the_tokens_it_says() {
    let special = Context { special: &[100, 104], ..Context::default() };
    for (specifier, expected) in [
        ("all", &[0, 1, 2, 3, 4, 5][..]),
        ("first", &[0]),
        ("last", &[5]),
        ("last-1", &[5]),
        ("last-2", &[4]),
        ("last-6", &[0]),
        ("0", &[0]),
        ("3", &[3]),
        ("-1", &[5]),
        ("-6", &[0]),
        ("1:4", &[1, 2, 3]),
        ("-3:-1", &[3, 4]),
        ("-2:6", &[4, 5]),
        ("4:", &[4, 5]),
        ("-2:", &[4, 5]),
        (":2", &[0, 1]),
        ("0:6:4", &[0, 4]),
        ("::5", &[0, 5]),
        ("0:6", &[0, 1, 2, 3, 4, 5]),
        ("special", &[0, 4]),
        ("all-text", &[1, 2, 3, 5]),
    ] {
        check(specifier, 6, special, expected);
    }
}

#[test]
fn specifiers_keep_their_order_their_duplicates_and_their_columns() {
    let selected = of("last,0:2,first,-1", 4, Context::default()).unwrap();
    assert_eq!(selected.indices, [3, 0, 1, 0, 3]);
    assert_eq!(selected.groups, [0..1, 1..3, 3..4, 4..5]);
    // A group may be empty as long as another is not.
    let special = Context { special: &[7], ..Context::default() };
    let selected = of("special,last", 4, special).unwrap();
    assert_eq!((selected.indices, selected.groups), (vec![3], vec![0..0, 0..1]));
}

#[test]
fn a_position_outside_a_row_names_row_position_and_length() {
    for specifier in ["4", "-5", "last-5", "2:5", "9:", "-5:", "-5:2", "3:3", "3:1", "999999999"] {
        let message = refused(specifier, 4, Context::default());
        for part in ["row 3", specifier, "4 tokens"] {
            assert!(message.contains(part), "{specifier}: {message}");
        }
    }
}

#[test]
fn what_selects_nothing_or_too_much_is_an_error() {
    let all_special = Context { special: &[100, 101, 102, 103], ..Context::default() };
    assert!(refused("special", 4, Context::default()).contains("no token is selected by special"));
    assert!(refused("all-text", 4, all_special).contains("no token is selected by all-text"));
    assert!(refused("random-text", 4, all_special).contains("asks for 1 tokens but there are 0"));
    assert!(refused("random-text-5", 4, Context::default()).contains("asks for 5 tokens but there are 4"));
    assert!(refused("random-inputs-partition-0-9", 4, Context::default()).contains("but there are 4"));
}

#[test]
fn pivots_cut_a_row_into_groups_and_start_the_next_one() {
    let pivots = Context { pivots: &[5, 2], ..Context::default() };
    check("inputs-partition-0", 8, pivots, &[0, 1]);
    check("inputs-partition-1", 8, pivots, &[2, 3, 4]);
    check("inputs-partition-2", 8, pivots, &[5, 6, 7]);
    check("inputs-partition-1", 8, Context { pivots: &[-3], ..Context::default() }, &[5, 6, 7]);
    check("inputs-partition-0", 3, Context::default(), &[0, 1, 2]);
    assert!(refused("inputs-partition-3", 8, pivots).contains("3 groups (0 to 2)"));
    assert!(refused("inputs-partition-1", 8, Context::default()).contains("1 groups"));
    let message = refused("inputs-partition-0", 4, pivots);
    assert!(
        message.contains("row 3") && message.contains("`5`") && message.contains("4 tokens"),
        "{message}"
    );
    for _ in 0..20 {
        let drawn = of("random-inputs-partition-1-2", 8, pivots).unwrap().indices;
        assert!(drawn.len() == 2 && drawn[0] < drawn[1] && drawn.iter().all(|i| (2..5).contains(i)));
    }
}

#[test]
fn draws_are_without_replacement_among_text_and_depend_on_seed_specifier_and_row_alone() {
    let context = |seed| Context { special: &[100], seed, ..Context::default() };
    let drawn = |specifier: &str, row, seed| of_row(specifier, row, 30, context(seed)).unwrap().indices;
    let five = drawn("random-text-5", 4, 9);
    assert_eq!(five, drawn("random-text-5", 4, 9));
    assert!(five.is_sorted_by(|a, b| a < b) && !five.contains(&0) && five.len() == 5, "{five:?}");
    assert_eq!(drawn("random-text-29", 4, 9), (1..30).collect::<Vec<_>>());
    for (specifier, row, seed) in [("random-text-5", 5, 9), ("random-text-5", 4, 10)] {
        assert_ne!(drawn(specifier, row, seed), five);
    }
    assert_ne!(drawn("random-text-6", 4, 9)[..5], five);
    // Saved runs draw the same tokens in every later version.
    assert_eq!(drawn("random-text-3", 0, 0), [6, 10, 14]);
    // Every token is drawn sooner or later.
    let mut seen = [0; 30];
    (0..600).for_each(|row| seen[drawn("random-text", row, 1)[0]] += 1);
    assert_eq!(seen[0], 0);
    assert!(seen[1..].iter().all(|n| (5..45).contains(n)), "{seen:?}");
}

#[test]
fn batching_changes_no_draw() {
    let rows: Vec<Vec<u32>> = (1..9).map(|n| (0..n * 3).collect()).collect();
    let specifiers = Specifier::parse_list("random-text-2,last").unwrap();
    let draw =
        |number: usize| select(&specifiers, Row::of(number, &rows[number]), Context::default()).unwrap();
    let model = tiny("llama");
    let request = Request::parse("input_ids,resid_out_0", "random-text-2,last").unwrap();
    for size in [1, 3, 8] {
        for chunk in (0..rows.len()).collect::<Vec<_>>().chunks(size) {
            let batch = Batch::new(&chunk.iter().map(|n| &rows[*n][..]).collect::<Vec<_>>()).unwrap();
            let of_chunk: Vec<Row<'_>> = chunk.iter().map(|n| Row::of(*n, &rows[*n])).collect();
            let cache = request.run(&model, &batch, &of_chunk, Context::default()).unwrap();
            let expected: Vec<Selected> = chunk.iter().map(|number| draw(*number)).collect();
            assert_eq!(cache.selection.rows, expected, "batches of {size}");
        }
    }
}

/// Tokens of one word each, as spans over the text.
fn words(text: &str) -> Vec<(usize, usize)> {
    let mut spans = vec![(0, 0)];
    for (start, _) in
        text.match_indices(|c: char| c != ' ').filter(|(i, _)| *i == 0 || text.as_bytes()[i - 1] == b' ')
    {
        let end = text[start..].find(' ').map_or(text.len(), |n| start + n);
        spans.push((start.saturating_sub(1), end));
    }
    spans
}

#[test]
fn a_substring_selects_the_tokens_that_cover_it() {
    let text = "naïve café — 東京 café 🙂 aaaa";
    let spans = words(text);
    let ids = vec![1; spans.len()];
    let row = Row { number: 2, ids: &ids, text: Some((text, &spans)), n_new: 0 };
    let covering = |wanted: &str| {
        select(&Specifier::parse_list(&format!("text:{wanted}")).unwrap(), row, Context::default())
            .map(|selected| selected.indices)
    };
    // Index 0 is an added token without text.
    for (wanted, expected) in [
        ("café", &[2, 5][..]),
        (" café", &[2, 5]),
        ("ïve c", &[1, 2]),
        ("é", &[2, 5]),
        ("東", &[4]),
        ("京 café", &[4, 5]),
        ("🙂", &[6]),
        ("aa", &[7]),
        ("—", &[3]),
        ("e, not", &[]),
    ] {
        match covering(wanted) {
            Ok(indices) => assert_eq!(indices, expected, "{wanted}"),
            Err(error) => {
                assert!(expected.is_empty(), "{wanted}: {error}");
                assert!(error.to_string().contains("row 2: the text does not contain"), "{error}");
            }
        }
    }
    let without_text = Row::of(2, &ids);
    let error = select(&[Specifier::Text("a".to_owned())], without_text, Context::default()).unwrap_err();
    assert!(error.to_string().contains("needs the text"), "{error}");
}

#[test]
fn a_character_that_a_tokenizer_cuts_into_bytes_selects_all_its_tokens() {
    let tokenizer = Tokenizer::from_folder(fixtures().join("tiny/llama")).unwrap();
    let text = "Zürich 東京 🙂";
    let encoded = tokenizer.encode(text, Bos::No).unwrap();
    let row = Row { number: 0, ids: &encoded.ids, text: Some((text, &encoded.offsets)), n_new: 0 };
    for wanted in ["ü", "東", "京 🙂", "🙂"] {
        let selected = select(&[Specifier::Text(wanted.to_owned())], row, Context::default()).unwrap();
        let ids: Vec<u32> = selected.indices.iter().map(|i| encoded.ids[*i]).collect();
        assert!(selected.indices.windows(2).all(|pair| pair[1] == pair[0] + 1), "{wanted}: {selected:?}");
        let decoded = tokenizer.decode(&ids, false).unwrap();
        assert!(decoded.contains(wanted), "{wanted}: {decoded:?}");
        assert!(ids.len() > 1, "{wanted} is cut into bytes");
    }
}

#[test]
fn a_substring_takes_the_rest_of_the_list() {
    let list = Specifier::parse_list("last, 1:3 ,text: Paris, the city, last").unwrap();
    let expected = [
        Specifier::Last(1),
        Specifier::Span(Slice::new(1, 3)),
        Specifier::Text(" Paris, the city, last".to_owned()),
    ];
    assert_eq!(list, expected);
}

#[test]
fn what_is_no_specifier_is_refused_with_those_there_are() {
    for word in [
        "",
        "lst",
        "last-",
        "last-0",
        "last--1",
        "1.5",
        "--1",
        "-0",
        "1:2:0",
        "1:2:3:4",
        "1:-0",
        "text:",
        "random-text-0",
        "random-text-x",
        "inputs-partition-",
        "inputs-partition--1",
        "random-inputs-partition-0-0",
        "9999999999",
        "all ,,",
        "+1",
        "１",
    ] {
        let error = Specifier::parse_list(word).expect_err(word);
        assert!(error.to_string().contains("names no token positions"), "{word}: {error}");
        assert!(error.hint_text().unwrap().contains("text:SUBSTRING"), "{word}");
    }
    for word in ["all-image", "last-image", "end-image", "random-image", "random-image-3"] {
        let error = Specifier::parse_list(word).expect_err(word);
        assert!(error.to_string().contains("vision models"), "{word}: {error}");
    }
}

#[test]
fn a_specifier_prints_as_it_is_read() {
    for word in [
        "all",
        "first",
        "last",
        "last-2",
        "5",
        "-1",
        "4:9",
        "-3:-1",
        "4:",
        ":9",
        "-3:",
        "0:30:5",
        "special",
        "all-text",
        "random-text",
        "random-text-3",
        "inputs-partition-0",
        "random-inputs-partition-1",
        "random-inputs-partition-1-2",
        "text:ab c",
    ] {
        assert_eq!(Specifier::parse_list(word).unwrap()[0].to_string(), word);
    }
    let key = |word: &str| Specifier::parse_list(word).unwrap()[0].key();
    let keys = ["5", "4:9", "last", "4:", "0:30:5"].map(key);
    assert_eq!(keys, ["5", "[4,9]", "last", "4:", "0:30:5"]);
}

#[test]
fn positions_of_a_padded_batch_count_real_tokens_alone() {
    let model = tiny("llama");
    let references = references("llama");
    for side in ["left", "right"] {
        let ids = references[&format!("{side}.input_ids")].integers();
        let mask: Vec<Vec<u8>> = references[&format!("{side}.attention_mask")]
            .integers()
            .iter()
            .map(|row| row.iter().map(|m| *m as u8).collect())
            .collect();
        let batch = Batch::from_padded(&ids, &mask).unwrap();
        let rows: Vec<Row<'_>> = (0..2).map(|number| Row::of(number, batch.row(number))).collect();
        let request = Request::parse("logits,pattern_L1H2", "first,last,-2,1:3").unwrap();
        let cache = request.run(&model, &batch, &rows, Context::default()).unwrap();
        for (row, length) in [(0, 11), (1, 5)] {
            assert_eq!(cache.selection.rows[row].indices, [0, length - 1, length - 2, 1, 2], "{side}");
            let alone = extract(&model, &[batch.row(row).to_vec()], "logits,pattern_L1H2", "all");
            let vocabulary = model.arch().vocabulary;
            let (logits, pattern) = (alone.get("logits").unwrap(), alone.get("pattern_L1H2").unwrap());
            let (mut some_logits, mut some_weights) = (Vec::new(), Vec::new());
            for i in &cache.selection.rows[row].indices {
                some_logits.extend_from_slice(&logits.values()[i * vocabulary..][..vocabulary]);
                some_weights.extend(
                    cache.selection.rows[row].indices.iter().map(|j| pattern.values()[i * length + j]),
                );
            }
            assert_same_bits(side, cache.get("logits").unwrap().row(row), &some_logits);
            assert_same_bits(side, cache.get("pattern_L1H2").unwrap().row(row), &some_weights);
        }
        let request = Request::parse("logits", "7").unwrap();
        let message = request.run(&model, &batch, &rows, Context::default()).unwrap_err().to_string();
        assert!(
            message.contains("row 1") && message.contains("`7`") && message.contains("5 tokens"),
            "{message}"
        );
    }
}

#[test]
fn no_text_and_no_row_makes_the_selection_panic_or_leave_the_row() {
    let words = "[-a-z0-9:, .]{0,30}";
    let grammar = "(all|first|last|-?[0-9]{1,4}|last-[0-9]|-?[0-9]:-?[0-9]{1,2}|special|all-text|random-text-[0-9]|\
                   (random-)?inputs-partition-[0-9](-[0-9])?|text:[é a]{1,3})(,(first|-?[0-9]))?";
    let specifier = proptest::prop_oneof![words, grammar, any::<String>()];
    let text = "[é a🙂b]{1,12}";
    let row = text.prop_flat_map(|text| {
        let length = text.chars().count();
        (proptest::strategy::Just(text), vec(0u32..6, length))
    });
    let pivots = vec(-8i64..8, 0..3);
    holds(
        "positions",
        4000,
        (specifier, row, pivots, any::<u64>()),
        |(specifier, (text, ids), pivots, seed)| {
            let Ok(specifiers) = Specifier::parse_list(&specifier) else { return };
            let spans: Vec<(usize, usize)> =
                text.char_indices().map(|(i, c)| (i, i + c.len_utf8())).collect();
            let row = Row { number: 1, ids: &ids, text: Some((&text, &spans)), n_new: 0 };
            let context = Context { special: &[0, 5], pivots: &pivots, seed };
            if let Ok(selected) = select(&specifiers, row, context) {
                assert!(selected.indices.iter().all(|i| *i < ids.len()));
                assert_eq!(selected.groups.len(), specifiers.len());
                assert_eq!(selected.groups.last().unwrap().end, selected.indices.len());
            }
        },
    );
}
