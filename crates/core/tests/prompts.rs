//! Files of prompts, and their errors.

use std::path::{Path, PathBuf};

use easyroutine::prompts::{
    Prompt, Prompts, ReadOptions, Seen, each_prompt, from_jsonl, from_table, from_text, read, read_fields,
};
use easyroutine::{Error, Result};

fn text(text: &str) -> Prompt {
    Prompt::Text(text.to_owned())
}

fn limited(limit: usize) -> ReadOptions {
    ReadOptions { limit: Some(limit), ..ReadOptions::default() }
}

fn of(field: &str, limit: Option<usize>) -> ReadOptions {
    ReadOptions { field: field.to_owned(), limit, ..ReadOptions::default() }
}

fn skipping() -> ReadOptions {
    ReadOptions { skip_empty: true, ..ReadOptions::default() }
}

fn refusal(result: Result<Prompts>) -> String {
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
    let read = |content: &[u8], limit| from_text(content, &limited(limit));
    assert_eq!(read(content.as_bytes(), usize::MAX).unwrap().prompts, prompts);
    assert_eq!(read(content.as_bytes(), 2).unwrap().prompts, prompts[..2]);
    assert_eq!(read(content.as_bytes(), 0).unwrap().prompts, []);
    assert!(refusal(read(b"good\nb\xffd\n", 9)).contains("line 2, row 1: not UTF-8 at byte 1"));
    // Nothing beyond the limit is read.
    assert_eq!(read(b"good\nb\xffd\n", 1).unwrap().prompts, [text("good")]);
    assert!(refusal(read(b"PK\x00\x01\n", 1)).contains("not text"));
}

#[test]
fn a_line_without_end_is_refused_before_memory_is_full() {
    let said = refusal(from_text(std::io::repeat(b'x'), &limited(1)));
    assert!(
        said.contains("line 1, row 0: longer than 16777216 bytes") && said.contains("--longest-row"),
        "{said}"
    );
    let short = ReadOptions { longest_row: 4, ..ReadOptions::default() };
    assert_eq!(from_text(&b"four\n"[..], &short).unwrap().prompts, [text("four")]);
    assert!(refusal(from_text(&b"fives\n"[..], &short)).contains("longer than 4 bytes"));
    assert!(refusal(from_text("\u{e9}\u{e9}\u{e9}\n".as_bytes(), &short)).contains("longer than 4 bytes"));
    assert!(refusal(from_table(std::io::repeat(b'x'), b',', &short)).contains("longer than 4 bytes"));
    let endless = std::io::Read::chain(&b"text\n\""[..], std::io::repeat(b'x'));
    assert!(refusal(from_table(endless, b',', &short)).contains("line 2, row 0: longer than"));
}

#[test]
fn jsonl_has_texts_or_token_ids_in_a_field() {
    let content = "{\"id\": NaN, \"text\": \"a\\nNaN \\\"\", \"x\": [-Infinity, Infinity]}\n\n{\"text\": \"b\", \"more\": {}}\n{\"text\": [1, 2, 4294967295]}\n";
    let prompts = [text("a\nNaN \""), text("b"), Prompt::Ids(vec![1, 2, u32::MAX])];
    assert_eq!(from_jsonl(content.as_bytes(), &limited(9)).unwrap().prompts, prompts);
    for (line, said) in [
        (
            "{\"prompt\": \"a\", \"label\": 1}",
            "line 2, row 1: there is no field `text`; there are `prompt`, `label`; say which",
        ),
        ("{\"text\": 5}", "line 2, row 1: `text` is neither a text nor a list of token ids or messages: 5"),
        ("{\"text\": [1, -2]}", "line 2, row 1: `text` is neither"),
        ("{\"text\": [4294967296]}", "line 2, row 1: `text` is neither"),
        ("{\"text\": null}", "line 2, row 1: `text` is empty; --skip-empty"),
        ("{\"text\": \"\"}", "line 2, row 1: `text` is empty; --skip-empty"),
        ("{\"text\": []}", "line 2, row 1: `text` is empty; --skip-empty"),
        ("{\"text\": NaN}", "line 2, row 1: `text` is empty"),
        (
            "{\"text\": [{\"role\": \"user\"}, {\"content\": \"a\"}]}",
            "row 1: message 1 of `text` has no `role`",
        ),
        ("{\"text\": [{\"role\": \"user\"}, 1]}", "line 2, row 1: `text` is neither"),
        ("[\"a\"]", "line 2, row 1: not a JSON object"),
        ("{\"text\": \"a\"", "line 2, row 1: not a JSON object"),
    ] {
        let content = format!("{{\"text\": \"good\"}}\n{line}\n");
        let refusal = refusal(from_jsonl(content.as_bytes(), &limited(9)));
        assert!(refusal.contains(said), "{line}: {refusal}");
    }
}

