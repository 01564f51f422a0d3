//! Reading whole runs and parts of them, however they are divided into shards.

use crate::common;

use std::fs;

use common::{contents, fast_folder, gc, provenance, saver};
use easyroutine_store::{
    ActivationLoader, Bytes, Contents, Dtype, Edit, ErrorKind, Kind, Loaded, Query, Tensor,
};
use proptest::prelude::*;
use serde_json::json;

/// Tensors of every kind and any shape.
fn any_tensors() -> impl Strategy<Value = Vec<Tensor<'static>>> {
    let dense =
        (0usize..6, prop::collection::vec(0usize..4, 0..3), prop::sample::select(Dtype::ALL.to_vec()));
    let ragged = (prop::collection::vec(0usize..5, 0..6), prop::collection::vec(1usize..4, 0..2));
    let square = prop::collection::vec(0usize..4, 0..5);
    (
        prop::collection::vec(dense, 0..4),
        prop::collection::vec(ragged, 0..3),
        prop::collection::vec(square, 0..2),
    )
        .prop_map(|(dense, ragged, squares)| {
            let mut tensors = Vec::new();
            let bytes = |n: usize, salt: usize| (0..n).map(|i| (i * 7 + salt) as u8).collect::<Vec<u8>>();
            for (i, (rows, inner, dtype)) in dense.into_iter().enumerate() {
                let shape = [&[rows], &inner[..]].concat();
                let n = shape.iter().product::<usize>() * dtype.size();
                tensors.push(Tensor::new(format!("resid_out_{i}"), dtype, &shape, bytes(n, i)).dense());
            }
            let ends = |lengths: &[usize]| {
                let mut ends = vec![0i64];
                lengths.iter().for_each(|n| ends.push(ends[ends.len() - 1] + *n as i64));
                ends
            };
            for (i, (lengths, inner)) in ragged.into_iter().enumerate() {
                let shape = [&[lengths.iter().sum()], &inner[..]].concat();
                let n = shape.iter().product::<usize>() * 2;
                let tensor = Tensor::new(format!("mlp_out_{i}"), Dtype::Bf16, &shape, bytes(n, i));
                tensors.push(tensor.ragged(Kind::Rows, ends(&lengths)));
            }
            for (i, sides) in squares.into_iter().enumerate() {
                let areas: Vec<usize> = sides.iter().map(|side| side * side).collect();
                let total = areas.iter().sum();
                let tensor =
                    Tensor::new(format!("pattern_L{i}H0"), Dtype::F32, &[total], bytes(total * 4, i));
                tensors.push(tensor.ragged(Kind::RaggedNd, ends(&areas)));
            }
            tensors
        })
}

fn rows_of(tensor: &Tensor<'_>, from: usize, to: usize) -> Vec<u8> {
    let row = tensor.shape[1..].iter().product::<usize>() * tensor.dtype.size();
    let place =
        |example: usize| if tensor.kind.is_ragged() { tensor.offsets[example] as usize } else { example };
    tensor.bytes[place(from) * row..place(to) * row].to_vec()
}

fn examples(read: &Loaded) -> usize {
    read.examples()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_tensors_come_back_whole_and_in_part(tensors in any_tensors(), shard_bytes in 1u64..200, cut in 0u32..1000) {
        let base = fast_folder();
        let saver = saver(&base, "e").with_shard_bytes(shard_bytes);
        let path = saver.save(&Contents { tensors: tensors.clone(), ..Contents::default() }, &provenance(1)).unwrap();
        let run = saver.store().run(&path).unwrap();
        prop_assert!(run.verify().unwrap().is_empty());
        for tensor in &tensors {
            let read = run.read(&tensor.name).unwrap();
            prop_assert_eq!((&read.shape, read.dtype, read.kind), (&tensor.shape, tensor.dtype, tensor.kind));
            prop_assert_eq!((&read.bytes[..], &read.offsets), (&tensor.bytes[..], &tensor.offsets));
            let n = examples(&read);
            let from = cut as usize % (n + 1);
            let to = from + (cut as usize / 7) % (n - from + 1);
            let some = run.read_rows(&tensor.name, from..to).unwrap();
            prop_assert_eq!(&some.bytes[..], &rows_of(tensor, from, to)[..]);
            prop_assert_eq!(examples(&some), to - from);
            prop_assert!(run.read_rows(&tensor.name, from..n + 1).is_err());
        }
    }

    #[test]
    fn a_digest_does_not_depend_on_names_and_times_but_on_every_byte(at in 0usize..96, bit in 0u8..8) {
        let base = fast_folder();
        let saver = saver(&base, "e");
        let digest = |contents: &Contents<'_>| {
            let path = saver.save(contents, &provenance(3)).unwrap();
            saver.store().run(&path).unwrap().metadata().digest().to_owned()
        };
        let mut other = contents(1);
        other.tensors[0].bytes.to_mut()[at] ^= 1 << bit;
        prop_assert_eq!(digest(&contents(1)), digest(&contents(1)));
        prop_assert_ne!(digest(&contents(1)), digest(&other));
    }
}

