//! Files of directions: safetensors, and GGUF control vectors for llama.cpp.

use std::collections::BTreeMap;
use std::path::Path;

use easyroutine::{Error, ErrorKind, Result};
use easyroutine_files::{Container, HeaderEntry, ShardedSafeTensors, StoredTensor, safetensors_head};
use serde_json::{Map, Value, json};

const SCHEMA: &str = "easyroutine.directions/1";
/// Where llama.cpp adds control vectors.
const CONTROLLED: &str = "resid_out";
/// Alignment of numbers in a GGUF file, in bytes.
const ALIGNMENT: usize = 32;

/// Directions for the layers of one model, all at one site.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Directions {
    /// The site: `resid_out`. Empty if a file does not say.
    pub site: String,
    /// The fitting method: `caa`, `pca_diff`, `pca_center`, `logistic`, `mean_difference`. Empty if a file does not
    /// say.
    pub method: String,
    /// Other metadata of the file: model, position, data.
    pub about: BTreeMap<String, String>,
    /// The direction of each layer.
    pub layers: BTreeMap<usize, LayerDirection>,
}

/// The direction of one layer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LayerDirection {
    /// `[width]`
    pub vector: Vec<f32>,
    /// For a probe: positive where vector · x + bias is above 0.
    pub bias: Option<f32>,
}

impl Directions {
    /// The bytes of a safetensors file: `direction_N` `[width]` and, for probes, `bias_N` `[1]` for each layer N.
    ///
    /// # Errors
    /// If there are no layers, or vectors differ in width or are not finite.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        self.check()?;
        let own = [("schema", SCHEMA), ("method", &self.method), ("site", &self.site)];
        let own = own.into_iter().map(|(key, value)| (key.to_owned(), json!(value)));
        let about = self.about.iter().map(|(key, value)| (key.clone(), json!(value)));
        let metadata: Map<String, Value> = about.chain(own).collect();
        let mut tensors: Vec<(String, &[f32])> = Vec::new();
        for (number, layer) in &self.layers {
            tensors.push((format!("direction_{number}"), &layer.vector));
            if let Some(bias) = &layer.bias {
                tensors.push((format!("bias_{number}"), std::slice::from_ref(bias)));
            }
        }
        let shapes: Vec<[usize; 1]> = tensors.iter().map(|(_, values)| [values.len()]).collect();
        let entries = tensors.iter().zip(&shapes).map(|((name, values), shape)| HeaderEntry {
            name,
            dtype: "F32".to_owned(),
            shape,
            bytes: size_of_val(*values),
        });
        let mut file = safetensors_head(metadata, entries, 8);
        for (_, values) in &tensors {
            values.iter().for_each(|x| file.extend(x.to_le_bytes()));
        }
        Ok(file)
    }

    /// The bytes of a GGUF control vector, with `direction.N` for each layer N. llama.cpp adds it to the output of
    /// block N, our `resid_out_N`, and does not support block 0 (`common_control_vector_load`). `hint` names the
    /// architecture.
    ///
    /// # Errors
    /// As [`Directions::to_safetensors`], and if the site is not `resid_out`, or there is a direction for block 0 or a
    /// bias.
    pub fn to_control_vector(&self, hint: &str) -> Result<Vec<u8>> {
        self.check()?;
        let site = if self.site.is_empty() { CONTROLLED } else { &self.site };
        self.layers.keys().try_for_each(|layer| check_control_vector(site, Some(*layer)))?;
        if self.layers.values().any(|layer| layer.bias.is_some()) {
            return Err(Error::input("a control vector has no bias, and a probe does")
                .hint("write a .safetensors file"));
        }
        let mut file = b"GGUF".to_vec();
        let text = |file: &mut Vec<u8>, text: &str| {
            file.extend((text.len() as u64).to_le_bytes());
            file.extend(text.as_bytes());
        };
        file.extend(3u32.to_le_bytes());
        file.extend((self.layers.len() as u64).to_le_bytes());
        file.extend(3u64.to_le_bytes());
        for (key, value) in [("general.architecture", "controlvector"), ("controlvector.model_hint", hint)] {
            text(&mut file, key);
            // The type of a string.
            file.extend(8u32.to_le_bytes());
            text(&mut file, value);
        }
        text(&mut file, "controlvector.layer_count");
        // The type of a u32.
        file.extend(4u32.to_le_bytes());
        file.extend((self.layers.len() as u32).to_le_bytes());
        let mut offset = 0;
        for (number, layer) in &self.layers {
            text(&mut file, &format!("direction.{number}"));
            file.extend(1u32.to_le_bytes());
            file.extend((layer.vector.len() as u64).to_le_bytes());
            // F32
            file.extend(0u32.to_le_bytes());
            file.extend((offset as u64).to_le_bytes());
            offset += size_of_val(&layer.vector[..]).next_multiple_of(ALIGNMENT);
        }
        for layer in self.layers.values() {
            file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
            layer.vector.iter().for_each(|x| file.extend(x.to_le_bytes()));
        }
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        Ok(file)
    }

    /// Reads a safetensors file or a control vector, according to its extension.
    ///
    /// # Errors
    /// If the file cannot be read or has another extension, a tensor is neither a direction nor a bias, a bias has no
    /// direction, or vectors differ in width or are not finite.
    pub fn open(path: &Path) -> Result<Directions> {
        let named = |e: Error| e.at(path.display());
        let mut found = match path.extension().and_then(|ending| ending.to_str()) {
            Some("gguf") => {
                let file = Container::open(path)?;
                let names = file.names().into_iter().map(str::to_owned).collect::<Vec<_>>();
                let found = of_tensors(&names, "direction.", "", |name| file.tensor(name)).map_err(&named)?;
                file.check_unchanged()?;
                Directions { about: stated_in(&file).map_err(&named)?, ..found }
            }
            Some("safetensors") => {
                let file = ShardedSafeTensors::open(path)?;
                let names: Vec<String> = file.names().map(str::to_owned).collect();
                let found =
                    of_tensors(&names, "direction_", "bias_", |name| file.tensor(name)).map_err(&named)?;
                file.files().try_for_each(|file| file.check_unchanged())?;
                Directions { about: file.metadata().clone(), ..found }
            }
            _ => {
                let what = format!("{}: directions are .safetensors or .gguf files", path.display());
                return Err(Error::input(what));
            }
        };
        found.about.remove("schema");
        found.method = found.about.remove("method").unwrap_or_default();
        found.site = found.about.remove("site").unwrap_or_default();
        found.check().map_err(&named)?;
        Ok(found)
    }

    fn check(&self) -> Result<()> {
        let mut widths = self.layers.values().map(|layer| layer.vector.len());
        let first = widths.next().unwrap_or(0);
        if first == 0 || widths.any(|width| width != first) {
            return Err(wrong("the directions of all layers have one width, and there is at least one"));
        }
        let is_finite =
            |layer: &LayerDirection| layer.vector.iter().chain(layer.bias.as_ref()).all(|x| x.is_finite());
        match self.layers.iter().find(|(_, layer)| !is_finite(layer)) {
            Some((number, _)) => Err(wrong(format!("the direction of layer {number} is not finite"))),
            None => Ok(()),
        }
    }
}