#[test]
fn a_conversation_of_json_lines_is_one() {
    let content =
        "{\"text\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"x\": [1]}]}\n";
    let found = from_jsonl(content.as_bytes(), &limited(9)).unwrap();
    let [Prompt::Messages(messages)] = &found.prompts[..] else { panic!("{found:?}") };
    assert_eq!((messages.len(), messages[0]["content"].as_str()), (2, Some("Hi")));
}

#[test]
fn a_lone_carriage_return_is_no_end_of_a_line_and_no_part_of_one() {
    assert_eq!(from_text(&b"a\r\nb\r\n"[..], &limited(9)).unwrap().prompts, [text("a"), text("b")]);
    let message = refusal(from_text(&b"a\nb\rc\rd\n"[..], &limited(9)));
    assert!(message.contains("line 2, row 1: a carriage return within a line"), "{message}");
}

#[test]
fn empty_rows_are_passed_over_where_that_is_asked_for_and_the_others_keep_their_numbers() {
    let content = "{\"text\": \"a\"}\n{\"text\": \"\"}\n\n{\"text\": null}\n{\"text\": [7]}\n";
    let found = from_jsonl(content.as_bytes(), &skipping()).unwrap();
    let expected = Prompts { prompts: vec![text("a"), Prompt::Ids(vec![7])], rows: vec![0, 3], skipped: 2 };
    assert_eq!(found, expected);
    let found = from_table(&b"text,n\na,1\n,2\n\"\",3\nb,4\n"[..], b',', &skipping()).unwrap();
    assert_eq!(found, Prompts { prompts: vec![text("a"), text("b")], rows: vec![0, 3], skipped: 2 });
}

#[test]
fn a_column_of_a_table_has_the_prompts() {
    let csv = "\u{feff}id,text\r\n1,\"Hello, world\"\r\n2,\"two\nlines and \"\"quotes\"\"\"\r\n3, b \r\n";
    let prompts = [text("Hello, world"), text("two\nlines and \"quotes\""), text(" b ")];
    let read = |content: &str, between| from_table(content.as_bytes(), between, &ReadOptions::default());
    assert_eq!(read(csv, b',').unwrap().prompts, prompts);
    assert_eq!(read("id\ttext\n1\tHello, \"you\"\n", b'\t').unwrap().prompts, [text("Hello, \"you\"")]);
    assert_eq!(from_table(csv.as_bytes(), b',', &limited(1)).unwrap().prompts, prompts[..1]);
    for (content, said) in [
        ("id,prompt\n1,a\n", "there is no column `text`; there are `id`, `prompt`; say which"),
        ("id,text\n1,a\n2,b,c\n", "line 3, row 1: 3 fields, and the header has 2"),
        ("id,text\n1,\"a\nb\"\n2\n", "line 4, row 1: 1 fields"),
        ("id,text\n1,\n", "line 2, row 0: `text` is empty; --skip-empty"),
        ("", "the table is empty"),
        ("id,text\n1,\"abc\n2,def\n3,ghi\n", "line 2, row 0: a field in quotes begins here and has no end"),
        ("id,text\n1,\"so\" it is\n", "line 2, row 0: a field goes on behind its closing quote"),
        ("text\nNA\n\n\"\"\n", "line 4, row 1: `text` is empty"),
        ("text,text\na,b\n", "several columns are named `text`"),
    ] {
        let refusal = refusal(read(content, b','));
        assert!(refusal.contains(said), "{content:?}: {refusal}");
    }
}

