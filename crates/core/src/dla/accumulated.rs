//! The streams between parts read along a direction: the sum of everything written so far.

use easyroutine_kernels::NormKind;
use easyroutine_sites::{Point, Site};

use super::{Direct, Direction, kept, lines_of, scales};
use crate::arch::Wiring;
use crate::batch::Batch;
use crate::cache::Kept;
use crate::error::{Error, Result};
use crate::lens::LensNorm;
use crate::model::{Model, moments};
use crate::positions::{Context, Row, Specifier};
use crate::request::Request;
use crate::tap::Tap;

/// The logit difference of each stream, from the embedding to the last: the logit lens along a direction. The final
/// norm uses each stream's own statistics ([`LensNorm::Own`]) or those of the last stream ([`LensNorm::Cached`]). If
/// the norm has no mean, cached statistics give the running sum of the parts' contributions and the bias.
///
/// The contributions are `resid_in_0`, `resid_mid_0`, … and the last `resid_out`, each `[T]` per row, including the
/// bias.
///
/// # Errors
/// As [`direct_attribution`](super::direct_attribution), and for [`LensNorm::None`].
pub fn accumulated(
    model: &Model,
    rows: &[Row<'_>],
    directions: &[Direction],
    positions: &[Specifier],
    norm: LensNorm,
    context: Context<'_>,
    first: impl Tap,
) -> Result<Direct> {
    if norm == LensNorm::None {
        return Err(Error::input("streams are read through the final norm, with own or cached statistics"));
    }
    let lines = lines_of(model, rows, directions)?;
    let layers = &model.arch().layers;
    let last = layers.len() - 1;
    let has_middle = |wiring: Wiring| !matches!(wiring, Wiring::Parallel { .. });
    let mut points = Vec::new();
    for (layer, block) in layers.iter().enumerate() {
        points.push(Point::layer_of(Site::ResidIn, layer));
        let middle = Point::layer_of(Site::ResidMid, layer);
        if has_middle(block.wiring) && model.arch().lacks(middle).is_none() {
            points.push(middle);
        }
    }
    points.push(Point::layer_of(Site::ResidOut, last));
    let keys: Vec<String> = points.iter().map(ToString::to_string).collect();
    let statistics = if model.arch().final_norm.is_some() { ",last_layernorm" } else { "" };
    let request = Request {
        positions: positions.to_vec(),
        ..Request::parse(&format!("{}{statistics}", keys.join(",")), "all")?
    };
    let batch = Batch::new(&rows.iter().map(|row| row.ids).collect::<Vec<_>>())?;
    let cache = request.run_under(model, &batch, rows, context, first)?;
    let cached = scales(model, &cache);
    let of_norm = model.unembedding()?.final_norm();
    let own = |vector: &[f32]| match &of_norm {
        None => 1.0,
        Some(norm) => {
            let [_, variance, second] = moments(vector);
            let square = if norm.kind == NormKind::Layer { variance } else { second };
            (f64::from(square) + f64::from(norm.eps)).sqrt()
        }
    };
    let along = |point: Point, norm: LensNorm| -> Result<Kept> {
        let vectors = kept(&cache, point)?;
        let (mut values, mut shapes) = (Vec::new(), Vec::new());
        for (row, line) in lines.iter().enumerate() {
            let width = line.vector.len().max(1);
            let means = cache.get("last_layernorm.mean").map_or(&[][..], |kept| kept.row(row));
            let each = vectors.row(row).chunks_exact(width).zip(&cached[row]).enumerate();
            let each = each.map(|(t, (vector, scale))| {
                let value = model.cpu().dot(vector, &line.vector);
                let value = match norm {
                    LensNorm::Cached => {
                        let last = means.get(t).map_or(0.0, |mean| f64::from(*mean));
                        (value + (f64::from(moments(vector)[0]) - last) * line.sum) / scale
                    }
                    _ => value / own(vector),
                };
                (value + line.bias) as f32
            });
            let before = values.len();
            values.extend(each);
            shapes.push(vec![values.len() - before]);
        }
        Ok(Kept::f32(values, shapes))
    };
    let contributions =
        points.iter().map(|point| Ok((point.to_string(), along(*point, norm)?))).collect::<Result<_>>()?;
    let logit_diff = along(Point::layer_of(Site::ResidOut, last), LensNorm::Cached)?;
    let bias = lines.iter().map(|line| line.bias).collect();
    Ok(Direct { contributions, bias, logit_diff, selection: cache.selection.clone() })
}
