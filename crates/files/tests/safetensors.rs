//! safetensors files and folders, well formed and not.

use std::path::Path;

use easyroutine_files::{Container, Encoding, ErrorKind, ShardedSafeTensors};
use proptest::prelude::*;

/// A file with this header and this many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((0..data).map(|i| i as u8));
    bytes
}

fn tensor_file(names: &[&str]) -> Vec<u8> {
    let entry = |(i, name): (usize, &&str)| {
        format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}"#, 4 * i, 4 * i + 4)
    };
    let entries: Vec<_> = names.iter().enumerate().map(entry).collect();
    file(&format!("{{{}}}", entries.join(",")), 4 * names.len())
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(folder.join(name), bytes).expect("a temporary folder takes a file");
}

fn open_bytes(bytes: &[u8]) -> Result<ShardedSafeTensors, easyroutine_files::Error> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), "model.safetensors", bytes);
    ShardedSafeTensors::open_folder(folder.path())
}

const SOUND: &str = r#"{"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},
    "ids":{"dtype":"I64","shape":[1],"data_offsets":[8,16]},"mask":{"dtype":"BOOL","shape":[0],"data_offsets":[16,16]}}"#;

#[test]
fn a_sound_file_reads_whole() {
    let weights = open_bytes(&file(SOUND, 16)).unwrap();
    ShardedSafeTensors::check(&file(SOUND, 16)).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["ids", "mask", "w"]);
    assert_eq!(weights.metadata()["format"], "pt");
    assert_eq!(weights.files().len(), 1);
    let w = weights.tensor("w").unwrap();
    assert_eq!((w.name(), w.shape(), w.encoding()), ("w", &[2, 2][..], Encoding::Bf16));
    let expected = [0x0100u32, 0x0302, 0x0504, 0x0706].map(|bits| f32::from_bits(bits << 16));
    assert_eq!(w.read_all().unwrap(), expected);
    assert_eq!(weights.tensor("ids").unwrap().encoding(), Encoding::I64);
    assert_eq!(weights.tensor("mask").unwrap().elements(), 0);
    assert!(weights.tensor("absent").is_none());
}

#[test]
fn rows_outlast_the_view_of_their_file() {
    let weights = open_bytes(&file(SOUND, 16)).unwrap();
    let error = weights.tensor("ids").unwrap().lasting().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let rows = weights.tensor("w").unwrap().lasting().unwrap();
    let mut expected = vec![0.0; 2];
    weights.tensor("w").unwrap().read_row(1, &mut expected).unwrap();
    drop(weights);
    rows.drop_pages(0..2);
    assert_eq!(rows.len(), 2);
    let mut row = vec![0.0; 2];
    rows.read(1, &mut row);
    assert_eq!(row, expected);
}

#[test]
fn a_file_that_was_written_to_is_noticed_and_one_that_was_replaced_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(folder.path(), "model.safetensors", file(SOUND, 16));
    let weights = Container::open(folder.path()).unwrap();
    weights.check_unchanged().unwrap();

    write(folder.path(), "new", file(SOUND, 16));
    std::fs::rename(folder.path().join("new"), &path).unwrap();
    weights.check_unchanged().unwrap();

    let weights = Container::open(folder.path()).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    let error = weights.check_unchanged().unwrap_err();
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    let weights = Container::open(folder.path()).unwrap();
    std::fs::File::options().append(true).open(&path).unwrap().set_len(1000).unwrap();
    assert_eq!(weights.check_unchanged().unwrap_err().kind(), ErrorKind::Malformed);
}

