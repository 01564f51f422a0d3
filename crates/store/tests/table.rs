//! Runs as Parquet tables, read back with the format's own crate.
#![cfg(feature = "parquet")]

use crate::common;

use std::fs::File;

use common::{fast_folder, provenance, saver};
use easyroutine_store::export::parquet::Table;
use easyroutine_store::{Contents, Dtype, ErrorKind, Kind, Provenance, Run, Tensor};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Value, json};
use tempfile::TempDir;

fn run(base: &TempDir, tensors: Vec<Tensor<'static>>, values: Value) -> Run {
    let saver = saver(base, "e");
    let contents = Contents { tensors, values: values.as_object().unwrap().clone() };
    let path = saver.save(&contents, &provenance(1)).unwrap();
    saver.store().run(&path).unwrap()
}

fn keys(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn written(table: &Table<'_>) -> SerializedFileReader<File> {
    let file = tempfile::tempfile().unwrap();
    table.write(file.try_clone().unwrap()).unwrap();
    SerializedFileReader::new(file).unwrap()
}

/// Rows as lists of columns, and the names of these.
fn table(run: &Run, names: &[&str]) -> (Vec<String>, Vec<Vec<Field>>) {
    let reader = written(&Table::new(run, &keys(names)).unwrap());
    let fields = reader.metadata().file_metadata().schema().get_fields().to_vec();
    let rows = reader.get_row_iter(None).unwrap();
    let columns = fields.iter().map(|field| field.name().to_owned()).collect();
    (
        columns,
        rows.map(|row| row.unwrap().into_columns().into_iter().map(|(_, field)| field).collect()).collect(),
    )
}

fn list(field: &Field) -> Vec<f32> {
    let Field::ListInternal(list) = field else { panic!("{field:?}") };
    let number = |field: &Field| match field {
        Field::Float(x) => *x,
        other => panic!("{other:?}"),
    };
    list.elements().iter().map(number).collect()
}

fn longs(rows: &[Vec<Field>], column: usize) -> Vec<Option<i64>> {
    let long = |row: &Vec<Field>| match &row[column] {
        Field::Long(x) => Some(*x),
        Field::Null => None,
        other => panic!("{other:?}"),
    };
    rows.iter().map(long).collect()
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 / 8.0 - 1.0).collect()
}

#[test]
fn a_row_is_a_token_with_its_example_and_where_it_stands_in_the_prompt() {
    let base = fast_folder();
    let ids: Vec<u8> = (0i64..6).flat_map(i64::to_le_bytes).collect();
    let tensors = vec![
        Tensor::f32("resid_out_0", &[3, 2, 4], &numbers(24)).dense(),
        Tensor::new("input_ids", Dtype::I64, &[3, 2], ids).dense(),
    ];
    let values = json!({
        "mapping_index": {"last": [1], "[0,1]": [0]},
        "token_dict": {"last": [[7], [5], [9]], "[0,1]": [[0], [0], [0]]},
    });
    let run = run(&base, tensors, values);
    let (columns, rows) = table(&run, &[]);
    assert_eq!(columns, ["example", "column", "position", "resid_out_0", "input_ids"]);
    let some = |numbers: [i64; 6]| numbers.map(Some).to_vec();
    assert_eq!(longs(&rows, 0), some([0, 0, 1, 1, 2, 2]));
    assert_eq!(longs(&rows, 1), some([0, 1, 0, 1, 0, 1]));
    assert_eq!(longs(&rows, 2), some([0, 7, 0, 5, 0, 9]));
    assert_eq!(longs(&rows, 4), some([0, 1, 2, 3, 4, 5]));
    let vectors: Vec<f32> = rows.iter().flat_map(|row| list(&row[3])).collect();
    assert_eq!(vectors, numbers(24));
}