/// Whether a control vector has a direction for this place.
///
/// # Errors
/// Another site than `resid_out`, block 0.
pub fn check_control_vector(site: &str, layer: Option<usize>) -> Result<()> {
    if site != CONTROLLED {
        let what = format!("control vectors are added to {CONTROLLED}; these are of {site}");
        return Err(Error::input(what).hint("write a .safetensors file"));
    }
    match layer {
        Some(0) => Err(Error::input("a control vector has no direction for block 0")
            .hint("leave the first layer out: resid_out_1:")),
        _ => Ok(()),
    }
}

/// What a file of directions says of itself beside its vectors: `model`, `model_digest`, `position`, `data`, `method`, `site`;
/// of a control vector `model_type`, the architecture that it is for. Nothing of a file that says nothing.
///
/// # Errors
/// A file that cannot be read.
pub fn stated(path: &Path) -> Result<BTreeMap<String, String>> {
    stated_in(&Container::open(path)?)
}

fn stated_in(file: &Container) -> Result<BTreeMap<String, String>> {
    Ok(match file {
        Container::SafeTensors(file) => file.metadata().clone(),
        Container::Gguf(file) => {
            let hint = file.gguf().str("controlvector.model_hint")?;
            hint.map(|hint| ("model_type".to_owned(), hint.to_owned())).into_iter().collect()
        }
    })
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Format, what.into())
}