#[test]
fn what_is_wrong_is_named() {
    let one = |entry: &str, data| file(&format!(r#"{{"w":{entry}}}"#), data);
    let huge = r#"{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}"#;
    let bomb: Vec<u8> = (1u64 << 60).to_le_bytes().into_iter().chain(*b"{}").collect();
    let overlapping = r#"{"v":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
        "w":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    // Offsets that agree with each other but are far beyond any file.
    let beyond =
        r#"{"v":{"dtype":"U8","shape":[2305843009213693951],"data_offsets":[0,2305843009213693951]}}"#;
    let empty_axis = r#"{"dtype":"U8","shape":[0,18446744073709551615,9],"data_offsets":[0,0]}"#;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "0 bytes are not a safetensors file"),
        (vec![1, 2, 3], "3 bytes are not a safetensors file"),
        (bomb, "claims a header of 1152921504606846976 bytes"),
        (file(SOUND, 16)[..60].to_vec(), "Is the download complete?"),
        (file(SOUND, 15), "describes 16 bytes of tensors, the file holds 15"),
        (file(SOUND, 17), "describes 16 bytes of tensors, the file holds 17"),
        (file("[]", 0), "header: "),
        (file("{\"w\":", 0), "header: EOF"),
        (file(&format!("{}1", "[".repeat(10_000)), 0), "header: "),
        (one(r#"{"dtype":"Q7","shape":[1],"data_offsets":[0,4]}"#, 4), "unknown variant `Q7`"),
        (one(r#"{"dtype":"F4","shape":[2],"data_offsets":[0,1]}"#, 1), "tensor `w`: dtype F4"),
        (one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#, 4), "header: "),
        (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#, 4), "header: "),
        (one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#, 4), "header: "),
        (one(huge, 4), "header: "),
        (one(empty_axis, 0), ""),
        (file(overlapping, 6), "`w`"),
        (file(beyond, 4), "describes 2305843009213693951 bytes"),
    ];
    for (bytes, expected) in cases {
        let error = open_bytes(&bytes).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
        assert!(ShardedSafeTensors::check(&bytes).is_err(), "{expected}");
        assert!(error.contains("model.safetensors: "), "{error:?} does not name the file");
    }
    let mut not_text = file("{\"w\":1}", 0);
    not_text[10] = 0xFF;
    assert!(open_bytes(&not_text).unwrap_err().to_string().contains("not UTF-8"));
}

#[test]
fn a_file_cut_at_any_byte_is_an_error() {
    let whole = file(SOUND, 16);
    assert!(open_bytes(&whole).is_ok());
    for length in 0..whole.len() {
        assert!(
            open_bytes(&whole[..length]).is_err(),
            "{length} of {} bytes were taken for all",
            whole.len()
        );
    }
}

proptest! {
    #[test]
    fn flipped_bytes_never_panic_and_never_reach_outside(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let mut bytes = file(SOUND, 16);
        for (place, byte) in flips {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Ok(weights) = open_bytes(&bytes) {
            for name in weights.names() {
                prop_assert!(weights.tensor(name).is_some(), "`{}` is listed but not there", name);
            }
        }
    }
}

/// Writes a folder of two shards with this index and opens it.
fn open_sharded(index: &str) -> Result<ShardedSafeTensors, easyroutine_files::Error> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), "m-1.safetensors", tensor_file(&["a", "b"]));
    write(folder.path(), "m-2.safetensors", tensor_file(&["c"]));
    write(folder.path(), "same.safetensors", tensor_file(&["b"]));
    write(folder.path(), "model.safetensors.index.json", index);
    ShardedSafeTensors::open_folder(folder.path())
}

#[test]
fn shards_are_seen_as_one() {
    let index = r#"{"metadata":{"total_size":12},"weight_map":
        {"a":"m-1.safetensors","b":"m-1.safetensors","c":"m-2.safetensors"}}"#;
    let weights = open_sharded(index).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(weights.tensor("b").unwrap().bytes(), [4, 5, 6, 7]);
    assert_eq!(weights.tensor("c").unwrap().bytes(), [0, 1, 2, 3]);
    assert_eq!(weights.files().len(), 2);
}

#[test]
fn an_index_that_is_wrong_is_an_error() {
    let cases = [
        (r#"{"a":"m-1.safetensors","c":"m-3.safetensors"}"#, "shard `m-3.safetensors` is not in the folder"),
        (
            r#"{"a":"m-1.safetensors","z":"m-2.safetensors"}"#,
            "`z` is not in `m-2.safetensors`, where the index puts it; no shard",
        ),
        (
            r#"{"a":"m-2.safetensors","b":"m-1.safetensors"}"#,
            "`a` is not in `m-2.safetensors`, where the index puts it; it is in `m-1.safetensors`",
        ),
        (r#"{"b":"same.safetensors","a":"m-1.safetensors"}"#, "tensor `b` is also in"),
        (r#"{"a":"../m-1.safetensors"}"#, "`../m-1.safetensors` is not the plain name"),
        (r#"{"a":"/etc/passwd"}"#, "`/etc/passwd` is not the plain name"),
        (r#"{"a":".."}"#, "`..` is not the plain name"),
        (r#"{"a":"x\\y"}"#, "is not the plain name"),
        (r#"{"a":""}"#, "is not the plain name"),
        (r#"{"a":7}"#, "the file of `a` is 7, not a string"),
        ("{}", "`weight_map` is empty"),
        ("[]", "has no object `weight_map`"),
    ];
    for (map, expected) in cases {
        let error = open_sharded(&format!(r#"{{"weight_map":{map}}}"#)).expect_err(map).to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
    for text in ["", "{\"weight_map\":", "null"] {
        let error = open_sharded(text).expect_err(text).to_string();
        assert!(error.contains("model.safetensors.index.json: "), "{error}");
    }
}

#[test]
fn pickled_weights_are_refused_with_what_would_do() {
    for name in ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), name, b"PK\x03\x04");
        let error = Container::open(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(name), "{error}");
        assert!(error.to_string().contains("Convert them to safetensors"), "{error}");
        let error = Container::open(folder.path().join(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}

#[test]
fn what_is_no_container_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "picture", b"\x89PNG\r\n\x1a\n and more");
    write(folder.path(), "pickled", b"\x80\x02}q\x00.");
    write(folder.path(), "empty", b"");
    write(folder.path(), "false.gguf", b"GGML and more");
    write(folder.path(), "unnamed", file(SOUND, 16));
    let cases = [
        ("picture", "is neither safetensors nor GGUF"),
        ("pickled", "pickled weights"),
        ("empty", "is empty"),
        ("false.gguf", "does not begin with `GGUF`"),
        ("absent", "cannot open the file"),
    ];
    for (name, expected) in cases {
        let error = Container::open(folder.path().join(name)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
    assert_eq!(Container::open(folder.path().join("unnamed")).unwrap().names(), ["ids", "mask", "w"]);
    let error = Container::open(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
    assert!(error.to_string().contains("neither `model.safetensors` nor"), "{error}");
}
