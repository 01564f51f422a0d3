use std::path::Path;

use crate::{Error, GgufFile, MappedFile, Result, ShardedSafeTensors, StoredTensor, gguf};

/// A model's weights, in either container format.
#[derive(Debug)]
pub enum Container {
    /// One safetensors file, or the shards of a folder.
    SafeTensors(ShardedSafeTensors),
    /// One GGUF file, or the parts of a split one.
    Gguf(GgufFile),
}

impl Container {
    /// Opens a folder ([`ShardedSafeTensors::open_folder`]) or a file: GGUF by its first bytes, safetensors otherwise.
    ///
    /// # Errors
    /// If there is nothing readable, the file is malformed, or its format is not supported. Pickled weights are refused
    /// with a hint at what to do instead.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            return ShardedSafeTensors::open_folder(path).map(Container::SafeTensors);
        }
        let map = MappedFile::open(path)?;
        if map.bytes().starts_with(gguf::MAGIC) {
            return GgufFile::new(map).map(Container::Gguf);
        }
        refuse_other_formats(&map).map_err(|e| e.within(path.display()))?;
        ShardedSafeTensors::from_map(map).map(Container::SafeTensors)
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Container::SafeTensors(shards) => shards.names().collect(),
            Container::Gguf(file) => file.names().collect(),
        }
    }

    /// Checks that its files are unchanged since they were opened.
    ///
    /// # Errors
    /// As [`MappedFile::check_unchanged`], for the first changed file.
    pub fn check_unchanged(&self) -> Result<()> {
        self.files().into_iter().try_for_each(MappedFile::check_unchanged)
    }

    /// The files that hold it.
    pub fn files(&self) -> Vec<&MappedFile> {
        match self {
            Container::SafeTensors(shards) => shards.files().collect(),
            Container::Gguf(file) => file.files().collect(),
        }
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        match self {
            Container::SafeTensors(shards) => shards.tensor(name),
            Container::Gguf(file) => file.tensor(name),
        }
    }
}

fn refuse_other_formats(map: &MappedFile) -> Result<()> {
    let bytes = map.bytes();
    let name = map.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let has_ending =
        |ending: &str| Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case(ending));
    if bytes.is_empty() {
        return Err(Error::malformed("is empty. Is the download complete?"));
    }
    if has_ending("gguf") {
        return Err(Error::malformed("does not begin with `GGUF`, so it is not a GGUF file"));
    }
    if has_ending("safetensors") {
        return Ok(());
    }
    // A zip archive (as torch.save writes) or a bare pickle of protocol 2 or later.
    let pickled = bytes.starts_with(b"PK\x03\x04") || matches!(bytes, [0x80, 2..=5, ..]);
    if pickled || is_pickle_name(name) {
        return Err(refuse_pickle(name));
    }
    // A safetensors header is a length below 2^32 and an object.
    if matches!(bytes, [_, _, _, _, 0, 0, 0, 0, b'{', ..]) {
        return Ok(());
    }
    Err(Error::unsupported("is neither safetensors nor GGUF"))
}

pub(crate) fn is_pickle_name(name: &str) -> bool {
    let index = name.ends_with(".bin.index.json");
    let weights = Path::new(name).extension().is_some_and(|ending| {
        ["bin", "pt", "pth", "ckpt", "pkl"].iter().any(|pickle| ending.eq_ignore_ascii_case(pickle))
    });
    index || weights && !matches!(name, "training_args.bin" | "optimizer.bin" | "scheduler.bin")
}

pub(crate) fn refuse_pickle(name: &str) -> Error {
    Error::unsupported(format!(
        "`{name}` holds pickled weights, which can run code when read, so they are never opened. Convert them to \
         safetensors: load the model with transformers and call `save_pretrained(folder)`, or take a revision of the \
         repository that has `model.safetensors`"
    ))
}
