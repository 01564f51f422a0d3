//! The syntax of interventions.

use easyroutine::edit::{Intervention, Operation, Part, Reference, Rescaled, Softmax};
use easyroutine::positions::Specifier;
use easyroutine::sites::Slice;
use proptest::prelude::*;

use crate::common::holds;

fn parse(spec: &str) -> Intervention<Reference> {
    spec.parse().unwrap_or_else(|e| panic!("{spec}: {e}"))
}

fn refused(spec: &str) -> String {
    match spec.parse::<Intervention<Reference>>() {
        Ok(parsed) => panic!("{spec} was read as {parsed}"),
        Err(e) => format!("{e} | {}", e.hint_text().unwrap_or_default()),
    }
}

fn reference(file: &str, tensor: &str) -> Reference {
    Reference { file: file.into(), tensor: tensor.to_owned() }
}

#[test]
fn every_operation_is_read() {
    let vector = || reference("dir/f.safetensors", "a::b");
    for (operation, expected) in [
        ("=0", Operation::Set(0.0)),
        (" = -1.5e-3", Operation::Set(-0.0015)),
        ("*0.5", Operation::Scale(0.5)),
        ("*1e+2", Operation::Scale(100.0)),
        ("=dir/f.safetensors::a::b", Operation::Replace(vector())),
        ("=mean:dir/f.safetensors::a::b", Operation::Mean(vector())),
        ("= row: 3", Operation::Resample { row: 3 }),
        ("+dir/f.safetensors::a::b", Operation::Add { factor: 1.0, values: vector() }),
        (" + -2.5 * dir/f.safetensors::a::b", Operation::Add { factor: -2.5, values: vector() }),
        (
            "+\"a=b*c.safetensors::d+e\"",
            Operation::Add { factor: 1.0, values: reference("a=b*c.safetensors", "d+e") },
        ),
    ] {
        let read = parse(&format!("resid_out_5@last{operation}"));
        assert_eq!(read.operation, expected, "{operation}");
        assert_eq!(read.part, Part::Full(vec![Specifier::Last(1)]), "{operation}");
        assert_eq!(read.activation.to_string(), "resid_out_5");
    }
}

#[test]
fn every_kind_of_position_is_read() {
    use Specifier::{All, AllText, At, Last, Span, Text};
    let text = |text: &str| Text(text.to_owned());
    for (positions, expected) in [
        ("all", Part::Full(vec![All])),
        (" 4:9 , -1", Part::Full(vec![Span(Slice::new(4, 9)), At(-1)])),
        ("\"text: a, b=c\",0", Part::Full(vec![text(" a, b=c"), At(0)])),
        ("text:Mexico,0", Part::Full(vec![text("Mexico"), At(0)])),
        ("columns:text:fox", Part::Columns(vec![text("fox")], Softmax::After)),
        ("columns:3", Part::Columns(vec![At(3)], Softmax::After)),
        ("pre:rows:-1,2", Part::Rows(vec![At(-1), At(2)], Softmax::Before)),
        ("rescaled:columns:3", Part::Columns(vec![At(3)], Softmax::AfterRescaled)),
        ("keep-self:all", Part::KeepSelf(vec![All], Softmax::After)),
        (
            "grid:last x all-text",
            Part::Grid { rows: vec![Last(1)], columns: vec![AllText], softmax: Softmax::After },
        ),
        (
            "pre: grid:\"text:fox\"x\"text:axe\",1",
            Part::Grid {
                rows: vec![text("fox")],
                columns: vec![text("axe"), At(1)],
                softmax: Softmax::Before,
            },
        ),
    ] {
        assert_eq!(parse(&format!("pattern_L1H2@{positions}*0.5")).part, expected, "{positions}");
    }
}

#[test]
fn before_the_softmax_zero_and_minus_infinity_are_the_same_knock_out() {
    for knock_out in ["=0", "*0", "=-0"] {
        let read = parse(&format!("pattern_L1H1@pre:columns:3{knock_out}"));
        assert!(matches!(read.operation, Operation::Scale(0.0)), "{knock_out}");
    }
    assert_eq!(parse("pattern_L1H1@pre:columns:3=-inf").operation, Operation::Set(f32::NEG_INFINITY));
}

#[test]
fn what_is_no_intervention_is_an_error_that_says_why() {
    for (spec, part) in [
        ("resid_out_5", "after `@`"),
        ("resid_outt_5@last=0", "did you mean `resid_out_5`?"),
        ("resid_out_5@last", "says what to do"),
        ("resid_out_5@lst=0", "`lst` names no token positions"),
        ("resid_out_5@last=", "neither a number nor a tensor"),
        ("resid_out_5@last=nan", "`nan` is not a finite"),
        ("resid_out_5@last=1e39", "`1e39` is not a finite"),
        ("resid_out_5@last*-inf", "takes a number"),
        ("resid_out_5@last=vector.npy::v", "FILE.safetensors::TENSOR"),
        ("resid_out_5@last+5", "`5` is a number; + adds a tensor"),
        ("resid_out_5@last*f.safetensors::v", "takes a number"),
        ("resid_out_5@last=row:-1", "the number of a row"),
        ("resid_out_5@\"text:a=0", "not closed"),
        ("resid_out_5@pre:last=0", "for patterns"),
        ("resid_out_5@rescaled:last=0", "`rescaled:` is for patterns"),
        ("pattern_L1H1@grid:9=0", "not a grid"),
        ("pattern_L1H1@grid:text:axbx1=0", "not a grid"),
        ("@last=0", "no activation"),
    ] {
        let message = refused(spec);
        assert!(message.contains(part), "{spec}: {message}");
    }
}

