//! GGUF files, well formed and not.

use easyroutine_files::gguf::{Array, Gguf, Value};
use easyroutine_files::{Container, Encoding, ErrorKind, GgufFile};
use proptest::prelude::*;

/// A GGUF file written piece by piece, so that any piece can be wrong.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn header(version: u32, tensors: u64, pairs: u64) -> Self {
        Writer(b"GGUF".to_vec()).u32(version).u64(tensors).u64(pairs)
    }

    fn u32(self, number: u32) -> Self {
        self.raw(&number.to_le_bytes())
    }

    fn u64(self, number: u64) -> Self {
        self.raw(&number.to_le_bytes())
    }

    fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).raw(text.as_bytes())
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn tensor(self, name: &str, file_order: &[u64], kind: u32, offset: u64) -> Self {
        let described = self.text(name).u32(file_order.len() as u32);
        file_order.iter().fold(described, |writer, &size| writer.u64(size)).u32(kind).u64(offset)
    }

    fn data(mut self, length: usize) -> Self {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + length, 7);
        self
    }
}

/// Every type of value, and two tensors, the first of which ends short of the alignment.
fn sound() -> Vec<u8> {
    let mut file = Writer::header(3, 2, 15);
    for (tag, bytes) in
        [(0u32, &[200u8][..]), (1, &[200]), (2, &[1, 2]), (3, &[255, 255]), (10, &[9; 8]), (11, &[255; 8])]
    {
        file = file.text(&format!("number.{tag}")).u32(tag).raw(bytes);
    }
    file = file.text("general.alignment").u32(4).u32(32);
    file = file.text("signed").u32(5).raw(&(-5i32).to_le_bytes());
    file = file.text("float").u32(6).raw(&1.5f32.to_le_bytes());
    file = file.text("double").u32(12).raw(&2.5f64.to_le_bytes());
    file = file.text("truth").u32(7).raw(&[1]);
    file = file.text("name").u32(8).text("tiny ü");
    file = file.text("words").u32(9).u32(8).u64(2).text("a").text("");
    file = file.text("floats").u32(9).u32(6).u64(2).raw(&0.5f32.to_le_bytes()).raw(&1f32.to_le_bytes());
    file = file.text("ints").u32(9).u32(5).u64(1).raw(&(-1i32).to_le_bytes());
    file.tensor("a", &[3, 2], 0, 0).tensor("b", &[32, 1], 8, 32).data(32 + 34).0
}

#[test]
fn a_sound_file_reads_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no-ending");
    std::fs::write(&path, sound()).unwrap();
    let Container::Gguf(file) = Container::open(&path).unwrap() else { panic!("its first bytes say GGUF") };
    let gguf = file.gguf();
    assert_eq!(gguf.version, 3);
    assert_eq!(gguf.u64("number.0").unwrap(), Some(200));
    assert_eq!(gguf.metadata["number.1"], Value::Signed(-56));
    assert_eq!(gguf.u32("number.2").unwrap(), Some(513));
    assert_eq!(gguf.metadata["number.11"], Value::Signed(-1));
    assert_eq!(gguf.metadata["signed"], Value::Signed(-5));
    assert_eq!((gguf.f32("float").unwrap(), gguf.f32("double").unwrap()), (Some(1.5), Some(2.5)));
    assert_eq!(gguf.bool("truth").unwrap(), Some(true));
    assert_eq!(gguf.str("name").unwrap(), Some("tiny ü"));
    assert_eq!(gguf.strings("words").unwrap(), Some(&["a".to_owned(), String::new()][..]));
    assert_eq!(gguf.floats("floats").unwrap(), Some(vec![0.5, 1.0]));
    assert_eq!(gguf.ints("ints").unwrap(), Some(vec![-1]));
    assert_eq!(gguf.metadata["words"], Value::Array(Array::Str(vec!["a".into(), String::new()])));
    assert_eq!(gguf.str("absent").unwrap(), None);
    let (a, b) = (file.tensor("a").unwrap(), file.tensor("b").unwrap());
    assert_eq!((a.shape(), a.encoding(), a.bytes()), (&[2, 3][..], Encoding::F32, &[7; 24][..]));
    assert_eq!((b.shape(), b.encoding(), b.bytes().len()), (&[1, 32][..], Encoding::Q8_0, 34));
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
    assert!(file.tensor("c").is_none());
}

