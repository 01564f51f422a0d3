//! Files of prompts, and what is wrong with them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use easyroutine::Result;
use easyroutine::prompts::{Prompt, from_jsonl, from_text, read, read_fields};

fn text(text: &str) -> Prompt {
    Prompt::Text(text.to_owned())
}

fn refusal(result: Result<Vec<Prompt>>) -> String {
    let error = result.unwrap_err();
    format!("{error}; {}", error.hint_text().unwrap_or_default())
}

fn written(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

#[test]
fn text_has_one_prompt_a_line_and_blank_lines_are_passed_over() {
    let content = "\u{feff}the cat\r\n\n  \n sat \nlast";
    let prompts = [text("the cat"), text(" sat "), text("last")];
    assert_eq!(from_text(content.as_bytes(), usize::MAX).unwrap(), prompts);
    assert_eq!(from_text(content.as_bytes(), 2).unwrap(), prompts[..2]);
    assert_eq!(from_text(content.as_bytes(), 0).unwrap(), []);
    assert!(refusal(from_text(&b"good\nb\xffd\n"[..], 9)).contains("line 2: not UTF-8 at byte 1"));
    // What lies beyond the limit is not read.
    assert_eq!(from_text(&b"good\nb\xffd\n"[..], 1).unwrap(), [text("good")]);
}

#[test]
fn a_line_without_end_is_refused_before_memory_is_full() {
    assert!(refusal(from_text(std::io::repeat(b'x'), 1)).contains("line 1 is longer than"));
}

#[test]
fn jsonl_has_texts_or_token_ids_in_a_field() {
    let content = "{\"id\": 1, \"text\": \"a\\nb\"}\n\n{\"text\": \"\", \"more\": {}}\n{\"text\": [1, 2, 4294967295]}\n";
    let prompts = [text("a\nb"), text(""), Prompt::Ids(vec![1, 2, u32::MAX])];
    assert_eq!(from_jsonl(content.as_bytes(), "text", 9).unwrap(), prompts);
    for (line, said) in [
        (
            "{\"prompt\": \"a\", \"label\": 1}",
            "line 2: there is no field `text`; there are `prompt`, `label`; say which",
        ),
        ("{\"text\": 5}", "line 2: `text` is neither a text nor a list of token ids: 5"),
        ("{\"text\": [1, -2]}", "line 2: `text` is neither"),
        ("{\"text\": [4294967296]}", "line 2: `text` is neither"),
        ("{\"text\": null}", "line 2: `text` is neither"),
        ("[\"a\"]", "line 2: no JSON object"),
        ("{\"text\": \"a\"", "line 2: no JSON object"),
    ] {
        let content = format!("{{\"text\": \"good\"}}\n{line}\n");
        let refusal = refusal(from_jsonl(content.as_bytes(), "text", 9));
        assert!(refusal.contains(said), "{line}: {refusal}");
    }
}

#[test]
fn the_ending_of_a_name_says_what_a_file_is() {
    let (_folder, path) = written("a.JSONL", b"{\"q\": \"one\"}\n{\"q\": \"two\"}\n");
    assert_eq!(read(&path, "q", None).unwrap(), [text("one"), text("two")]);
    assert_eq!(read(&path, "q", Some(1)).unwrap(), [text("one")]);
    let (_folder, path) = written("a.md", b"{\"q\": 1}\n");
    assert_eq!(read(&path, "q", None).unwrap(), [text("{\"q\": 1}")]);
    let (_folder, path) = written("empty.txt", b"\n \n");
    assert!(refusal(read(&path, "q", None)).contains("no prompt"));
    let (_folder, path) = written("a.json", b"[]");
    assert!(refusal(read(&path, "q", None)).contains("jq -c"));
    let (_folder, path) = written("a.jsonl.gz", b"");
    assert!(refusal(read(&path, "q", None)).contains("compressed files are not read"));
    assert!(refusal(read(Path::new("/nonexistent/a.txt"), "q", None)).contains("/nonexistent/a.txt"));
}

#[cfg(feature = "parquet")]
mod columns {
    use std::sync::Arc;

    use ::parquet::basic::Compression;
    use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;

    use super::*;

    const SCHEMA: &str = "message data {
        required int64 number;
        required binary text (UTF8);
        optional group ids (LIST) { repeated group list { required int64 element; } }
    }";

    /// A file of texts and of ids: row i has the ids 0 to i, three rows a group.
    fn file(texts: &[&str], compression: Compression) -> Vec<u8> {
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
        for (group, texts) in texts.chunks(3).enumerate() {
            let mut row_group = writer.next_row_group().unwrap();
            let numbers: Vec<i64> = (0..texts.len() as i64).collect();
            let mut column = row_group.next_column().unwrap().unwrap();
            column.typed::<Int64Type>().write_batch(&numbers, None, None).unwrap();
            column.close().unwrap();
            let values: Vec<ByteArray> = texts.iter().map(|text| ByteArray::from(*text)).collect();
            let mut column = row_group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
            column.close().unwrap();
            let ids = |i: usize| 0..=(group * 3 + i) as i64;
            let values: Vec<i64> = (0..texts.len()).flat_map(ids).collect();
            let repeated: Vec<i16> =
                (0..texts.len()).flat_map(|i| ids(i).map(|n| i16::from(n > 0))).collect();
            let mut column = row_group.next_column().unwrap().unwrap();
            column
                .typed::<Int64Type>()
                .write_batch(&values, Some(&vec![2; values.len()]), Some(&repeated))
                .unwrap();
            column.close().unwrap();
            row_group.close().unwrap();
        }
        writer.into_inner().unwrap()
    }

    #[test]
    fn a_column_of_parquet_has_texts_or_token_ids() {
        let texts = ["the cat", "s\u{e4}t\non", "", "the mat", "end"];
        let zstd = Compression::ZSTD(Default::default());
        for compression in
            [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd, Compression::GZIP(Default::default())]
        {
            let (_folder, path) = written("a.parquet", &file(&texts, compression));
            assert_eq!(read(&path, "text", None).unwrap(), texts.map(text));
            assert_eq!(
                read(&path, "text", Some(4)).unwrap(),
                texts[..4].iter().map(|t| text(t)).collect::<Vec<_>>()
            );
            let ids: Vec<Prompt> = (0..5).map(|row| Prompt::Ids((0..=row).collect())).collect();
            assert_eq!(read(&path, "ids", None).unwrap(), ids);
            let refusal = refusal(read(&path, "txt", None));
            assert!(refusal.contains("no column `txt`; there are `number`, `text`, `ids`"), "{refusal}");
            assert!(super::refusal(read(&path, "number", None)).contains("row 0: `number` is neither"));
            let fields = |names: &[&str]| {
                read_fields(&path, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), Some(4))
            };
            let found = fields(&["text", "number"]).unwrap();
            assert_eq!(found[0], ("text".to_owned(), texts[..4].iter().map(|t| (*t).into()).collect()));
            assert_eq!(found[1].1, [0, 1, 2, 0]);
            let refused = |names: &[&str]| fields(names).unwrap_err().to_string();
            assert!(refused(&["ids"]).contains("row 0: `ids` is ["), "{}", refused(&["ids"]));
            assert!(refused(&["number", "label"]).contains("there is no column `label`"));
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_wherever_it_is_damaged() {
        let whole = file(&["the cat", "sat"], Compression::SNAPPY);
        for end in 0..whole.len() {
            let (_folder, path) = written("a.parquet", &whole[..end]);
            assert!(refusal(read(&path, "text", None)).contains("a.parquet: "), "cut at {end}");
        }
        let mut garbled = 0;
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            let (_folder, path) = written("a.parquet", &bytes);
            garbled += usize::from(read(&path, "text", None).is_err());
        }
        assert!(garbled > whole.len() / 4, "{garbled} of {} bytes were missed", whole.len());
    }
}