#[test]
fn types_of_the_documentation_are_known_and_others_get_the_nearest() {
    let at = || vec![Specifier::At(1)];
    for name in ["full", "columns", "rows", "columns_pre_softmax", "rows_pre_softmax", "keep-self-attn"] {
        let part = Part::of_type(name, at(), None, Rescaled::No).unwrap();
        assert_eq!(part.type_name(), name);
    }
    for name in ["grid", "grid_pre_softmax"] {
        assert_eq!(Part::of_type(name, at(), Some(at()), Rescaled::No).unwrap().type_name(), name);
    }
    let refused =
        |name, columns, rescaled| Part::of_type(name, at(), columns, rescaled).unwrap_err().to_string();
    assert!(refused("colums", None, Rescaled::No).contains("did you mean `columns`?"));
    assert!(refused("block-img-txt", None, Rescaled::No).contains("vision models"));
    assert!(refused("grid", None, Rescaled::No).contains("two lists"));
    assert!(refused("full", Some(at()), Rescaled::No).contains("a grid takes two"));
    assert!(refused("rows_pre_softmax", None, Rescaled::Yes).contains("sum to 1"));
    assert!(refused("full", None, Rescaled::Yes).contains("attention patterns"));
}

fn any_specifier() -> impl Strategy<Value = Specifier> {
    prop_oneof![
        Just(Specifier::All),
        Just(Specifier::First),
        Just(Specifier::Special),
        Just(Specifier::AllText),
        (1usize..99).prop_map(Specifier::Last),
        (-99i64..99).prop_map(Specifier::At),
        (-99i64..99, -99i64..99).prop_map(|(a, b)| Specifier::Span(Slice::new(a, b))),
        (1usize..9).prop_map(Specifier::RandomText),
        (0usize..9, 1usize..9).prop_map(|(n, k)| Specifier::RandomPartition(n, k)),
        "[ a-z,=*+@:]{1,12}".prop_map(Specifier::Text),
    ]
}

fn any_part() -> impl Strategy<Value = Part> {
    let list = || prop::collection::vec(any_specifier(), 1..3);
    let softmax = || prop_oneof![Just(Softmax::Before), Just(Softmax::After)];
    prop_oneof![
        list().prop_map(Part::Full),
        (list(), softmax()).prop_map(|(l, s)| Part::Columns(l, s)),
        (list(), softmax()).prop_map(|(l, s)| Part::Rows(l, s)),
        (list(), softmax()).prop_map(|(l, s)| Part::KeepSelf(l, s)),
        (list(), list(), softmax()).prop_map(|(rows, columns, softmax)| Part::Grid {
            rows,
            columns,
            softmax
        }),
    ]
}

fn any_operation() -> impl Strategy<Value = Operation<Reference>> {
    let number = || prop::num::f32::NORMAL;
    let values = || {
        ("[a-z/=*+ ]{1,8}", "[a-z.:=*+_ ]{1,8}")
            .prop_map(|(file, tensor)| reference(&format!("f{file}.safetensors"), &format!("{tensor}t")))
    };
    prop_oneof![
        number().prop_map(Operation::Scale),
        number().prop_map(Operation::Set),
        Just(Operation::Set(f32::NEG_INFINITY)),
        values().prop_map(Operation::Replace),
        values().prop_map(Operation::Mean),
        (number(), values()).prop_map(|(factor, values)| Operation::Add { factor, values }),
        (0usize..99).prop_map(|row| Operation::Resample { row }),
    ]
}

#[test]
fn what_is_printed_reads_back() {
    holds("interventions", 400, (any_part(), any_operation()), |(part, operation)| {
        let intervention = Intervention {
            activation: "pattern_L*H3".parse().unwrap(),
            entries: Vec::new(),
            part,
            operation,
        };
        assert_eq!(parse(&intervention.to_string()), intervention, "{intervention}");
    });
}

#[test]
fn no_text_makes_the_parser_panic() {
    let pieces = prop::sample::select(vec![
        "resid_out_5",
        "pattern_L1H1",
        "@",
        "=",
        "*",
        "+",
        "\"",
        "pre:",
        "rescaled:",
        "grid:",
        "columns:",
        "x",
        ",",
        "all-text",
        "-1",
        "4:9",
        "text:",
        "row:",
        "mean:",
        "-inf",
        "1e+5",
        "f.safetensors::t",
        " ",
        "é",
        ":",
    ]);
    holds("pieces", 2000, prop::collection::vec(pieces, 0..9), |pieces| {
        if let Ok(read) = pieces.concat().parse::<Intervention<Reference>>() {
            assert_eq!(parse(&read.to_string()), read);
        }
    });
}

#[test]
fn brackets_name_entries_of_vectors() {
    for (text, printed) in [
        ("mlp_hidden_5[12]@last=0", "mlp_hidden_5[12]@last=0"),
        ("mlp_hidden_0:3 [ 12, 40:50 ,-1,::2] @all*0.5", "mlp_hidden_0:3[12,40:50,-1,::2]@all*0.5"),
        ("router_logits_1[3]@all=-inf", "router_logits_1[3]@all=-inf"),
        ("router_logits_1[3]@all=inf", "router_logits_1[3]@all=inf"),
    ] {
        let read = parse(text);
        assert_eq!(read.to_string(), printed);
        assert_eq!(parse(printed), read);
    }
    for text in ["mlp_hidden_5[]@last=0", "mlp_hidden_5[x]@last=0", "mlp_hidden_5[1@last=0", "[1]@last=0"] {
        assert!(text.parse::<Intervention<Reference>>().is_err(), "{text}");
    }
}
