//! Compares two tokenizers: a model's ids must not depend on the file they came from.

use super::{Bos, Tokenizer};

/// Texts on which pre-tokenization rules differ: leading, inner and trailing spaces, digits, contractions, accents in
/// both forms, scripts without spaces, line ends, control characters.
const PROBES: [&str; 14] = [
    "",
    " ",
    "Hello",
    " Hello world",
    "  two  blanks ",
    "It's 2024, they'LL say 1234567 and 3.14!",
    "A list:\n\n- one.\r\n\t- two;\n\n\n",
    "caf\u{e9} cafe\u{301} na\u{ef}ve \u{212b}\u{fb01}",
    "\u{6771}\u{4eac}\u{3001}\u{d55c}\u{ad6d} \u{928}\u{92e}\u{938}\u{94d}\u{924}\u{947}",
    "\u{1f469}\u{200d}\u{1f467} \u{1f1e8}\u{1f1ed}",
    "def f(x):\n    return x**2  # \u{bd}\n",
    "\u{2581}mark \u{a0}\u{3000}\u{200b}",
    "{\"a\": [1, 22, 333, 4444]}",
    "\u{0}\u{1b}[0m",
];

impl Tokenizer {
    /// The first text, from a fixed list and with each special token in its middle, whose ids differ in `other`.
    pub fn first_difference(&self, other: &Tokenizer) -> Option<String> {
        let special = self.roles().map(|(_, token)| format!("the{token} the{token}"));
        let texts: Vec<String> = PROBES.into_iter().map(str::to_owned).chain(special).collect();
        texts.into_iter().find(|text| {
            [Bos::Auto, Bos::No].into_iter().any(|bos| {
                let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, bos).map(|encoded| encoded.ids).ok();
                ids(self) != ids(other)
            })
        })
    }
}