/// Directions from tensors with this name prefix; `None` for biases means there are none.
fn of_tensors<'f>(
    names: &[String],
    directions: &str,
    biases: &str,
    tensor: impl Fn(&str) -> Option<StoredTensor<'f>>,
) -> Result<Directions> {
    let mut found = Directions::default();
    let number = |name: &str, start: &str| -> Option<usize> {
        name.strip_prefix(start).filter(|_| !start.is_empty())?.parse::<u16>().ok().map(usize::from)
    };
    for name in names {
        let shown = || name.escape_debug();
        let Some(stored) = tensor(name) else { continue };
        if stored.shape().len() != 1 {
            return Err(wrong(format!("`{}` is not a vector: its shape is {:?}", shown(), stored.shape())));
        }
        let values = stored.read_all()?;
        if let Some(layer) = number(name, directions) {
            found.layers.entry(layer).or_default().vector = values;
        } else if let (Some(layer), [bias]) = (number(name, biases), values.as_slice()) {
            found.layers.entry(layer).or_default().bias = Some(*bias);
        } else {
            return Err(wrong(format!("`{}` is neither {directions}N nor a bias of one number", shown())));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directions() -> Directions {
        let layer = |vector: [f32; 3]| LayerDirection { vector: vector.to_vec(), bias: None };
        Directions {
            site: "resid_out".to_owned(),
            method: "caa".to_owned(),
            about: BTreeMap::from([("model".to_owned(), "m".to_owned())]),
            layers: BTreeMap::from([(1, layer([1.0, -2.5, 3.0])), (10, layer([0.0, 1e-9, -4.0]))]),
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_a_file_that_is_cut_off_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut probe = directions();
        probe.layers.get_mut(&10).unwrap().bias = Some(-0.5);
        for (name, bytes, expected) in [
            ("v.safetensors", directions().to_safetensors().unwrap(), directions()),
            ("p.safetensors", probe.to_safetensors().unwrap(), probe.clone()),
            (
                "v.gguf",
                directions().to_control_vector("model").unwrap(),
                Directions {
                    layers: directions().layers,
                    about: BTreeMap::from([("model_type".to_owned(), "model".to_owned())]),
                    ..Directions::default()
                },
            ),
        ] {
            let file = folder.path().join(name);
            std::fs::write(&file, &bytes).unwrap();
            assert_eq!(Directions::open(&file).unwrap(), expected, "{name}");
            for length in 0..bytes.len() {
                std::fs::write(&file, &bytes[..length]).unwrap();
                // Padding after the last vector of a control vector fills its block.
                let is_whole = name == "v.gguf" && length + 20 >= bytes.len();
                assert!(is_whole || Directions::open(&file).is_err(), "{name}: {length}");
            }
        }
    }

    #[test]
    fn what_a_control_vector_cannot_hold_is_refused_by_name() {
        let refused = |change: &dyn Fn(&mut Directions), words: &str| {
            let mut changed = directions();
            change(&mut changed);
            let error = changed.to_control_vector("model").unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        refused(
            &|d| drop(d.layers.insert(0, LayerDirection { vector: vec![0.0; 3], bias: None })),
            "block 0",
        );
        refused(&|d| d.site = "mlp_out".to_owned(), "mlp_out");
        refused(&|d| d.layers.get_mut(&1).unwrap().bias = Some(1.0), "bias");
        refused(&|d| d.layers.get_mut(&1).unwrap().vector[0] = f32::NAN, "layer 1 is not finite");
        refused(&|d| d.layers.get_mut(&1).unwrap().vector.truncate(2), "one width");
        refused(&|d| d.layers.clear(), "at least one");
    }

    #[test]
    fn tensors_that_are_no_directions_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("v.safetensors");
        let bytes = directions().to_safetensors().unwrap();
        for (from, to, words) in [
            ("direction_10", "directiom_10", "directiom_10"),
            ("[3]", "[ ]", "v.safetensors"),
            ("direction_10", "bias_1000000", "bias_1000000"),
        ] {
            let head = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
            let mut bytes = bytes.clone();
            bytes[head..head + from.len()].copy_from_slice(to.as_bytes());
            std::fs::write(&file, bytes).unwrap();
            let error = Directions::open(&file).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let other = folder.path().join("v.pt");
        assert!(Directions::open(&other).unwrap_err().to_string().contains(".safetensors or .gguf"));
    }
}
