//! Maps tensor names to places of a model.

use std::collections::BTreeMap;

use easyroutine_sites::{Point, Scope, Selector, Site};

use crate::arch::{Arch, Layer, Norms, StreamNorm, Wiring};
use crate::names::{LayerNames, MlpNames, Names, QkvNames};

/// Possible names of places in a file.
pub(super) struct Places<'a> {
    arch: &'a Arch,
    /// Modules of transformers whose outputs are places.
    modules: BTreeMap<String, Point>,
}

impl<'a> Places<'a> {
    pub(super) fn new(arch: &'a Arch, names: &Names) -> Self {
        let mut modules = BTreeMap::new();
        let base = names.prefix;
        for (number, layer) in arch.layers.iter().enumerate() {
            let module = format!("{base}{}", names.layer.replace("{}", &number.to_string()));
            let add = |(name, site): (String, Site)| (name, Point::layer_of(site, number));
            modules.insert(module.trim_end_matches('.').to_owned(), Point::layer_of(Site::ResidOut, number));
            let of_layer = of_layer(layer, names.of_layer(number));
            modules.extend(of_layer.into_iter().map(|(name, site)| add((format!("{module}{name}"), site))));
        }
        if let Some(norm) = names.final_norm {
            modules.insert(format!("{base}{norm}"), Point::model(Site::FinalNormOut));
        }
        let unembed = &arch.unembed;
        if unembed.softcap.is_none() && unembed.divisor.is_none() && unembed.never.is_empty() {
            modules.insert(names.unembed.to_owned(), Point::model(Site::Logits));
        }
        Places { arch, modules }
    }

    /// The places in a tensor, all heads of a layer if it holds heads; otherwise why it has none.
    pub(super) fn of(&self, name: &str) -> Result<Vec<Point>, String> {
        let module = name.strip_suffix(".output").unwrap_or(name);
        if let Some(point) = self.modules.get(module) {
            return self.arch.check_point(*point).map(|()| vec![*point]).map_err(|error| error.to_string());
        }
        let selector: Selector =
            name.parse().map_err(|_| "no place of the model has this name".to_owned())?;
        let points = self.arch.named(&selector).map_err(|error| error.to_string())?;
        let points: Vec<Point> = points.into_iter().collect();
        let first = points.first().ok_or("no place of the model has this name")?;
        if points.iter().any(|point| point.layer() != first.layer()) || first.site().scope() == Scope::Expert
        {
            return Err("it names more than the heads of one layer".to_owned());
        }
        match first.site() {
            Site::LastLayernorm => Err("statistics of a norm are not compared".to_owned()),
            Site::RouterIndex => Err("numbers of experts are not compared".to_owned()),
            _ => Ok(points),
        }
    }
}

/// Modules of a layer whose outputs are places.
fn of_layer(layer: &Layer, names: &LayerNames) -> Vec<(&'static str, Site)> {
    let mut modules = Vec::new();
    let pre = |norms: Norms| norms.pre.is_some();
    let (attention_reads, mlp_reads) = match layer.wiring {
        Wiring::Sequential { attention, mlp } => (pre(attention), pre(mlp)),
        Wiring::Parallel { mlp, .. } => (true, mlp.is_some()),
        Wiring::NormOnStream { side, .. } => [side == StreamNorm::Before; 2].into(),
    };
    let site = if layer.attention.is_some() { Site::AttnIn } else { Site::MixerIn };
    if attention_reads && layer.factors.attention_in.is_none() {
        modules.extend(names.attention_norm.map(|name| (name, site)));
    }
    if mlp_reads {
        modules.extend(names.mlp_norm.map(|name| (name, Site::MlpIn)));
    }
    if layer.attention.is_some() {
        if let QkvNames::Split { q, k, v } = names.qkv {
            modules.extend([(q.name, Site::Queries), (k.name, Site::Keys), (v.name, Site::Values)]);
        }
        if let QkvNames::Latent(latent) = names.qkv {
            modules.push((latent.compress_kv.name, Site::KvCompressed));
        }
        modules.push((names.out.name, Site::AttnRaw));
    }
    let adds_plainly = match layer.wiring {
        Wiring::Sequential { mlp, .. } => mlp.post.is_none(),
        Wiring::Parallel { .. } | Wiring::NormOnStream { .. } => true,
    };
    if adds_plainly && layer.factors.mlp.is_none() {
        match names.mlp {
            MlpNames::Plain { down, .. } | MlpNames::Gated { down, .. } => {
                modules.push((down.name, Site::MlpOut))
            }
            _ => {}
        }
    }
    modules
}