#[test]
fn what_was_kept_of_each_row_is_a_column_of_its_kind() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let values = json!({
        "label": ["good", null], "n": [1, 2], "score": [0.5, 2], "ok": [true, false], "mixed": [1, "x"],
        "position": [9, 8], "large": [9007199254740993u64, 0.5], "short": [1],
    });
    let names: serde_json::Map<String, Value> =
        values.as_object().unwrap().keys().map(|name| (name.clone(), json!([]))).collect();
    let tensors = vec![Tensor::f32("resid_out_0", &[2, 2, 1], &numbers(4)).dense()];
    let contents = Contents { tensors, values: values.as_object().unwrap().clone() };
    let other_metadata = vec![("fields".to_owned(), Value::Object(names).into())];
    let path = saver.save(&contents, &Provenance { other_metadata, ..provenance(1) }).unwrap();
    let (columns, rows) = table(&saver.store().run(&path).unwrap(), &[]);
    let labels = ["label", "n", "score", "ok", "mixed", "fields.position", "large"];
    assert_eq!(columns, [&["example", "column"][..], &labels, &["resid_out_0"]].concat());
    let text = |text: &str| Field::Str(text.to_owned());
    let first = [
        text("good"),
        Field::Long(1),
        Field::Double(0.5),
        Field::Bool(true),
        text("1"),
        Field::Long(9),
        text("9007199254740993"),
    ];
    let second = [
        Field::Null,
        Field::Long(2),
        Field::Double(2.0),
        Field::Bool(false),
        text("x"),
        Field::Long(8),
        text("0.5"),
    ];
    // A row is a token, and has the fields of its example.
    for (row, wanted) in rows.iter().zip([&first, &first, &second, &second]) {
        assert_eq!(row[2..9], wanted[..]);
    }
}

#[test]
fn examples_of_different_length_have_as_many_rows_as_tokens() {
    let base = fast_folder();
    let tensors = vec![
        Tensor::f32("mlp_out_0", &[5, 3], &numbers(15)).ragged(Kind::Rows, vec![0, 2, 2, 5]),
        Tensor::f32("input_ids", &[5], &numbers(5)).ragged(Kind::Rows, vec![0, 2, 2, 5]),
    ];
    let values = json!({
        "mapping_index": {"all": [[0, 1], [], [0, 1, 2]]},
        "token_dict": {"all": [[4, 5], [], [0, 1]]},
    });
    let run = run(&base, tensors, values);
    let (_, rows) = table(&run, &["mlp_out_0", "input_ids"]);
    assert_eq!(longs(&rows, 0), [0, 0, 2, 2, 2].map(Some));
    assert_eq!(longs(&rows, 1), [0, 1, 0, 1, 2].map(Some));
    assert_eq!(longs(&rows, 2), [Some(4), Some(5), Some(0), Some(1), None]);
    assert_eq!(rows.iter().flat_map(|row| list(&row[3])).collect::<Vec<_>>(), numbers(15));
    let fifth: Vec<Field> = rows.iter().map(|row| row[4].clone()).collect();
    assert_eq!(fifth, numbers(5).into_iter().map(Field::Float).collect::<Vec<_>>());
}

#[test]
fn a_row_is_an_example_where_tensors_have_no_tokens() {
    let base = fast_folder();
    let halves: Vec<u8> =
        [1.5f32, -2.0].iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
    let tensors = vec![
        Tensor::f32("mean", &[2, 3], &numbers(6)),
        Tensor::new("half", Dtype::Bf16, &[2, 1], halves).dense(),
        Tensor::new("flag", Dtype::Bool, &[2], vec![0, 1]),
        Tensor::new(
            "big",
            Dtype::U64,
            &[2],
            [u64::MAX, 3].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>(),
        ),
        Tensor::new("small", Dtype::I8, &[2], vec![255, 3]),
        Tensor::f32("none", &[2, 0], &[]),
    ];
    let run = run(&base, tensors, json!({}));
    let (columns, rows) = table(&run, &[]);
    assert_eq!(columns, ["example", "mean", "half", "flag", "big", "small", "none"]);
    assert_eq!(list(&rows[1][1]), [-0.625, -0.5, -0.375]);
    assert_eq!([list(&rows[0][2]), list(&rows[1][2])], [[1.5], [-2.0]]);
    assert_eq!((&rows[0][3], &rows[1][3]), (&Field::Bool(false), &Field::Bool(true)));
    assert_eq!((&rows[0][4], &rows[0][5]), (&Field::ULong(u64::MAX), &Field::Int(-1)));
    assert_eq!(list(&rows[1][6]), [0.0; 0]);
}