#[test]
fn a_value_of_another_type_is_an_error_that_says_which() {
    let gguf = Gguf::parse(&sound()).unwrap();
    let error = gguf.str("float").unwrap_err();
    assert_eq!(error.to_string(), "key `float` is a float, not a string");
    assert_eq!(error.kind(), ErrorKind::Request);
    assert!(gguf.u64("signed").is_err());
    assert!(gguf.u32("number.10").is_err());
    assert!(gguf.floats("ints").is_err());
}

#[test]
fn what_is_wrong_is_named() {
    let pair = |key: &str| Writer::header(3, 0, 1).text(key);
    let tensor = |sizes: &[u64], kind, offset| Writer::header(3, 1, 0).tensor("w", sizes, kind, offset);
    let twice = Writer::header(3, 2, 0).tensor("w", &[8], 0, 0).tensor("w", &[8], 0, 32).data(64);
    let across = Writer::header(3, 2, 0).tensor("v", &[9], 0, 0).tensor("w", &[8], 0, 32).data(64);
    let same_key = Writer::header(3, 0, 2).text("k").u32(7).raw(&[1]).text("k").u32(7).raw(&[0]);
    let cases: Vec<(Writer, &str)> = vec![
        (Writer::default(), "does not begin with `GGUF`"),
        (Writer(b"GGUX".to_vec()), "does not begin with `GGUF`"),
        (Writer::header(1, 0, 0), "GGUF version 1"),
        (Writer::header(4, 0, 0), "GGUF version 4"),
        (Writer::header(3u32.swap_bytes(), 0, 0), "big-endian"),
        (Writer::header(3, 1 << 60, 0), "claims 1152921504606846976 tensors"),
        (Writer::header(3, 0, u64::MAX), "claims 18446744073709551615 key-value pairs"),
        (pair("k").u32(8).u64(1 << 60), "key `k`: claims 1152921504606846976 bytes of a string"),
        (pair("k").u32(9).u32(0).u64(1 << 60), "key `k`: claims 1152921504606846976 array elements"),
        (pair("k").u32(9).u32(9).u64(1), "arrays of arrays"),
        (pair("k").u32(9).u32(13).u64(1), "array element type 13 does not exist"),
        (pair("k").u32(99).u64(0), "value type 99 does not exist"),
        (pair("k").u32(7).raw(&[2]), "key `k`: a boolean is 0 or 1, not 2"),
        (pair("k").u32(8).u64(2).raw(&[0xC3, 0x28]), "is not UTF-8"),
        (Writer::header(3, 0, 1).u64(1).raw(&[0xFF]).u32(7).raw(&[1]), "is not UTF-8"),
        (same_key, "key `k`: stands twice"),
        (pair("general.alignment").u32(4).u32(12), "`general.alignment` is 12, not a power of two"),
        (pair("general.alignment").u32(4).u32(0), "`general.alignment` is 0, not a power of two"),
        (tensor(&[], 0, 0).u64(0), "tensor `w`: has 0 axes"),
        (tensor(&[1; 5], 0, 0), "tensor `w`: has 5 axes"),
        (tensor(&[0], 0, 0), "tensor `w`: has an axis that is empty"),
        (tensor(&[1 << 40, 1 << 40], 0, 0), "more than any memory holds"),
        (tensor(&[u64::MAX], 0, 0), "tensor `w`:"),
        (tensor(&[33], 2, 0), "rows of 33 are not whole blocks of Q4_0"),
        (tensor(&[64], 16, 0), "tensor `w`: type IQ2_XXS is not read"),
        (tensor(&[64], 77, 0), "ggml type 77 does not exist"),
        (tensor(&[8], 0, 4).data(64), "offset 4 is not a multiple of the alignment"),
        (tensor(&[8], 0, 64).data(64), "reach beyond the file"),
        (tensor(&[8], 0, u64::MAX - 31).data(64), "tensor `w`:"),
        (twice, "tensor `w`: stands twice"),
        (across, "tensors `v` and `w` overlap"),
    ];
    for (file, expected) in cases {
        let error = Gguf::parse(&file.0).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
}

#[test]
fn a_file_cut_at_any_byte_is_an_error() {
    let whole = sound();
    assert!(Gguf::parse(&whole).is_ok());
    for length in 0..whole.len() {
        assert!(
            Gguf::parse(&whole[..length]).is_err(),
            "{length} of {} bytes were taken for all",
            whole.len()
        );
    }
}

#[test]
fn an_empty_file_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.gguf");
    std::fs::write(&path, []).unwrap();
    for error in [GgufFile::open(&path).unwrap_err(), Container::open(&path).unwrap_err()] {
        assert!(error.to_string().contains("empty.gguf: "), "{error}");
    }
}