#[test]
fn the_ending_of_a_name_says_what_a_file_is() {
    let (_folder, path) = written("a.JSONL", b"{\"q\": \"one\"}\n{\"q\": \"two\"}\n");
    assert_eq!(read(&path, &of("q", None)).unwrap().prompts, [text("one"), text("two")]);
    assert_eq!(read(&path, &of("q", Some(1))).unwrap().prompts, [text("one")]);
    let (_folder, path) = written("a.md", b"{\"q\": 1}\n");
    assert_eq!(read(&path, &of("q", None)).unwrap().prompts, [text("{\"q\": 1}")]);
    // An uninformative name yields to what the lines say.
    for name in ["prompts", "a.data"] {
        let (_folder, path) = written(name, b"\n{\"q\": 1}\n");
        assert!(refusal(read(&path, &of("q", None))).contains("let the name end in .jsonl"));
        let (_folder, path) = written(name, b"{not json\n");
        assert_eq!(read(&path, &of("q", None)).unwrap().prompts, [text("{not json")]);
    }
    let (_folder, path) = written("a.csv", b"q,r\n1,2\n");
    assert_eq!(read(&path, &of("r", None)).unwrap().prompts, [text("2")]);
    let (_folder, path) = written("a.TSV", b"q\tr\n1\t2\n");
    assert_eq!(read(&path, &of("r", None)).unwrap().prompts, [text("2")]);
    for (name, said) in
        [("a.arrow", "to_parquet"), ("a.feather", "to_parquet"), ("a.xlsx", ".csv"), ("a.pkl", ".jsonl")]
    {
        let (_folder, path) = written(name, b"x");
        assert!(refusal(read(&path, &of("q", None))).contains(said), "{name}");
    }
    let (_folder, path) = written("empty.txt", b"\n \n");
    assert!(refusal(read(&path, &of("q", None))).contains("no prompt"));
    let (_folder, path) = written("a.json", b"[]");
    assert!(refusal(read(&path, &of("q", None))).contains("jq -c"));
    let (_folder, path) = written("a.jsonl.gz", b"");
    assert!(refusal(read(&path, &of("q", None))).contains("compressed files are not read"));
    assert!(refusal(read(Path::new("/nonexistent/a.txt"), &of("q", None))).contains("/nonexistent/a.txt"));
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

    /// A file of texts and of ids: row i has the ids 0 to i, with three rows per group.
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
            assert!(refusal(read(&path, &of("text", None))).contains("row 2: `text` is empty"));
            let found = read(&path, &ReadOptions { limit: Some(3), ..skipping() }).unwrap();
            assert_eq!(found.prompts, [text(texts[0]), text(texts[1]), text(texts[3])]);
            assert_eq!((found.rows, found.skipped), (vec![0, 1, 3], 1));
            let ids: Vec<Prompt> = (0..5).map(|row| Prompt::Ids((0..=row).collect())).collect();
            assert_eq!(read(&path, &of("ids", None)).unwrap().prompts, ids);
            let refusal = refusal(read(&path, &of("txt", None)));
            assert!(refusal.contains("no column `txt`; there are `number`, `text`, `ids`"), "{refusal}");
            assert!(super::refusal(read(&path, &of("number", None))).contains("row 0: `number` is neither"));
            let fields = |names: &[&str]| {
                let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
                read_fields(&path, &names, &[0, 1, 3], &skipping())
            };
            let found = fields(&["text", "number"]).unwrap();
            assert_eq!(found[0], ("text".to_owned(), [0, 1, 3].map(|row: usize| texts[row].into()).to_vec()));
            assert_eq!(found[1].1, [0, 1, 0]);
            let refused = |names: &[&str]| fields(names).unwrap_err().to_string();
            assert!(refused(&["ids"]).contains("row 0: `ids` is ["), "{}", refused(&["ids"]));
            assert!(refused(&["number", "label"]).contains("there is no column `label`"));
        }
    }

    #[test]
    fn a_small_file_does_not_unfold_to_all_memory() {
        // One long text, three thousand times by its index in a dictionary: a few kB.
        let long = "x".repeat(1 << 20);
        let texts = vec![long.as_str(); 3000];
        let (_folder, path) = written("a.parquet", &file(&texts, Compression::ZSTD(Default::default())));
        let said = refusal(read(&path, &of("text", None)));
        assert!(said.contains("the file unfolds to more than"), "{said}");
        assert_eq!(read(&path, &of("text", Some(1))).unwrap().prompts, [text(&long)]);
        // One page of one letter.
        let zeros = "x".repeat(300 << 20);
        let (_folder, path) = written("a.parquet", &file(&[&zeros], Compression::ZSTD(Default::default())));
        assert!(refusal(read(&path, &of("text", Some(1)))).contains("the file unfolds to more than"));
    }

    #[test]
    fn a_damaged_file_is_an_error_wherever_it_is_damaged() {
        let whole = file(&["the cat", "sat"], Compression::SNAPPY);
        for end in 0..whole.len() {
            let (_folder, path) = written("a.parquet", &whole[..end]);
            assert!(refusal(read(&path, &of("text", None))).contains("a.parquet: "), "cut at {end}");
        }
        let mut garbled = 0;
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            let (_folder, path) = written("a.parquet", &bytes);
            garbled += usize::from(read(&path, &of("text", None)).is_err());
        }
        assert!(garbled > whole.len() / 4, "{garbled} of {} bytes were missed", whole.len());
    }
}

#[test]
fn prompts_are_visited_one_by_one_until_enough_and_a_visitor_s_failure_is_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.jsonl");
    // Nothing after the wanted records is read, so it may be anything.
    std::fs::write(&path, "{\"text\": \"a\"}\n{\"text\": \"\"}\n{\"text\": \"b\"}\nno record\n").unwrap();
    let mut seen = Vec::new();
    let counted = each_prompt(&path, &skipping(), |row, prompt| {
        seen.push((row, prompt));
        Ok(seen.len() < 2)
    });
    assert_eq!(
        (counted.unwrap(), seen),
        (Seen { prompts: 2, skipped: 1 }, vec![(0, text("a")), (2, text("b"))])
    );
    let failed = each_prompt(&path, &skipping(), |_, _| Err(Error::input("the model is tired")));
    assert_eq!(failed.unwrap_err().to_string(), "the model is tired");
    let broken = each_prompt(&path, &skipping(), |_, _| Ok(true)).unwrap_err().to_string();
    assert!(broken.contains("p.jsonl") && broken.contains("line 4"), "{broken}");
}
