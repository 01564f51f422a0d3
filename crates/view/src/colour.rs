//! Colours shared by every picture: the scale, and legible text on it.

/// A colour as red, green, blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rgb(pub u8, pub u8, pub u8);

/// The cividis map at 33 evenly spaced points, dark to bright; legible with any common colour vision.
///
/// Source: Nuñez, Anderton, Renslow, PLOS ONE 13(7) e0199239 (2018), sampled from the 256 entries of matplotlib.
pub const CIVIDIS: [Rgb; 33] = {
    let hex: [u32; 33] = [
        0x00224e, 0x00285b, 0x002e6a, 0x043371, 0x1a386f, 0x273e6e, 0x32436d, 0x3b496c, 0x434e6c, 0x4b546c,
        0x52596d, 0x5a5f6e, 0x61656f, 0x686a71, 0x6f7073, 0x757676, 0x7c7b78, 0x848179, 0x8b8778, 0x938d78,
        0x9b9376, 0xa39a75, 0xaba072, 0xb3a670, 0xbbad6c, 0xc3b469, 0xccba64, 0xd4c15f, 0xddc958, 0xe6d051,
        0xefd748, 0xf8df3c, 0xfee838,
    ];
    let mut map = [Rgb(0, 0, 0); 33];
    let mut i = 0;
    while i < 33 {
        map[i] = Rgb((hex[i] >> 16) as u8, (hex[i] >> 8) as u8, hex[i] as u8);
        i += 1;
    }
    map
};

/// The colours of a picture besides the scale.
pub(crate) struct Colours {
    pub(crate) ground: &'static str,
    pub(crate) text: &'static str,
    pub(crate) faint: &'static str,
    pub(crate) line: &'static str,
    pub(crate) empty: &'static str,
    pub(crate) alarm: &'static str,
}

const LIGHT: Colours = Colours {
    ground: "#ffffff",
    text: "#1b1f24",
    faint: "#5b6570",
    line: "#c9d0d8",
    empty: "#e8ebef",
    alarm: "#c4122f",
};
const DARK: Colours = Colours {
    ground: "#14171c",
    text: "#e8ebef",
    faint: "#9aa5b1",
    line: "#3d4652",
    empty: "#272d36",
    alarm: "#ff7a85",
};

impl Colours {
    /// Light on dark, or dark on light.
    pub(crate) fn of(dark: bool) -> &'static Colours {
        if dark { &DARK } else { &LIGHT }
    }
}

/// Black or white.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// `#000000`
    Black,
    /// `#ffffff`
    White,
}

