//! Qwen-Scope: `SAE-Res-MODEL-W32K-L0_64/layer5.sae.pt`. Only these names give place, width and k.

use std::path::{Path, PathBuf};

use easyroutine::Result;
use easyroutine_sites::{Point, Site};

use super::draft::{Context, Draft, Reading};
use crate::activation::Activation;
use crate::place::Place;
use crate::tensors::Axes;

/// How the name of its file ends.
pub(super) const ENDING: &str = ".sae.pt";

/// The one file of a folder that holds one.
pub(super) fn sign(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten().take(10_000);
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with(ENDING)).collect();
    files.sort();
    files.into_iter().next()
}

pub(crate) fn read(context: &mut Context<'_>) -> Result<Option<Reading>> {
    let file = context.file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let whole = std::path::absolute(&context.folder).unwrap_or_else(|_| context.folder.clone());
    // In the hub's cache the name is that of the repository, two folders above: models--Qwen--SAE-Res-…/snapshots/COMMIT.
    let names = whole.components().rev().take(3).map(|part| part.as_os_str().to_string_lossy().into_owned());
    let mut names = names.collect::<Vec<_>>().into_iter();
    let nearest = names.next().unwrap_or_default();
    let folder = match Declared::of(&nearest) {
        Some(_) => nearest,
        None => names.find(|name| Declared::of(name).is_some()).unwrap_or(nearest),
    };
    let several = std::fs::read_dir(&context.folder)
        .map(|entries| {
            entries.flatten().take(10_000).filter(|e| e.path().to_string_lossy().ends_with(ENDING)).count()
        })
        .unwrap_or(0);
    // A named folder must have one; with several, the file must be named.
    if several > 1 {
        context.warnings.push(format!("{several} layers lie in this folder; this is {file}"));
    }
    let mut tensors = context.tensors(&file)?;
    let Some((features, width)) = tensors.sizes("W_enc", Axes::FeaturesFirst) else { return Ok(None) };
    let encoder = tensors.matrix("W_enc", Axes::FeaturesFirst, features, width);
    let decoder = tensors.matrix("W_dec", Axes::WidthFirst, features, width);
    let encoder_bias = tensors.vector("b_enc", features, "feature");
    let decoder_bias = tensors.vector("b_dec", width, "coordinate");
    tensors.finish();

    let layer = file.strip_prefix("layer").and_then(|rest| rest.strip_suffix(ENDING)?.parse::<u32>().ok());
    let declared = Declared::of(&folder);
    if declared.is_none() {
        context.problems.add(format!(
            "its folder is called `{}`; k and the place are read from a name such as SAE-Res-MODEL-W32K-L0_64",
            folder.escape_debug()
        ));
    }
    let place = layer.ok_or_else(|| format!("`{}` names no layer", file.escape_debug()));
    let place = context.place(place.map(|layer| Place::of(Point::layer_of(Site::ResidOut, layer as usize))));
    let (Some(declared), Some(encoder), Some(encoder_bias), Some(decoder), Some(decoder_bias)) =
        (declared, encoder, encoder_bias, decoder, decoder_bias)
    else {
        return Ok(None);
    };
    if declared.width != features {
        context.problems.add(format!("its folder says {} features, but it has {features}", declared.width));
    }
    context.figures.push(("l0".to_owned(), declared.k as f64));
    let activation = Activation::TopK { k: declared.k };
    let draft = Draft::new((encoder, encoder_bias), (decoder, decoder_bias), activation);
    Ok(Some(Reading::one("topk", Some(declared.model), draft.at(place.clone(), place))))
}

/// The contents of the folder's name.
struct Declared {
    model: String,
    width: usize,
    k: usize,
}

impl Declared {
    fn of(folder: &str) -> Option<Declared> {
        // In the hub's cache the folder models--Qwen--SAE-Res-… is further up, so the name may be part of another.
        let (_, rest) = folder.split_once("SAE-Res-")?;
        let (rest, k) = rest.rsplit_once("-L0_")?;
        let (model, width) = rest.rsplit_once("-W")?;
        let width: usize = width.strip_suffix('K')?.parse().ok().filter(|n| *n < 1 << 18)?;
        let k = k.parse().ok().filter(|k| *k > 0)?;
        Some(Declared { model: model.to_owned(), width: width * 1024, k })
    }
}