#[test]
fn a_layer_is_what_its_keys_say() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let path = saver.save(&contents(1), &provenance(1)).unwrap();
    let run = saver.store().run(&path).unwrap();
    let names = |layer| run.read_layer(layer).unwrap().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(
        (names(0), names(1)),
        (vec!["resid_out_0".to_owned(), "mlp_out_0".to_owned()], vec!["resid_out_1".to_owned()])
    );
    assert_eq!(run.read_layer(2).unwrap_err().kind(), ErrorKind::NotFound);
    let error = run.read("resid_outt_0").unwrap_err();
    assert!(error.hint_text().unwrap().contains("resid_out_0, resid_out_1"), "{error}");
    assert!(run.read_rows("note", 0..1).is_err(), "a scalar has no rows");
}

#[test]
fn a_large_tensor_is_not_copied_where_it_can_be_mapped() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let tensors = vec![Tensor::new("resid_out_0", Dtype::U8, &[1000, 1000], vec![7; 1_000_000]).dense()];
    let path = saver.save(&Contents { tensors, ..Contents::default() }, &provenance(1)).unwrap();
    let read = saver.store().run(&path).unwrap().read_rows("resid_out_0", 3..5).unwrap();
    assert_eq!(&read.bytes[..], &[7; 2000]);
    if cfg!(target_os = "linux") {
        assert!(matches!(read.bytes, Bytes::Mapped(..)), "{:?}", read.bytes);
    }
}

#[test]
fn shards_are_safetensors_whose_tensors_are_aligned() {
    let base = fast_folder();
    let path = saver(&base, "e").save(&contents(5), &provenance(5)).unwrap();
    let folder = base.path().join(path).join("data");
    let file = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let saved = contents(5);
    for tensor in &saved.tensors {
        let found = tensors.tensor(&tensor.name).unwrap();
        assert_eq!((found.shape(), found.data()), (&tensor.shape[..], &tensor.bytes[..]));
        let offset = found.data().as_ptr() as usize - bytes.as_ptr() as usize;
        assert_eq!(offset % tensor.dtype.size(), 0, "{}", tensor.name);
    }
    assert_eq!(tensors.tensor("mlp_out_0.offsets").unwrap().shape(), [4]);
}

#[test]
fn edits_are_all_or_nothing_and_one_at_a_time() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let path = saver.save(&contents(1), &provenance(1)).unwrap();
    let store = saver.store();
    let edits = [Edit::Tag("good".to_owned()), Edit::Set("note".to_owned(), json!({"a": [1, 2.5]}))];
    let edited = store.edit(&path, &edits, Some(1)).unwrap();
    assert_eq!((edited.revision(), edited.tags()), (2, vec!["tag_1", "good"]));
    assert_eq!(store.run(&path).unwrap().metadata().get("note"), Some(&json!({"a": [1, 2.5]})));
    assert_eq!(store.edit(&path, &edits, Some(1)).unwrap_err().kind(), ErrorKind::Conflict);
    let half = [Edit::Untag("good".to_owned()), Edit::Unset("nothing".to_owned())];
    assert_eq!(store.edit(&path, &half, None).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(store.run(&path).unwrap().metadata().tags().contains(&"good"), "half of the edits were made");
    let reserved = store.edit(&path, &[Edit::Set("tag".to_owned(), json!("x"))], None).unwrap_err();
    assert_eq!(reserved.kind(), ErrorKind::Input);
    store.edit(&path, &[Edit::Untag("tag_1".to_owned()), Edit::Unset("note".to_owned())], None).unwrap();
    assert_eq!(store.run(&path).unwrap().metadata().tags(), ["good"]);
}

