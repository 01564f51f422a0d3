//! The fonts for PNGs: subsets of DejaVu (see `fonts/LICENSE`), so that a picture needs no installed fonts.

use std::sync::Arc;

use resvg::usvg::fontdb::Database;
use skrifa::{FontRef, MetadataProvider as _};

const MONO: &[u8] = include_bytes!("../fonts/DejaVuSansMono-subset.ttf");
const SANS: &[u8] = include_bytes!("../fonts/DejaVuSans-subset.ttf");
const SANS_BOLD: &[u8] = include_bytes!("../fonts/DejaVuSans-Bold-subset.ttf");

/// The characters of the monospaced font.
pub(crate) struct Coverage(FontRef<'static>);

impl Coverage {
    /// `None` if the embedded font cannot be read, which a test rules out.
    pub(crate) fn embedded() -> Option<Self> {
        FontRef::new(MONO).ok().map(Self)
    }

    pub(crate) fn has(&self, c: char) -> bool {
        self.0.charmap().map(c).is_some()
    }
}

/// Only the embedded fonts: a PNG is the same on every machine.
pub(crate) fn database() -> Arc<Database> {
    let mut fonts = Database::new();
    for data in [MONO, SANS, SANS_BOLD] {
        fonts.load_font_data(data.to_vec());
    }
    fonts.set_monospace_family("DejaVu Sans Mono");
    fonts.set_sans_serif_family("DejaVu Sans");
    Arc::new(fonts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_fonts_have_what_pictures_draw() {
        let coverage = Coverage::embedded().unwrap();
        for c in "Paris·↵⇥…→◌éßøЖωḀ“”‖≥—\u{fffd}\u{301}".chars() {
            assert!(coverage.has(c), "{c:?}");
        }
        assert!(!coverage.has('中'));
        let names: Vec<_> = database().faces().map(|f| (f.families[0].0.clone(), f.weight.0)).collect();
        let expected = [("DejaVu Sans Mono", 400), ("DejaVu Sans", 400), ("DejaVu Sans", 700)];
        assert_eq!(names, expected.map(|(n, w)| (n.to_owned(), w)));
    }
}
