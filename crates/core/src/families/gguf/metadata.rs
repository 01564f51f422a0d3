//! Reads metadata, and checks that every key of the file's architecture was read.

use serde_json::{Map, Number, Value};

use super::Header;
use super::architecture::Epsilon;
use crate::config::Config;
use crate::error::Result;

/// The config that metadata becomes.
pub(super) type Out<'a> = &'a mut Map<String, Value>;

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
        Ok(Metadata { own, all, name })
    }

    /// Sizes that every decoder with attention has, and the base of its rotary embedding.
    pub(super) fn decoder(&self, header: &Header<'_>, out: &mut Map<String, Value>) -> Result<()> {
        let own = &self.own;
        for (from, to) in
            [("attention.head_count", "num_attention_heads"), ("context_length", "max_position_embeddings")]
        {
            out.insert(to.into(), self.size(from)?.ok_or_else(|| own.missing(from))?.into());
        }
        // What the file says may be a rule of the converter's: the tensor is as wide as it is.
        let stated = self.size("feed_forward_length")?;
        let neurons = match header.columns("ffn_down").or(stated) {
            // Files of experts alone need not say it.
            None => self.size("expert_feed_forward_length")?,
            some => some,
        };
        out.insert(
            "intermediate_size".into(),
            neurons.ok_or_else(|| own.missing("feed_forward_length"))?.into(),
        );
        let heads = self.size("attention.head_count")?;
        let kv_heads = self.size_of_some("attention.head_count_kv")?.or(heads);
        out.insert("num_key_value_heads".into(), kv_heads.into());
        // llama.cpp's default, not the config class's.
        out.insert("rope_theta".into(), Value::from(10_000.0));
        self.copy("rope.freq_base", "rope_theta", out)
    }

    /// Keys that every architecture has.
    pub(super) fn common(&self, epsilon: Epsilon, out: &mut Map<String, Value>) -> Result<()> {
        let own = &self.own;
        out.insert("hidden_size".into(), self.required("embedding_length")?.into());
        // Layers that predict further tokens are counted, and follow the decoder's.
        let layers = self.required("block_count")?;
        let further = self.count("nextn_predict_layers")?;
        let layers = layers.checked_sub(further).filter(|layers| *layers > 0);
        let wrong = || own.wrong("nextn_predict_layers", "fewer than `block_count`");
        out.insert("num_hidden_layers".into(), layers.ok_or_else(wrong)?.into());
        let (key, to) = match epsilon {
            Epsilon::Rms(to) => ("attention.layer_norm_rms_epsilon", to),
            Epsilon::Layer(to) => {
                // Written beside the other one, and read by nothing.
                own.has("attention.layer_norm_rms_epsilon");
                ("attention.layer_norm_epsilon", to)
            }
        };
        let eps = self.number(key)?.ok_or_else(|| own.missing(key))?;
        if !to.is_empty() {
            out.insert(to.into(), eps);
        }
        // Repeats the rows of the embedding, which count.
        own.has("vocab_size");
        self.only("attention.causal", &[])?;
        for (from, to) in [("bos", "bos_token_id"), ("eos", "eos_token_id"), ("padding", "pad_token_id")] {
            if let Some(id) = self.all.value(&format!("tokenizer.ggml.{from}_token_id")) {
                out.insert(to.into(), id.clone());
            }
        }
        Ok(())
    }

    /// `head_dim` from whichever keys state it, which must agree.
    pub(super) fn head_dim(&self, out: &mut Map<String, Value>) -> Result<()> {
        let (width, turned) = self.heads(out)?;
        if turned != width {
            let wanted = format!("{width}, the width of a head");
            return Err(self.own.unsupported("rope.dimension_count", &wanted));
        }
        out.insert("head_dim".into(), width.into());
        Ok(())
    }

    /// `head_dim`, and how much of a head turns.
    pub(super) fn part_of_head_dim(&self, out: &mut Map<String, Value>) -> Result<()> {
        let (width, turned) = self.heads(out)?;
        out.insert("head_dim".into(), width.into());
        out.insert("partial_rotary_factor".into(), (turned as f64 / width as f64).into());
        Ok(())
    }

    /// How much of a head turns, for classes whose heads share the stream's width.
    pub(super) fn part_of_head(&self, key: &str, out: &mut Map<String, Value>) -> Result<()> {
        let (width, turned) = self.heads(out)?;
        self.check_shared_width(width, out)?;
        out.insert(key.into(), (turned as f64 / width as f64).into());
        Ok(())
    }

    /// That heads share the stream's width and turn as a whole, for classes that have it no other way.
    pub(super) fn whole_heads(&self, out: &mut Map<String, Value>) -> Result<()> {
        let (width, turned) = self.heads(out)?;
        self.check_shared_width(width, out)?;
        if turned == width {
            return Ok(());
        }
        Err(self.own.unsupported("rope.dimension_count", &format!("{width}, the width of a head")))
    }

    fn check_shared_width(&self, width: u64, out: &Map<String, Value>) -> Result<()> {
        let size = |key: &str| out.get(key).and_then(Value::as_u64).unwrap_or(1);
        let shared = size("hidden_size") / size("num_attention_heads");
        if width == shared {
            return Ok(());
        }
        let wanted = format!("{shared}, the stream's width over the heads");
        Err(self.own.unsupported("attention.key_length", &wanted))
    }

    /// The width of a head, which the keys that state it agree on, and how many of its columns turn.
    fn heads(&self, out: &Map<String, Value>) -> Result<(u64, u64)> {
        let size = |key: &str| out.get(key).and_then(Value::as_u64).unwrap_or(1);
        let by_heads = size("hidden_size") / size("num_attention_heads").max(1);
        let width = self.size("attention.key_length")?.map_or(by_heads, |width| width as u64);
        if self.size("attention.value_length")?.is_some_and(|w| w as u64 != width) {
            return Err(self
                .own
                .unsupported("attention.value_length", &format!("{width}, the width of a head")));
        }
        let turned = self.size("rope.dimension_count")?.map_or(width, |turned| turned as u64);
        if width == 0 || turned > width {
            return Err(self
                .own
                .wrong("rope.dimension_count", &format!("at most {width}, the width of a head")));
        }
        Ok((width, turned))
    }

    /// `query_pre_attn_scalar` of the models that scale queries by their own number, which the files do not say: the
    /// head's width, but the stream over the heads where the file has `odd_layers` layers.
    pub(super) fn query_scalar(&self, out: &mut Map<String, Value>, odd_layers: usize) {
        let size = |key: &str| out.get(key).and_then(Value::as_u64).unwrap_or(1);
        let by_heads = size("hidden_size") / size("num_attention_heads").max(1);
        let scalar = if size("num_hidden_layers") == odd_layers as u64 { by_heads } else { size("head_dim") };
        out.insert("query_pre_attn_scalar".into(), scalar.into());
    }

    /// Which layers slide, where the file says so: a period, or a flag a layer.
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

    /// `layer_types` from a flag a layer, or from a period whose last layer is full, by default of this many layers.
    pub(super) fn window_types(&self, default: usize, out: &mut Map<String, Value>) -> Result<()> {
        let key = "attention.sliding_window_pattern";
        if matches!(self.own.value(key), Some(Value::Array(_))) {
            return self.window_pattern(out);
        }
        let period = self.size(key)?.unwrap_or(default);
        layer_types(out, ["full_attention", "sliding_attention"], |l| (l + 1).is_multiple_of(period));
        Ok(())
    }

    /// Copies a number where it is there.
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

    /// A size, or zero where there is none.
    pub(super) fn count(&self, key: &str) -> Result<usize> {
        match self.own.value(key).and_then(Value::as_u64) {
            Some(0) => Ok(0),
            _ => Ok(self.size(key)?.unwrap_or(0)),
        }
    }

    /// A size that must be there.
    pub(super) fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.own.missing(key))
    }

    /// A size that some layers have, the same for all of these; zero stands for layers without.
    pub(super) fn size_of_some(&self, key: &str) -> Result<Option<usize>> {
        let Some(Value::Array(list)) = self.own.value(key) else { return self.size(key) };
        let mut sizes = list.iter().map(Value::as_u64).filter(|n| *n != Some(0)).peekable();
        match sizes.peek().copied() {
            None => Ok(None),
            Some(first @ Some(size)) if sizes.all(|n| n == first) && size < 1 << 28 => {
                Ok(Some(size as usize))
            }
            Some(_) => Err(self.own.unsupported(key, "one size, or 0, for each layer")),
        }
    }

    /// A size for each layer: one for all, or a list; zero stands for none.
    pub(super) fn each(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>> {
        let Some(Value::Array(list)) = self.own.value(key) else {
            return Ok(self.size(key)?.map(|size| vec![size; layers]));
        };
        let sizes = list.iter().map(Value::as_u64).map(|n| n.filter(|n| *n < 1 << 28));
        match sizes.map(|n| n.map(|n| n as usize)).collect::<Option<Vec<usize>>>() {
            Some(sizes) if sizes.len() >= layers => Ok(Some(sizes)),
            _ => Err(self.own.wrong(key, &format!("a size, or one for each of {layers} layers"))),
        }
    }

    /// Which layers have this size, of a list with zero for layers without; `None` where it is one for all.
    pub(super) fn layers_with(&self, key: &str) -> Option<Vec<bool>> {
        let Some(Value::Array(list)) = self.own.value(key) else { return None };
        Some(list.iter().map(|n| n.as_u64() != Some(0)).collect())
    }

    /// A flag.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.own.value(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.own.wrong(key, "true or false")),
        }
    }

    /// A number as config.json would spell it: whole numbers whole, the others in the fewest digits that give the
    /// same f32 (files hold f32, JSON f64).
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

    /// A flag that must be absent or this.
    pub(super) fn only_flag(&self, key: &str, wanted: bool) -> Result<()> {
        match self.flag(key)? {
            Some(flag) if flag != wanted => Err(self.own.unsupported(key, &wanted.to_string())),
            _ => Ok(()),
        }
    }

    /// A key that changes nothing.
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

/// Layers of the decoder.
pub(super) fn n_layers(out: &Map<String, Value>) -> usize {
    out.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0) as usize
}

/// `layer_types`: the first kind for the layers of which this is true, the other kind for the rest.
pub(super) fn layer_types(out: &mut Map<String, Value>, kinds: [&str; 2], is_first: impl Fn(usize) -> bool) {
    let kind = |l: usize| if is_first(l) { kinds[0] } else { kinds[1] };
    let types: Value = (0..n_layers(out)).map(kind).collect();
    out.insert("layer_types".into(), types);
}

/// The shortest decimal that rounds to the same f32, if the number is an f32.
pub(super) fn shortest(number: f64) -> f64 {
    let narrow = number as f32;
    if f64::from(narrow) == number { narrow.to_string().parse().unwrap_or(number) } else { number }
}
