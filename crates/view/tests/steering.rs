//! Steering as a page.

use easyroutine_view::steering::{Continuation, SteeringReport, html};

use crate::expect;

#[test]
fn strengths_stand_side_by_side_and_nothing_from_outside_is_markup() {
    let tokens = |texts: &[&str]| {
        let logprob = |i: usize| -(i as f64) * 1.3;
        texts.iter().enumerate().map(|(i, text)| ((*text).to_owned(), logprob(i))).collect()
    };
    let one = |strength: f64, texts: &[&str]| Continuation {
        strength,
        mean_logprob: -1.25,
        finish: "length".to_owned(),
        tokens: tokens(texts),
    };
    let mut report = SteeringReport {
        feature: "features_<sae>:12".to_owned(),
        facts: vec![("model".to_owned(), "a</p>\u{202e}b".to_owned()), ("seed".to_owned(), "0".to_owned())],
        prompt: "I think\n<b>that</b>".to_owned(),
        continuations: vec![
            one(0.0, &[" it", " is", " good", ".\n", "&"]),
            one(30.0, &[" it", " was", "<script>", "\u{202e}x", "\u{7}"]),
            one(-5.5, &[]),
        ],
    };
    let page = html(&report);
    expect("steering.html", &page);
    assert!(!page.contains("<script") && !page.contains('\u{202e}') && !page.contains("<b>that"), "{page}");
    assert_eq!(page.matches("class=\"r1 fork\"").count(), 1, "{page}");
    // Without the model's own continuation there is nothing to leave.
    report.continuations.remove(0);
    assert!(!html(&report).contains("from here"));
}
