//! Prints `docs/SITES.md`.
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

fn main() {
    print!("{}", easyroutine_sites::sites_page());
}
