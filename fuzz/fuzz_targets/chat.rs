//! Chat templates: any template ends soon, in a text or in an error.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use easyroutine::tokens::{ChatOptions, Message, Tokenizer};
use easyroutine_files::Gguf;
use libfuzzer_sys::fuzz_target;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let file = include_bytes!("../../fixtures/tokenizers/bytes.gguf");
    Tokenizer::from_gguf(&Gguf::parse(file).expect("a fixture")).expect("a fixture")
});

fuzz_target!(|template: &str| {
    let options = ChatOptions { template: Some(template.to_owned()), ..ChatOptions::default() };
    let messages = [Message::new("system", "Be kind."), Message::new("user", " <b> & '\u{e9}' ")];
    let began = Instant::now();
    if let Ok(chat) = TOKENIZER.chat(&messages, &options) {
        assert!(chat.text.len() < 8 << 20);
    }
    // Unoptimised and under a sanitizer, so far more than it needs.
    assert!(began.elapsed() < Duration::from_secs(25));
});