/// The colour of cividis at `position`, 0 dark to 1 bright; clamped.
#[must_use]
pub fn cividis(position: f64) -> Rgb {
    let steps = CIVIDIS.len() - 1;
    let at = if position.is_nan() { 0.0 } else { position.clamp(0.0, 1.0) } * steps as f64;
    let low = (at as usize).min(steps - 1);
    let (a, b, part) = (CIVIDIS[low], CIVIDIS[low + 1], at - low as f64);
    let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * part).round() as u8;
    Rgb(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

/// Blue and orange around white, legible with any common colour vision.
///
/// Source: ColorBrewer 2.0, the blue of RdBu and the orange of PuOr (C. Brewer, colorbrewer2.org).
const BLUE: [Rgb; 4] =
    [Rgb(0xf7, 0xf7, 0xf7), Rgb(0x92, 0xc5, 0xde), Rgb(0x43, 0x93, 0xc3), Rgb(0x21, 0x66, 0xac)];
const ORANGE: [Rgb; 4] =
    [Rgb(0xf7, 0xf7, 0xf7), Rgb(0xfd, 0xb8, 0x63), Rgb(0xe0, 0x82, 0x14), Rgb(0xb3, 0x58, 0x06)];

/// The colour of a value from -1, blue, through 0, white, to 1, orange; clamped, and grey for NaN.
#[must_use]
pub fn diverging(position: f64) -> Rgb {
    if position.is_nan() {
        return Rgb(0xbb, 0xbb, 0xbb);
    }
    let map = if position < 0.0 { &BLUE } else { &ORANGE };
    let at = position.abs().min(1.0) * (map.len() - 1) as f64;
    let low = (at as usize).min(map.len() - 2);
    let (a, b, part) = (map[low], map[low + 1], at - low as f64);
    let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * part).round() as u8;
    Rgb(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

impl Rgb {
    /// `#rrggbb`
    #[must_use]
    pub fn hex(self) -> String {
        format!("#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }

    /// Relative luminance, 0 black to 1 white. Source: WCAG 2.2, "relative luminance".
    #[must_use]
    pub fn luminance(self) -> f64 {
        let linear = |c: u8| {
            let c = f64::from(c) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(self.0) + 0.7152 * linear(self.1) + 0.0722 * linear(self.2)
    }

    /// The text colour with the greater contrast on this colour (WCAG contrast ratio, equal at luminance 0.179).
    #[must_use]
    pub fn ink(self) -> Ink {
        if self.luminance() > 0.179 { Ink::Black } else { Ink::White }
    }

    /// The nearest entry of the 6x6x6 cube and the grey ramp of a 256-colour terminal, and its colour.
    #[must_use]
    pub fn ansi256(self) -> (u8, Rgb) {
        const LEVELS: [u8; 6] = [0, 95, 135, 175, 215, 255];
        let distance = |c: Rgb| {
            let d = |a: u8, b: u8| (i32::from(a) - i32::from(b)).pow(2);
            d(c.0, self.0) + d(c.1, self.1) + d(c.2, self.2)
        };
        let cube = (0..216u8).map(|i| {
            let level = |n: u8| LEVELS[usize::from(n % 6)];
            (16 + i, Rgb(level(i / 36), level(i / 6), level(i)))
        });
        let greys = (0..24u8).map(|i| (232 + i, Rgb(8 + 10 * i, 8 + 10 * i, 8 + 10 * i)));
        cube.chain(greys).min_by_key(|&(_, c)| distance(c)).unwrap_or((16, Rgb(0, 0, 0)))
    }
}

impl Ink {
    /// The ink as a colour.
    #[must_use]
    pub fn rgb(self) -> Rgb {
        match self {
            Self::Black => Rgb(0, 0, 0),
            Self::White => Rgb(255, 255, 255),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_grows_brighter_from_end_to_end() {
        let light: Vec<f64> = (0..=200).map(|i| cividis(f64::from(i) / 200.0).luminance()).collect();
        assert!(light.windows(2).all(|w| w[1] >= w[0] - 1e-3), "{light:?}");
        assert_eq!(cividis(-3.0), CIVIDIS[0]);
        assert_eq!(cividis(7.0), CIVIDIS[32]);
        assert_eq!(cividis(f64::NAN), CIVIDIS[0]);
    }

    #[test]
    fn ink_is_legible_everywhere_on_the_scale() {
        for i in 0..=200 {
            let c = cividis(f64::from(i) / 200.0);
            let (a, b) = (c.luminance(), c.ink().rgb().luminance());
            let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
            // WCAG AA requires 4.5 for body text; black or white always reaches it.
            assert!(contrast >= 4.5, "{c:?}: {contrast}");
        }
    }

    #[test]
    fn the_diverging_scale_is_white_in_the_middle_and_legible_everywhere() {
        assert_eq!(diverging(0.0), diverging(-0.0));
        assert_eq!((diverging(-9.0), diverging(9.0)), (BLUE[3], ORANGE[3]));
        for i in -100..=100 {
            let c = diverging(f64::from(i) / 100.0);
            let (a, b) = (c.luminance(), c.ink().rgb().luminance());
            assert!((a.max(b) + 0.05) / (a.min(b) + 0.05) >= 4.5, "{c:?}");
        }
        let light = |i: i32| diverging(f64::from(i) / 50.0).luminance();
        assert!((0..50).all(|i| light(i) >= light(i + 1) && light(-i) >= light(-i - 1)));
    }

    #[test]
    fn terminal_palette_entries_are_found() {
        assert_eq!(Rgb(255, 255, 255).ansi256().0, 231);
        assert_eq!(Rgb(95, 135, 175).ansi256(), (67, Rgb(95, 135, 175)));
        assert_eq!(Rgb(8, 8, 8).ansi256().0, 232);
    }
}
