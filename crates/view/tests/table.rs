//! One table in every format.

use easyroutine_view::table::{Cell, Table};

fn table() -> Table<'static> {
    let rows = [
        vec![Cell::new("+0.50", 0.499_999), Cell::token(" a|b"), Cell::from("=1 + 1".to_owned())],
        vec![Cell::exact(f64::NAN), Cell::token("\t\""), Cell::optional(None::<u32>)],
    ];
    Table::new(&["score", "the_token", "note"], rows.into_iter())
}

#[test]
fn one_table_is_exact_for_programs_and_readable_for_people() {
    assert_eq!(table().tsv(), "score\tthe_token\tnote\n0.499999\t a|b\t\\u{3d}1 + 1\nNaN\t\"\\t\"\"\"\t\n");
    assert_eq!(
        table().csv(),
        "score,the_token,note\r\n0.499999,\" a|b\",\"\\u{3d}1 + 1\"\r\nNaN,\"\\t\"\"\",\r\n"
    );
    assert_eq!(
        table().markdown(),
        "| score | the\\_token | note |\n| ---: | --- | --- |\n| +0.50 | ·a\\|b | \\=1 \\+ 1 |\n| NaN | ⇥\\\" |  |\n"
    );
    assert_eq!(table().terminal(), "score  the_token  note\n+0.50  ·a|b       =1 + 1\n  NaN  ⇥\"\n");
}

#[test]
fn a_table_without_rows_has_a_header() {
    let table = || Table::new(&["a", "b"], std::iter::empty());
    assert_eq!(table().markdown(), "| a | b |\n| --- | --- |\n");
    assert_eq!((table().terminal().as_str(), table().tsv().as_str()), ("a  b\n", "a\tb\n"));
}

#[test]
fn a_long_table_is_laid_out_in_linear_time() {
    let rows = (0..100_000).map(|n: usize| vec![Cell::exact(n), Cell::from(format!("run {n}"))]);
    let begun = std::time::Instant::now();
    let text = Table::new(&["n", "name"], rows).terminal();
    assert!(text.starts_with("    n  name\n    0  run 0\n"), "{}", &text[..40]);
    assert_eq!(text.lines().count(), 100_001);
    // Scanning each column again for every row took minutes.
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}
