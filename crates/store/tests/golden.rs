//! Stores written by earlier versions stay readable forever. `EASYROUTINE_WRITE_GOLDEN=1` writes this version's, once.

use crate::common;

use std::path::{Path, PathBuf};

use common::{all_whole, contents, provenance};
use easyroutine_store::{
    ActivationLoader, ActivationSaver, Contents, Dtype, Edit, Provenance, Query, Store, Tensor, VERSION,
    Value,
};
use serde_json::json;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/store")
}

fn write(base: &Path) {
    let saver = ActivationSaver::new(base, "golden").unwrap();
    let first = saver.save(&contents(1), &provenance(1)).unwrap();
    saver
        .store()
        .edit(&first, &[Edit::Tag("late".to_owned()), Edit::Set("note".to_owned(), json!("é"))], None)
        .unwrap();
    let mut many = contents(2);
    let bytes: Vec<u8> = (0..64).collect();
    for dtype in Dtype::ALL {
        let n = 64 / dtype.size();
        many.tensors.push(Tensor::new(format!("of_{dtype}"), dtype, &[n], bytes.clone()));
    }
    let interventions = Value::List(vec![Value::Tensor(Tensor::f32("v", &[2], &[1.0, -1.0]))]);
    let provenance = Provenance { interventions: Some(interventions), ..provenance(2) };
    saver.with_shard_bytes(150).save(&Contents { ..many }, &provenance).unwrap();
}

#[test]
fn stores_of_every_version_open() {
    let ours = folder().join(format!("v{VERSION}"));
    if std::env::var_os("EASYROUTINE_WRITE_GOLDEN").is_some() {
        write(&ours);
    }
    let mut seen = 0;
    for version in 1..=VERSION {
        let store = Store::open(folder().join(format!("v{version}"))).unwrap();
        let scan = all_whole(&store).unwrap();
        assert_eq!(scan.runs.len(), 2, "version {version}");
        let loader = ActivationLoader::of(store, "golden");
        let late = loader.query(&Query { tags: vec!["late".to_owned()], ..Query::default() }).unwrap();
        assert_eq!(late.get(0).unwrap().metadata.get("note"), Some(&json!("é")));
        let second = loader
            .query(&Query { tags: vec!["tag_2".to_owned()], ..Query::default() })
            .unwrap()
            .load(0)
            .unwrap();
        for dtype in Dtype::ALL {
            let read = second.read(&format!("of_{dtype}")).unwrap();
            assert_eq!((read.dtype, &read.bytes[..]), (dtype, &(0..64).collect::<Vec<u8>>()[..]));
        }
        assert_eq!(second.read("aux/interventions.0").unwrap().to_f32().unwrap(), [1.0, -1.0]);
        assert!(second.manifest().shards.len() > 2);
        seen += 1;
    }
    assert_eq!(seen, VERSION);
}
