//! Writing a model as a Hugging Face folder that transformers reads to the same logits.

mod partial;

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use easyroutine_kernels::Dtype;
use safetensors::View;
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::load::Opened;
use crate::weights::{Checkpoint, Tensor};

impl Opened {
    /// Writes config.json and model.safetensors into a folder, every tensor under its checkpoint's name with the
    /// container's storage undone. The weights are written to a folder beside them first and renamed when whole; nothing is
    /// replaced. Where `stop` becomes true it ends before the next tensor, and leaves nothing behind.
    ///
    /// # Errors
    /// A folder that holds a model already, or that cannot be written; `Interrupted`.
    pub fn export(&self, folder: &Path, dtype: Dtype, stop: Option<&AtomicBool>) -> Result<()> {
        let [config_path, weights_path] = ["config.json", "model.safetensors"].map(|name| folder.join(name));
        if let Some(taken) = [&config_path, &weights_path].into_iter().find(|path| path.exists()) {
            return Err(Error::new(ErrorKind::Io, format!("{} exists already", taken.display()))
                .hint("choose an empty folder"));
        }
        std::fs::create_dir_all(folder).map_err(|e| io(folder, e))?;
        self.write_weights(&weights_path, dtype, stop)?;
        let mut config = self.config.clone();
        config.remove("torch_dtype");
        let name = match dtype {
            Dtype::F32 => "float32",
            Dtype::Bf16 => "bfloat16",
        };
        config.insert("dtype".to_owned(), Value::from(name));
        let text = serde_json::to_string_pretty(&Value::Object(config))
            .map_err(|e| Error::new(ErrorKind::Config, format!("config.json: {e}")))?;
        let mut file = std::fs::File::create_new(&config_path).map_err(|e| io(&config_path, e))?;
        file.write_all((text + "\n").as_bytes()).map_err(|e| io(&config_path, e))
    }

    fn write_weights(&self, path: &Path, dtype: Dtype, stop: Option<&AtomicBool>) -> Result<()> {
        let failure = RefCell::new(None);
        let names = self.checkpoint.names(self.reading.names.ignored);
        let mut tensors = Vec::with_capacity(names.len());
        for name in names {
            let exported = Exported {
                checkpoint: &self.checkpoint,
                name,
                shape: self.checkpoint.by_name(name)?.shape().to_vec(),
                dtype,
                failure: &failure,
                stop,
            };
            tensors.push((name, exported));
        }
        let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
        // The crate writes beside its target under a name of its own, for the owner alone, and replaces what is there.
        let folder = path.parent().unwrap_or(Path::new("."));
        let partial = partial::Partial::new(folder).map_err(|e| io(folder, e))?;
        let whole = partial.path().join("model.safetensors");
        let usual = std::fs::File::create(partial.path().join("usual")).and_then(|f| f.metadata());
        let usual = usual.map_err(|e| io(partial.path(), e))?;
        let written = safetensors::serialize_to_file(tensors, metadata, &whole);
        if let Some(error) = failure.into_inner() {
            return Err(error);
        }
        self.checkpoint.check_unchanged()?;
        written.map_err(|e| Error::new(ErrorKind::Io, format!("{}: {e}", path.display())))?;
        std::fs::set_permissions(&whole, usual.permissions()).map_err(|e| io(path, e))?;
        publish(&whole, path)
    }

    /// Tensors that hold values which are no finite numbers: name, how many, and the index of the first.
    ///
    /// # Errors
    /// A tensor that cannot be read.
    pub fn non_finite(&self) -> Result<Vec<(String, usize, usize)>> {
        let mut found = Vec::new();
        for name in self.checkpoint.names(self.reading.names.ignored) {
            let tensor = self.checkpoint.by_name(name)?;
            let (rows, length) = tensor.rows();
            let mut row = vec![0.0; length];
            let (mut count, mut first) = (0, None);
            for i in 0..rows {
                tensor.read_row(i, &mut row)?;
                for (column, _) in row.iter().enumerate().filter(|(_, x)| !x.is_finite()) {
                    count += 1;
                    first = first.or(Some(i * length + column));
                }
            }
            tensor.drop_pages();
            found.extend(first.map(|first| (name.to_owned(), count, first)));
        }
        self.checkpoint.check_unchanged()?;
        Ok(found)
    }

    /// Number of weights, tied ones counted once.
    ///
    /// # Errors
    /// A tensor that the file names but does not hold.
    pub fn parameters(&self) -> Result<usize> {
        let names = self.checkpoint.names(self.reading.names.ignored);
        let mut sum = 0;
        for name in names {
            sum += self.checkpoint.by_name(name)?.shape().iter().product::<usize>();
        }
        Ok(sum)
    }
}

/// One tensor as it is written; decoded only when its turn comes.
struct Exported<'a> {
    checkpoint: &'a Checkpoint,
    name: &'a str,
    shape: Vec<usize>,
    dtype: Dtype,
    failure: &'a RefCell<Option<Error>>,
    stop: Option<&'a AtomicBool>,
}

impl View for Exported<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        match self.dtype {
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::Bf16 => safetensors::Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            let stopped =
                Error::new(ErrorKind::Interrupted, "interrupted before the last tensor was written");
            self.failure.borrow_mut().get_or_insert(stopped);
        }
        // The file is thrown away: the rest of it need not be written.
        if self.failure.borrow().is_some() {
            return Cow::Borrowed(&[]);
        }
        let decoded = self.checkpoint.by_name(self.name).and_then(|tensor| {
            let values = tensor.read_all();
            Tensor::drop_pages(&tensor);
            values
        });
        match decoded {
            Ok(values) => Cow::Owned(encode(&values, self.dtype)),
            // The trait cannot fail; the error is kept and the file thrown away.
            Err(error) => {
                self.failure.borrow_mut().get_or_insert(error);
                Cow::Borrowed(&[])
            }
        }
    }

    fn data_len(&self) -> usize {
        let width = if self.dtype == Dtype::F32 { 4 } else { 2 };
        self.shape.iter().product::<usize>() * width
    }
}

/// Gives a whole file its name, unless another process gave it to its own meanwhile.
fn publish(whole: &Path, path: &Path) -> Result<()> {
    let whole = tempfile::TempPath::try_from_path(whole.to_owned()).map_err(|e| io(path, e))?;
    whole.persist_noclobber(path).map_err(|e| io(path, e.error))
}

fn encode(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::Bf16 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
    }
}

fn io(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("{}: {error}", path.display())).because(error)
}