proptest! {
    #[test]
    fn flipped_bytes_never_panic_and_never_reach_outside(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut file = sound();
        for (place, byte) in flips {
            let place = place.index(file.len());
            file[place] = byte;
        }
        if let Ok(gguf) = Gguf::parse(&file) {
            for tensor in &gguf.tensors {
                prop_assert!(tensor.range.end <= file.len());
            }
        }
    }

    #[test]
    fn any_bytes_after_the_magic_never_panic(rest in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(rest);
        drop(Gguf::parse(&file));
    }
}

/// A part of a split model: which, of how many, tensors in all, and the names of its own.
fn part(number: u16, count: u16, in_all: u32, own: &[&str]) -> Vec<u8> {
    let mut file = Writer::header(3, own.len() as u64, 4);
    file = file.text("general.architecture").u32(8).text("llama");
    file = file.text("split.no").u32(2).raw(&number.to_le_bytes());
    file = file.text("split.count").u32(2).raw(&count.to_le_bytes());
    file = file.text("split.tensors.count").u32(5).raw(&in_all.to_le_bytes());
    for (place, name) in own.iter().enumerate() {
        file = file.tensor(name, &[8], 0, 32 * place as u64);
    }
    file.data(32 * own.len()).0
}

/// Writes these files into a folder and opens the one that is asked for.
fn open_among(files: &[(&str, Vec<u8>)], asked: &str) -> Result<GgufFile, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    GgufFile::open(folder.path().join(asked)).map_err(|e| e.to_string())
}

#[test]
fn a_split_model_is_opened_by_any_of_its_parts() {
    let names = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];
    let parts = [part(0, 3, 3, &["b"]), part(1, 3, 3, &["c", "a"]), part(2, 3, 3, &[])];
    let files: Vec<_> = names.into_iter().zip(parts).collect();
    for asked in names {
        let file = open_among(&files, asked).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(file.files().len(), 3);
        assert_eq!(file.gguf().u64("split.no").unwrap(), Some(0), "the first part has the metadata");
        assert!(file.names().all(|name| file.tensor(name).unwrap().bytes() == [7; 32]));
    }
}

#[test]
fn parts_that_are_missing_or_do_not_belong_together_are_named() {
    let (first, second) = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf");
    let refused = |files: &[(&str, Vec<u8>)], asked: &str, word: &str| {
        let error = open_among(files, asked).unwrap_err();
        assert!(error.contains(word), "{word}: {error}");
    };
    let (a, b) = (part(0, 2, 2, &["a"]), part(1, 2, 2, &["b"]));
    refused(
        &[(first, a.clone())],
        first,
        "is part 1 of 2 of a split model; `m-00002-of-00002.gguf` is not beside it",
    );
    refused(&[(second, b.clone())], second, "`m-00001-of-00002.gguf` is not beside it");
    refused(&[("m.gguf", a.clone())], "m.gguf", "its name says otherwise");
    refused(&[(second, a.clone())], second, "its name says otherwise");
    refused(&[("m-00001-of-00003.gguf", a.clone())], "m-00001-of-00003.gguf", "its name says otherwise");
    let with = |other: Vec<u8>, word: &str| refused(&[(first, a.clone()), (second, other)], first, word);
    with(
        part(1, 3, 2, &["b"]),
        "`m-00002-of-00002.gguf` is of another set: it says that it is part 2 of 3, 2 tensors",
    );
    with(part(0, 2, 2, &["b"]), "it says that it is part 1 of 2, 2 tensors in all, not part 2 of 2");
    with(part(1, 2, 9, &["b"]), "9 tensors in all, not part 2 of 2, 2 tensors in all");
    with(sound(), "is of another set: it says that it is a whole model");
    with(part(1, 2, 2, &["b", "c"]), "the parts hold 3 tensors; they say 2 in all");
    with(part(1, 2, 2, &["a"]), "tensor `a` is also in");
    with(b"GGUF".to_vec(), "m-00002-of-00002.gguf");
}

#[test]
fn names_of_parts() {
    use easyroutine_files::gguf::PartName;
    let name = PartName::parse("a-of-b-00002-of-00003.GGUF").unwrap();
    assert_eq!((name.prefix(), name.number(), name.count()), ("a-of-b", 2, 3));
    assert_eq!(name.all().last().unwrap(), "a-of-b-00003-of-00003.GGUF");
    for other in [
        "",
        "m.gguf",
        "m-00000-of-00003.gguf",
        "m-00004-of-00003.gguf",
        "m-2-of-3.gguf",
        "m-00001-of-00003.bin",
        "é",
    ] {
        assert_eq!(PartName::parse(other), None, "{other}");
    }
}
