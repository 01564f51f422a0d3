//! The documentation page of the table.

use std::fmt::Write;

use crate::site::Site;

/// `docs/SITES.md`, made from the table; a test fails where the committed page differs.
pub fn sites_page() -> String {
    let mut page = String::from(
        "# Activations\n\n\
         Every place of the forward pass that can be read, in its order. This page is made from the table in\n\
         `crates/sites/src/site.rs`; `cargo run -p easyroutine-sites --example sites > docs/SITES.md` renews it.\n\n\
         B rows of the batch, T selected positions, D `d_model`, H query heads, K key/value heads, h `d_head`,\n\
         F `d_mlp`, V vocabulary.\n\n\
         | key | asked for by | shape | meaning |\n|---|---|---|---|\n",
    );
    for site in Site::ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | `{}` | {} | {} |",
            site.template(),
            site.flag(),
            site.axes(),
            site.meaning()
        );
    }
    page
}
