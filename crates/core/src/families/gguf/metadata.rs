//! Reads metadata, and checks that every key of the file's architecture was read.

use serde_json::{Map, Number, Value};

use crate::config::Config;
use crate::error::Result;

/// The metadata of one file; the architecture's keys lose their prefix.
pub(super) struct Metadata {
    own: Config,
    all: Config,
    name: &'static str,
}

impl Metadata {
    /// Refuses files that do not hold a whole model.
    pub(super) fn new(name: &'static str, metadata: &Map<String, Value>) -> Result<Self> {
        let prefix = format!("{name}.");
        let own = metadata
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?.to_owned(), value.clone())));
        let own = Config::from_map(format!("GGUF metadata of {name}"), own.collect());
        let general = metadata.iter().filter(|(key, _)| !key.starts_with(&prefix));
        let all = Config::from_map(
            "GGUF metadata",
            general.map(|(key, value)| (key.clone(), value.clone())).collect(),
        );
        if all.value("general.type").is_some_and(|kind| kind != "model") {
            return Err(all.unsupported("general.type", "\"model\""));
        }
        if all.optional_number("split.count")?.is_some_and(|count| count > 1.0) {
            return Err(all.unsupported("split.count", "1: a file that is whole"));
        }
        Ok(Metadata { own, all, name })
    }

    /// Keys common to all architectures.
    pub(super) fn common(&self, out: &mut Map<String, Value>) -> Result<()> {
        let own = &self.own;
        for (from, to) in [
            ("embedding_length", "hidden_size"),
            ("block_count", "num_hidden_layers"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("context_length", "max_position_embeddings"),
        ] {
            out.insert(to.into(), self.size(from)?.ok_or_else(|| own.missing(from))?.into());
        }
        let heads = self.size("attention.head_count")?;
        let kv_heads = self.size("attention.head_count_kv")?.or(heads);
        out.insert("num_key_value_heads".into(), kv_heads.into());
        let eps = "attention.layer_norm_rms_epsilon";
        self.copy(eps, "rms_norm_eps", out)?;
        if !out.contains_key("rms_norm_eps") {
            return Err(own.missing(eps));
        }
        // llama.cpp's default, not the config class's.
        out.insert("rope_theta".into(), Value::from(10_000.0));
        self.copy("rope.freq_base", "rope_theta", out)?;
        // It repeats the number of rows of the embedding, which decides.
        own.has("vocab_size");
        self.only("attention.causal", &[])?;
        for (from, to) in [("bos", "bos_token_id"), ("eos", "eos_token_id"), ("padding", "pad_token_id")] {
            if let Some(id) = self.all.value(&format!("tokenizer.ggml.{from}_token_id")) {
                out.insert(to.into(), id.clone());
            }
        }
        Ok(())
    }

    /// `head_dim` from all keys that state it, which must agree. Some models scale queries by a number of their own,
    /// which follows too: the head's width, or the stream's over the number of heads if the file has `odd_layers`
    /// layers.
    pub(super) fn head_dim(&self, out: &mut Map<String, Value>, odd_layers: Option<usize>) -> Result<()> {
        let size = |key: &str| out.get(key).and_then(Value::as_u64).unwrap_or(1);
        let by_heads = size("hidden_size") / size("num_attention_heads");
        let layers = size("num_hidden_layers");
        let key = self.size("attention.key_length")?;
        let rotary = self.size("rope.dimension_count")?;
        let width = key.or(rotary).map_or(by_heads, |w| w as u64);
        for name in ["attention.key_length", "attention.value_length", "rope.dimension_count"] {
            if self.size(name)?.is_some_and(|w| w as u64 != width) {
                return Err(self.own.unsupported(name, &format!("{width}, the width of a head")));
            }
        }
        out.insert("head_dim".into(), width.into());
        if let Some(odd) = odd_layers {
            let scalar = if layers == odd as u64 { by_heads } else { width };
            out.insert("query_pre_attn_scalar".into(), scalar.into());
        }
        Ok(())
    }

    /// Which layers slide, if the file says so: a period, or one flag per layer.
    pub(super) fn window_pattern(&self, out: &mut Map<String, Value>) -> Result<()> {
        let key = "attention.sliding_window_pattern";
        match self.own.value(key) {
            None => {}
            Some(Value::Array(flags)) => {
                let types: Option<Vec<&str>> = flags
                    .iter()
                    .map(|f| {
                        f.as_bool().map(|slides| if slides { "sliding_attention" } else { "full_attention" })
                    })
                    .collect();
                let types = types.ok_or_else(|| self.own.wrong(key, "a flag for each layer"))?;
                out.insert("layer_types".into(), types.into());
            }
            Some(_) => {
                out.insert("sliding_window_pattern".into(), self.size(key)?.into());
            }
        }
        Ok(())
    }

    /// Copies a number if it exists.
    pub(super) fn copy(&self, from: &str, to: &str, out: &mut Map<String, Value>) -> Result<()> {
        if let Some(number) = self.number(from)? {
            out.insert(to.into(), number);
        }
        Ok(())
    }

    /// A size; a list with one entry per layer is accepted if all entries are equal.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>> {
        if let Some(Value::Array(list)) = self.own.value(key) {
            let same = list.windows(2).all(|pair| pair[0] == pair[1]);
            let size = list.first().and_then(Value::as_u64).filter(|n| same && (1..1 << 28).contains(n));
            return match size {
                Some(size) => Ok(Some(size as usize)),
                None => Err(self.own.unsupported(key, "one size for all layers")),
            };
        }
        self.own.optional_size(key)
    }

    /// A number as in config.json: integers as integers, others in the fewest digits that give the same f32 (files hold
    /// f32, JSON f64).
    pub(super) fn number(&self, key: &str) -> Result<Option<Value>> {
        let Some(number) = self.own.optional_number(key)? else { return Ok(None) };
        if let Some(whole) = self.own.value(key).and_then(Value::as_u64) {
            return Ok(Some(whole.into()));
        }
        Ok(Some(Number::from_f64(shortest(number)).map_or(Value::Null, Value::Number)))
    }

    /// Text under a key.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        self.own.optional_text(key)
    }

    /// A key that must be absent, true, or one of these numbers.
    pub(super) fn only(&self, key: &str, numbers: &[f64]) -> Result<()> {
        match self.own.raw(key) {
            None | Some(Value::Bool(true)) => Ok(()),
            Some(value) if value.as_f64().is_some_and(|v| numbers.contains(&v)) => Ok(()),
            Some(_) => {
                let wanted: Vec<String> = numbers.iter().map(f64::to_string).collect();
                let wanted = if wanted.is_empty() { "true".to_owned() } else { wanted.join(", ") };
                Err(self.own.unsupported(key, &wanted))
            }
        }
    }

    /// A key without effect.
    pub(super) fn ignore(&self, key: &str) {
        self.own.has(key);
    }

    /// The error for a missing key, or one that is not supported.
    pub(super) fn own(&self) -> &Config {
        &self.own
    }

    /// Checks that every key of the architecture was read or is allowed, by its full name.
    pub(super) fn finish(&self, allowed: &[String]) -> Result<Vec<String>> {
        let prefix = format!("{}.", self.name);
        let own: Vec<String> =
            allowed.iter().map(|key| key.strip_prefix(&prefix).unwrap_or(key).to_owned()).collect();
        let let_through = self.own.finish(&[], &own)?;
        Ok(let_through.into_iter().map(|key| prefix.clone() + &key).collect())
    }
}

/// The shortest decimal that rounds to the same f32, if the number is an f32.
pub(super) fn shortest(number: f64) -> f64 {
    let narrow = number as f32;
    if f64::from(narrow) == number { narrow.to_string().parse().unwrap_or(number) } else { number }
}
