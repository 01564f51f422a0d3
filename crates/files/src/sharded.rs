use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::single::SafeTensorsFile;
use crate::{Error, MappedFile, Result, StoredTensor};

/// Largest index file read, in bytes: about fifty times that of the largest released checkpoint.
const MAX_INDEX: u64 = 256 << 20;

/// A model's safetensors: one file, or several tied together by an index, seen as one set of tensors. Empty by default.
#[derive(Debug, Default)]
pub struct ShardedSafeTensors {
    shards: Vec<SafeTensorsFile>,
    /// Tensor name -> shard.
    places: BTreeMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

impl ShardedSafeTensors {
    /// Opens one safetensors file.
    ///
    /// # Errors
    /// If it cannot be mapped or is not a well-formed safetensors file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_map(MappedFile::open(path)?)
    }

    /// Opens the weights of a model's folder: `model.safetensors`, or all shards of `model.safetensors.index.json`.
    ///
    /// # Errors
    /// If there is neither (pickled weights are refused with a hint at what to do instead); if the index names a shard
    /// that is missing or outside the folder, or a tensor that is not in its shard; or if a shard is malformed.
    pub fn open_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let (whole, index) = (folder.join("model.safetensors"), folder.join("model.safetensors.index.json"));
        if whole.exists() {
            return Self::open(whole);
        }
        if index.exists() {
            return open_index(folder, &index);
        }
        Err(nothing_to_read(folder).within(folder.display()))
    }

    /// Checks that `file` is a complete, well-formed safetensors file: the checks of [`open`](Self::open), for bytes in
    /// memory.
    ///
    /// # Errors
    /// If it is not, with what is wrong.
    pub fn check(file: &[u8]) -> Result<()> {
        crate::single::read_header(file).map(|_| ())
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let (name, &shard) = self.places.get_key_value(name)?;
        self.shards.get(shard)?.tensor(name)
    }

    /// The free text under `__metadata__`, of all shards together; if several have a key, the first counts.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The mapped files, sorted by name.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &MappedFile> {
        self.shards.iter().map(SafeTensorsFile::map)
    }

    pub(crate) fn from_map(map: MappedFile) -> Result<Self> {
        Self::from_shards(vec![SafeTensorsFile::new(map)?])
    }

    fn from_shards(shards: Vec<SafeTensorsFile>) -> Result<Self> {
        let mut places = BTreeMap::new();
        let mut metadata = BTreeMap::new();
        for (number, shard) in shards.iter().enumerate() {
            for name in shard.names() {
                if let Some(first) = places.insert(name.clone(), number) {
                    return Err(Error::malformed(format!(
                        "tensor `{name}` is also in {}: which of the two is meant cannot be known",
                        shards[first].map().path().display()
                    ))
                    .within(shard.map().path().display()));
                }
            }
            for (key, value) in shard.metadata() {
                metadata.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        Ok(ShardedSafeTensors { shards, places, metadata })
    }
}

fn open_index(folder: &Path, index: &Path) -> Result<ShardedSafeTensors> {
    let weight_map = read_weight_map(index).map_err(|e| e.within(index.display()))?;
    let files: BTreeSet<&String> = weight_map.values().collect();
    let mut shards = Vec::with_capacity(files.len());
    for file in &files {
        let path = folder.join(plain_file_name(file).map_err(|e| e.within(index.display()))?);
        if !path.exists() {
            return Err(Error::missing(format!("shard `{file}` is not in the folder; download it"))
                .within(index.display()));
        }
        shards.push(SafeTensorsFile::new(MappedFile::open(path)?)?);
    }
    let view = ShardedSafeTensors::from_shards(shards)?;
    for (name, file) in &weight_map {
        let found = view.places.get(name).and_then(|&shard| files.iter().nth(shard));
        if found != Some(&file) {
            let elsewhere =
                found.map_or_else(|| "no shard has it".to_owned(), |found| format!("it is in `{found}`"));
            return Err(Error::missing(format!(
                "tensor `{name}` is not in `{file}`, where the index puts it; {elsewhere}"
            ))
            .within(index.display()));
        }
    }
    Ok(view)
}

fn read_weight_map(index: &Path) -> Result<BTreeMap<String, String>> {
    let size = std::fs::metadata(index).map_err(|e| Error::io(index, "read the index", e))?.len();
    if size > MAX_INDEX {
        return Err(Error::malformed(format!("is {size} bytes long; {MAX_INDEX} is the limit")));
    }
    let text = std::fs::read(index).map_err(|e| Error::io(index, "read the index", e))?;
    let parsed: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| Error::malformed(e.to_string()))?;
    let map = parsed
        .get("weight_map")
        .and_then(serde_json::Value::as_object)
        .ok_or_else(|| Error::malformed("has no object `weight_map`"))?;
    if map.is_empty() {
        return Err(Error::malformed("`weight_map` is empty"));
    }
    let entry = |(name, file): (&String, &serde_json::Value)| match file.as_str() {
        Some(file) => Ok((name.clone(), file.to_owned())),
        None => Err(Error::malformed(format!("the file of `{name}` is {file}, not a string"))),
    };
    map.iter().map(entry).collect()
}

/// A shard must be a file in the folder itself: an index from the network must not reach others.
fn plain_file_name(file: &str) -> Result<&str> {
    let separators = ['/', '\\', ':', '\0'];
    if file.is_empty() || file == "." || file == ".." || file.contains(separators) {
        return Err(Error::malformed(format!(
            "shard `{}` is not the plain name of a file in the same folder",
            file.escape_debug()
        )));
    }
    Ok(file)
}

fn nothing_to_read(folder: &Path) -> Error {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Error::missing("is not a folder that can be read");
    };
    let pickle = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| crate::container::is_pickle_name(name))
        .min();
    match pickle {
        Some(pickle) => crate::container::refuse_pickle(&pickle),
        None => Error::missing("has neither `model.safetensors` nor `model.safetensors.index.json`"),
    }
}