#[test]
fn unknown_keys_survive_and_newer_layouts_are_refused() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let path = saver.save(&contents(1), &provenance(1)).unwrap();
    let file = base.path().join(&path).join("metadata.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    record["_store"]["colour"] = json!("green");
    record["mine"] = json!(1);
    fs::write(&file, record.to_string()).unwrap();
    let edited = saver.store().edit(&path, &[Edit::Tag("t".to_owned())], None).unwrap();
    assert_eq!(
        (edited.store().unwrap().get("colour"), edited.get("mine")),
        (Some(&json!("green")), Some(&json!(1)))
    );
    record["_store"]["min_reader"] = json!(2);
    fs::write(&file, record.to_string()).unwrap();
    assert_eq!(saver.store().run(&path).unwrap_err().kind(), ErrorKind::Unsupported);
    let store_file = base.path().join(".easyroutine/store.json");
    fs::write(&store_file, "{\"schema\":\"easyroutine.store\",\"version\":2,\"min_reader\":2}").unwrap();
    let error = ActivationLoader::new(base.path(), "e").unwrap_err();
    assert!(error.to_string().contains("needs a reader of version 2"), "{error}");
}

#[test]
fn results_are_sliced_counted_printed_and_moved() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    for seed in 0..4 {
        saver.save(&contents(seed), &provenance(seed)).unwrap();
    }
    let loader = ActivationLoader::from_saver(&saver);
    let mut found = loader.query(&Query::default()).unwrap();
    assert_eq!(
        (found.len(), found.slice(1..3).len(), found.slice(3..9).len(), found.slice(7..9).len()),
        (4, 2, 1, 0)
    );
    let text = found.to_string();
    assert!(text.starts_with("4 runs\n") && text.contains("  org/tiny  [tag_3]"), "{text}");
    let moved = found.update_run_experiment(-1, "other").unwrap();
    assert!(moved.starts_with("other/org_tiny/"));
    assert_eq!(found.load(-1).unwrap().path(), moved);
    assert_eq!(loader.query(&Query::default()).unwrap().len(), 3);
    assert_eq!(found.update_run_experiment(0, "../x").unwrap_err().kind(), ErrorKind::Input);
}

#[test]
fn what_crashed_writers_left_is_cleared_and_runs_are_kept() {
    use easyroutine_store::Sweep;
    use std::time::Duration;
    let base = fast_folder();
    let saver = saver(&base, "e");
    let path = saver.save(&contents(1), &provenance(1)).unwrap();
    let run = base.path().join(&path);
    fs::create_dir_all(run.with_file_name("2020-01-01_00-00-00-abcdef/data")).unwrap();
    for file in
        [run.with_file_name(".tmp-abc"), run.join("data/.tmp-x"), run.join("data/00009-zzzz.safetensors")]
    {
        fs::write(file, "left").unwrap();
    }
    fs::create_dir_all(base.path().join(".easyroutine/trash/u/run")).unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(
        gc(saver.store(), hour, Sweep::Delete).len(),
        1,
        "what is young may be in use, but for the trash"
    );
    assert_eq!(gc(saver.store(), Duration::ZERO, Sweep::Look).len(), 4);
    assert_eq!(gc(saver.store(), Duration::ZERO, Sweep::Delete).len(), 4);
    assert!(gc(saver.store(), Duration::ZERO, Sweep::Look).is_empty());
    assert!(saver.store().run(&path).unwrap().verify().unwrap().is_empty());
}

#[test]
fn a_run_that_two_threads_write_is_whole_and_in_order() {
    let folder = fast_folder();
    let names: Vec<String> = (0..5).map(|i| format!("resid_out_{i}")).collect();
    let shape = [1 << 10, 1 << 14];
    let bytes: Vec<Vec<u8>> = (0..5u8).map(|i| vec![i + 1; shape[0] * shape[1]]).collect();
    let tensors =
        names.iter().zip(&bytes).map(|(name, bytes)| Tensor::new(name, Dtype::U8, &shape, bytes).dense());
    let whole = Contents { tensors: tensors.collect(), ..Contents::default() };
    saver(&folder, "e").with_shard_bytes(16 << 20).save(&whole, &provenance(0)).unwrap();
    let run = ActivationLoader::new(folder.path(), "*")
        .unwrap()
        .query(&Query::default())
        .unwrap()
        .load(-1)
        .unwrap();
    assert_eq!(run.verify().unwrap(), []);
    assert_eq!(run.names().collect::<Vec<_>>(), names);
    let files: Vec<&str> = run.manifest().shards.iter().map(|shard| &shard.file[..10]).collect();
    assert_eq!(files, ["data/00000", "data/00001", "data/00002", "data/00003", "data/00004"]);
    for (name, bytes) in names.iter().zip(&bytes) {
        assert!(run.read(name).unwrap().bytes[..] == bytes[..], "{name}");
    }
}
