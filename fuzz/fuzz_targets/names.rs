//! Keys and patterns of activations: what parses prints to something that means the same.
#![no_main]

use easyroutine_sites::{Extent, Point, Selector};
use libfuzzer_sys::fuzz_target;

const MODEL: Extent = Extent { n_layers: 12, n_heads: 4, n_experts: 6 };

fuzz_target!(|text: &str| {
    if let Ok(point) = text.parse::<Point>() {
        assert_eq!(point.to_string().parse::<Point>().as_ref(), Ok(&point));
    }
    let Ok(selectors) = Selector::parse_list(text) else { return };
    for selector in selectors {
        let again: Selector = selector.to_string().parse().expect("a printed pattern");
        assert_eq!(again, selector);
        let Ok(points) = selector.points(MODEL) else { continue };
        assert!(!points.is_empty());
        for point in points {
            assert!(point.layer().is_none_or(|l| l < MODEL.n_layers));
            assert!(point.head().is_none_or(|h| h < MODEL.n_heads));
        }
    }
});