#[test]
fn a_table_larger_than_a_row_group_comes_back_in_order() {
    let base = fast_folder();
    let width = 9;
    let values: Vec<f32> = (0..20 * width).map(|i| i as f32).collect();
    let run = run(&base, vec![Tensor::f32("a", &[5, 4, width], &values).dense()], json!({}));
    // Room for 9 tokens, which is 2 whole examples.
    let reader = written(&Table::new(&run, &[]).unwrap().with_group_bytes(9 * width * 4));
    let counts: Vec<i64> =
        (0..reader.num_row_groups()).map(|group| reader.metadata().row_group(group).num_rows()).collect();
    assert_eq!(counts, [8, 8, 4]);
    let last = reader.get_row_iter(None).unwrap().last().unwrap().unwrap().into_columns();
    assert_eq!((&last[0].1, &last[1].1), (&Field::Long(4), &Field::Long(3)));
    assert_eq!(list(&last[2].1), values[19 * width..]);
}

#[test]
fn what_is_no_table_is_refused_by_name() {
    let base = fast_folder();
    let complex = vec![0; 16];
    let tensors = vec![
        Tensor::f32("resid_out_0", &[3, 2, 4], &numbers(24)).dense(),
        Tensor::f32("mean", &[3, 4], &numbers(12)),
        Tensor::f32("longer", &[3, 3, 4], &numbers(36)).dense(),
        Tensor::f32("deep", &[3, 2, 2, 2], &numbers(24)).dense(),
        Tensor::f32("pattern_L0H0", &[5], &numbers(5)).ragged(Kind::RaggedNd, vec![0, 1, 1, 5]),
        Tensor::f32("rows", &[5, 2, 2], &numbers(20)).ragged(Kind::Rows, vec![0, 1, 1, 5]),
        Tensor::f32("one", &[], &[1.0]),
        Tensor::f32("example", &[3], &numbers(3)),
        Tensor::new("complex", Dtype::C64, &[2], complex),
    ];
    let run = run(&base, tensors, json!({}));
    for (names, what, hint) in [
        (&["deep"][..], "`deep` has 4 axes: [3, 2, 2, 2]", ".safetensors"),
        (&["pattern_L0H0"], "`pattern_L0H0` has squares of different size", ".safetensors"),
        (&["rows"], "`rows` is [2, 2] for each token", ".safetensors"),
        (&["one"], "`one` is one number", ".safetensors"),
        (&["complex"], "`complex` holds complex numbers", ".safetensors"),
        (&["example"], "would be called `example`", ".safetensors"),
        (&["mean", "mean"], "would be called `mean`", ".safetensors"),
        (
            &["resid_out_0", "mean"],
            "`resid_out_0` has 6 rows of tokens in 3 examples, but `mean` has one row",
            "runs export RUN mean",
        ),
        (&["resid_out_0", "longer"], "`longer` has 9 rows of tokens", "apart"),
        (&[], "`deep` has 4 axes", "name those that fit, resid_out_0 mean longer"),
    ] {
        let error = Table::new(&run, &keys(names)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input, "{names:?}");
        assert!(error.to_string().contains(what), "{names:?}: {error}");
        assert!(error.hint_text().unwrap().contains(hint), "{names:?}: {:?}", error.hint_text());
    }
    assert_eq!(Table::new(&run, &keys(&["absent"])).unwrap_err().kind(), ErrorKind::NotFound);
}
