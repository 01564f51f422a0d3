//! Reads torch.save files without running anything in them. `fixtures/torch/make.py` wrote them.

use std::path::PathBuf;

use easyroutine_files::torch::{Item, read};
use easyroutine_files::{Container, ErrorKind};
use proptest::prelude::*;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/torch").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

#[test]
fn every_dtype_and_view_is_what_torch_says() {
    let Item::Map(entries) = read(&bytes("every.pt"), &[]).unwrap() else { panic!("no dictionary") };
    let expected = Container::open(fixture("every.safetensors")).unwrap();
    assert_eq!(entries.len(), expected.names().len());
    for (key, item) in entries {
        let (Item::Text(key), Item::Tensor(tensor)) = (key, item) else { panic!("no tensor") };
        let wanted = expected.tensor(&key).unwrap();
        assert_eq!((tensor.encoding, &tensor.shape[..]), (wanted.encoding(), wanted.shape()), "{key}");
        assert_eq!(tensor.bytes, wanted.bytes(), "{key}");
    }
}

#[test]
fn values_beside_tensors_come_back() {
    let read = read(&bytes("values.pt"), &[]).unwrap();
    assert!(matches!(read.get("w"), Some(Item::Tensor(tensor)) if tensor.shape == [2, 3, 4]));
    let pair = Item::List(vec![Item::Int(1), Item::Int(2)]);
    let values = [
        Item::None,
        Item::Bool(true),
        Item::Int(-1),
        Item::Int(1 << 40),
        Item::Float(1.5),
        Item::Text("é".into()),
        pair,
    ];
    assert_eq!(read.get("n"), Some(&Item::List(values.to_vec())));
}

#[test]
fn what_would_run_code_is_refused_by_name() {
    let error = read(&bytes("hostile.pt"), &[]).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unsupported && error.to_string().contains("`posix.system`"),
        "{error}"
    );
    assert!(!std::path::Path::new("/tmp/easyroutine-was-here").exists());
}

#[test]
fn other_containers_and_endless_values_are_refused() {
    for (name, what) in [
        ("old.pt", "not a zip archive"),
        ("packed.pt", "compressed"),
        ("laughs.pt", "more than"),
        ("endless.pt", "nested more than 64 deep"),
        ("every.safetensors", "not a zip archive"),
    ] {
        let error = read(&bytes(name), &[]).unwrap_err().to_string();
        assert!(error.contains(what), "{name}: {error}");
    }
    assert!(read(&[], &[]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damage_never_panics(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in any::<prop::sample::Index>()) {
        for name in ["every.pt", "values.pt"] {
            let mut file = bytes(name);
            for (at, byte) in &flips {
                let at = at.index(file.len());
                file[at] = *byte;
            }
            let _ = read(&file, &[]);
            let _ = read(&file[..cut.index(file.len())], &[]);
        }
    }
}
