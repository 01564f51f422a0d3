//! SVG to PNG.

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

use crate::error::{Error, ErrorKind};
use crate::font::database;

/// Limit on pixels: 100 million take 400 MB while drawing.
const PIXELS: f64 = 100e6;
/// Longest side that common viewers can open.
const SIDE: f64 = 32_767.0;

/// Longest side of a picture drawn at more than one pixel per unit.
const COMFORTABLE: f64 = 16_384.0;

/// Draws our own SVG at `scale` pixels per unit, or less to stay within the limits.
pub(crate) fn png(svg: &str, scale: f32) -> Result<Vec<u8>, Error> {
    let draw = |what: String| Error::new(ErrorKind::Draw, format!("PNG: {what}"));
    let options = Options { fontdb: database(), font_family: "DejaVu Sans".into(), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|e| draw(e.to_string()))?;
    let (width, height) = (f64::from(tree.size().width()), f64::from(tree.size().height()));
    let most = (SIDE / width.max(height)).min((PIXELS / (width * height)).sqrt());
    if most < 1.0 {
        let what = format!(
            "PNG: a picture of {width:.0} x {height:.0} is too large; choose positions or layers, or write SVG or HTML"
        );
        return Err(Error::new(ErrorKind::Size, what));
    }
    let most = most.min((COMFORTABLE / width.max(height)).max(1.0));
    let scale = f64::from(if scale.is_finite() { scale } else { 1.0 }).clamp(0.1, most.min(8.0));
    let (pixel_width, pixel_height) = ((width * scale).ceil() as u32, (height * scale).ceil() as u32);
    let mut pixels = Pixmap::new(pixel_width.max(1), pixel_height.max(1))
        .ok_or_else(|| draw(format!("no memory for {pixel_width} x {pixel_height} pixels")))?;
    let scale = scale as f32;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixels.as_mut());
    pixels.encode_png().map_err(|e| draw(e.to_string()))
}
