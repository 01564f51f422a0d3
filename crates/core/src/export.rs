//! Writes a model as a Hugging Face folder from which transformers computes the same logits.

mod partial;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use easyroutine_files::Encoding;
use easyroutine_kernels::Dtype;
use safetensors::View;
use serde_json::Value;

use crate::arch::UnembedMatrix;
use crate::error::{Error, ErrorKind, Result};
use crate::load::{LoadOptions, Opened};
use crate::names::{Axes, Names};
use crate::stop::Stop;
use crate::weights::Checkpoint;

impl Opened {
    /// Writes config.json and model.safetensors into a folder, every tensor under its checkpoint name, with the
    /// container's storage undone and the adapter merged. Weights are first written to a temporary folder within it,
    /// then renamed; nothing is replaced. If `stop` becomes true, export ends before the next tensor and leaves nothing
    /// behind.
    ///
    /// # Errors
    /// If the folder already holds a model or cannot be written; `Interrupted` if it was stopped.
    pub fn export(&self, folder: &Path, dtype: Dtype, stop: Stop<'_>) -> Result<()> {
        let [config_path, weights_path] = ["config.json", "model.safetensors"].map(|name| folder.join(name));
        if let Some(taken) = [&config_path, &weights_path].into_iter().find(|path| path.exists()) {
            return Err(Error::new(ErrorKind::Io, format!("{} exists already", taken.display()))
                .hint("choose an empty folder"));
        }
        self.check_mergeable()?;
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

    /// The values of a tensor, including the adapter's update.
    fn merged(&self, name: &str) -> Result<Vec<f32>> {
        merged(&self.checkpoint, &self.reading.names, name)
    }

    /// Refuses what a merged folder of this class cannot represent.
    fn check_mergeable(&self) -> Result<()> {
        let Some(adapter) = self.checkpoint.adapter() else { return Ok(()) };
        let names = &self.reading.names;
        let has = |name: &str| self.checkpoint.has(names.prefix, name);
        let lost: Vec<&str> = (adapter.biased())
            .filter(|module| !has(&format!("{}.bias", module.strip_prefix(names.prefix).unwrap_or(module))))
            .collect();
        let tables = [names.embed, names.unembed];
        let is_tied = self.reading.arch.unembed.matrix == UnembedMatrix::Tied;
        let touches_pair =
            is_tied && tables.iter().any(|table| self.checkpoint.has_update(names.prefix, table));
        if lost.is_empty() && !touches_pair {
            return Ok(());
        }
        let what = match touches_pair {
            true => "it changes one table of a tied pair".to_owned(),
            false => format!("it adds biases to {}, which have none", crate::error::list(&lost)),
        };
        let message = format!("the adapter cannot be merged into a model of this class: {what}");
        Err(Error::new(ErrorKind::Unsupported, message).hint("--no-adapter exports the base model"))
    }

    fn write_weights(&self, path: &Path, dtype: Dtype, stop: Stop<'_>) -> Result<()> {
        let failure = RefCell::new(None);
        let names = self.checkpoint.names_of_all_parts(&self.reading.names);
        let mut tensors = Vec::with_capacity(names.len());
        for name in names {
            let exported = Exported {
                opened: self,
                name,
                shape: self.checkpoint.current(self.reading.names.prefix, name)?.shape().to_vec(),
                dtype,
                failure: &failure,
                stop,
            };
            tensors.push((name, exported));
        }
        let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
        // The crate writes next to its target under its own temporary name, readable only by the owner, and replaces
        // existing files.
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

    /// Tensors with values that are not finite: name, how many, and the index of the first.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn non_finite(&self) -> Result<Vec<(String, usize, usize)>> {
        let mut found = Vec::new();
        for name in self.checkpoint.names(&self.reading.names) {
            let tensor = self.checkpoint.current(self.reading.names.prefix, name)?;
            let (mut count, mut first) = (0, None);
            tensor.each_row(|i, row| {
                for (column, _) in row.iter().enumerate().filter(|(_, x)| !x.is_finite()) {
                    count += 1;
                    first = first.or(Some(i * row.len() + column));
                }
            })?;
            tensor.drop_pages();
            found.extend(first.map(|first| (name.to_owned(), count, first)));
        }
        self.checkpoint.check_unchanged()?;
        Ok(found)
    }

    /// Number of weights, tied ones counted once.
    ///
    /// # Errors
    /// If the file names a tensor but does not hold it.
    pub fn parameters(&self) -> Result<usize> {
        let names = self.checkpoint.names(&self.reading.names);
        let mut sum = 0;
        for name in names {
            sum += self.checkpoint.by_name(name)?.shape().iter().product::<usize>();
        }
        Ok(sum)
    }

    /// Bytes that the weights take in memory once all are packed. For f32 they keep the file's encoding, unless no
    /// product reads it, in which case they are widened; for bf16 they are rounded. The few numbers of norms and biases
    /// are f32.
    ///
    /// # Errors
    /// If the file names a tensor but does not hold it.
    pub fn weight_bytes(&self, dtype: Dtype) -> Result<u64> {
        let names = self.checkpoint.names(&self.reading.names);
        let bytes = names.into_iter().map(|name| Ok(self.checkpoint.by_name(name)?.packed_bytes(dtype)));
        bytes.sum()
    }

    /// Every tensor, and what it is in memory where products are in f32: as it is stored, or widened. All weights are looked
    /// for, as a load does.
    ///
    /// # Errors
    /// As [`Opened::build`].
    pub fn in_memory(self, options: &LoadOptions) -> Result<Vec<InMemory>> {
        let (checkpoint, names) = (Arc::clone(&self.checkpoint), self.reading.names.clone());
        // What it holds is kept until the end: nothing is said of a checkpoint that is not whole.
        let _model = self.build(&LoadOptions { dtype: Dtype::F32, memory: None, ..options.clone() })?;
        let widened = checkpoint.widened();
        let tensor = |name: &str| {
            let tensor = checkpoint.by_name(name)?;
            let stored = tensor.encoding();
            let widened = widened.get(name).copied().filter(|_| stored != Encoding::F32);
            let (name, shape) = (name.to_owned(), tensor.shape().to_vec());
            Ok(InMemory { name, shape, encoding: stored.to_string(), widened })
        };
        checkpoint.names(&names).into_iter().map(tensor).collect()
    }

    /// The number of tensors in each encoding, by its name.
    ///
    /// # Errors
    /// If the file names a tensor but does not hold it.
    pub fn encodings(&self) -> Result<BTreeMap<String, usize>> {
        let mut counts = BTreeMap::new();
        for name in self.checkpoint.names(&self.reading.names) {
            let encoding = self.checkpoint.by_name(name)?.encoding();
            *counts.entry(encoding.to_string()).or_default() += 1;
        }
        Ok(counts)
    }
}

/// The values of a tensor of a checkpoint, including its adapter's update.
pub(crate) fn merged(checkpoint: &Checkpoint, names: &Names, name: &str) -> Result<Vec<f32>> {
    let tensor = checkpoint.current(names.prefix, name)?;
    let mut values = tensor.read_all()?;
    tensor.drop_pages();
    let (Some(module), &[first, second]) = (name.strip_suffix(".weight"), tensor.shape()) else {
        return with_bias_of_update(checkpoint, names, name, values);
    };
    let module = module.strip_prefix(names.prefix).unwrap_or(module);
    let axes = names.axes_of(module);
    let (outputs, inputs) = if axes == Axes::OutIn { (first, second) } else { (second, first) };
    let is_table = module == names.embed || module == names.unembed;
    let update = match is_table {
        true => checkpoint.low_rank_of_table(names.prefix, module, outputs, inputs)?,
        false => checkpoint.low_rank(names.prefix, module, outputs, inputs)?,
    };
    let Some(update) = update else { return Ok(values) };
    let mut row = vec![0.0; inputs];
    for output in 0..outputs {
        row.fill(0.0);
        update.add_row(output, &mut row);
        for (input, x) in row.iter().enumerate() {
            let place = if axes == Axes::OutIn { output * inputs + input } else { input * outputs + output };
            values[place] += x;
        }
    }
    Ok(values)
}

/// A bias, including the one that the adapter adds.
fn with_bias_of_update(
    checkpoint: &Checkpoint,
    names: &Names,
    name: &str,
    mut values: Vec<f32>,
) -> Result<Vec<f32>> {
    let Some(module) = name.strip_suffix(".bias") else { return Ok(values) };
    let module = module.strip_prefix(names.prefix).unwrap_or(module);
    if let Some(bias) = checkpoint.bias_of_update(names.prefix, module, values.len())? {
        values.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    }
    Ok(values)
}

/// A tensor, and what becomes of it in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InMemory {
    /// Its name, as the family spells it.
    pub name: String,
    /// Sizes of its axes, slowest first.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub encoding: String,
    /// Why it is widened to f32, if it is.
    pub widened: Option<&'static str>,
}

/// One tensor to write, decoded only when its turn comes.
struct Exported<'a> {
    opened: &'a Opened,
    name: &'a str,
    shape: Vec<usize>,
    dtype: Dtype,
    failure: &'a RefCell<Option<Error>>,
    stop: Stop<'a>,
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
        if self.stop.is_due() {
            let stopped =
                Error::new(ErrorKind::Interrupted, "interrupted before the last tensor was written");
            self.failure.borrow_mut().get_or_insert(stopped);
        }
        // The file will be discarded, so the rest of it need not be written.
        if self.failure.borrow().is_some() {
            return Cow::Borrowed(&[]);
        }
        match self.opened.merged(self.name) {
            Ok(values) => Cow::Owned(encode(&values, self.dtype)),
            // The trait cannot fail; keep the error and discard the file.
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

/// Gives a finished file its name, unless another process has taken the name meanwhile.
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
