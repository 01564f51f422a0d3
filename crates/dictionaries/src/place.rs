//! Where a dictionary reads and writes: the publisher's name of the place, and the activation of a model that it means.

use easyroutine::arch::{Arch, Wiring};
use easyroutine::sites::{Point, Site};
use easyroutine::{Error, ErrorKind, Result};

/// A place as a publisher names it. Its activation may depend on the model: a module called `post_attention_layernorm`
/// precedes the MLP in one family and follows attention in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    text: String,
    spot: Spot,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Spot {
    Point(Point),
    /// The input or output of a module of transformers' model.
    Module(usize, Module, Side),
    /// The stream that the MLP's norm reads.
    MlpStream(usize),
    /// The token embedding without positions.
    Embedding,
    /// One name for two places.
    Unclear(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Module {
    Block,
    Attention,
    AttentionOut,
    Mlp,
    MlpDown,
    FirstNorm,
    /// `post_attention_layernorm`, `ln_2`.
    SecondNorm,
    BeforeMlp,
    AfterMlp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Input,
    Output,
}

impl Place {
    /// One of our own activations.
    pub fn of(point: Point) -> Place {
        Place { text: point.to_string(), spot: Spot::Point(point) }
    }

    /// Parses the name of one of our activations: `resid_out_5`, `z_L3`.
    ///
    /// # Errors
    /// If no activation has this name, or it does not have one vector per token.
    pub fn ours(name: &str) -> Result<Place> {
        let point: Point = name.trim().parse()?;
        let has_vectors =
            !point.site().is_pairwise() && !matches!(point.site(), Site::InputIds | Site::LastLayernorm);
        if !has_vectors {
            return Err(Error::input(format!(
                "`{point}` has no vector for each token, so no dictionary reads it"
            )));
        }
        Ok(Place::of(point))
    }

    /// Parses a TransformerLens hook name: `blocks.5.hook_resid_post`. `layer` applies to a name without one.
    ///
    /// # Errors
    /// If the hook is not a place for dictionaries.
    pub(crate) fn hook(name: &str, layer: Option<usize>) -> std::result::Result<Place, String> {
        let unknown = || format!("`{}` is not a supported hook", name.escape_debug());
        let named = |spot| Ok(Place { text: name.to_owned(), spot });
        if name == "hook_embed" {
            return named(Spot::Embedding);
        }
        let (layer, hook) = match name.strip_prefix("blocks.") {
            Some(rest) => {
                let (number, hook) = rest.split_once('.').ok_or_else(unknown)?;
                (number.parse::<u32>().map_err(|_| unknown())? as usize, hook)
            }
            None => (layer.ok_or_else(unknown)?, name),
        };
        if layer > 100_000 {
            return Err(unknown());
        }
        let site = |site| Spot::Point(Point::layer_of(site, layer));
        let spot = match hook {
            "hook_resid_pre" => site(Site::ResidIn),
            "hook_resid_mid" => site(Site::ResidMid),
            "hook_resid_post" => site(Site::ResidOut),
            "hook_attn_out" => site(Site::AttnOut),
            "hook_mlp_out" => site(Site::MlpOut),
            "attn.hook_z" => site(Site::Z),
            "attn.hook_q" => site(Site::Queries),
            "attn.hook_k" => site(Site::Keys),
            "attn.hook_v" => site(Site::Values),
            "mlp.hook_in" => site(Site::MlpIn),
            "mlp.hook_post" => site(Site::MlpHidden),
            "mlp.hook_out" => Spot::Module(layer, Module::Mlp, Side::Output),
            "hook_mlp_in" => Spot::MlpStream(layer),
            "ln1.hook_normalized" | "ln2.hook_normalized" => {
                let ours = if hook.starts_with("ln1") { "attn_in" } else { "mlp_in" };
                Spot::Unclear(format!(
                    "`{}` is a norm's output before its weights, which are folded away in some runs of \
                     TransformerLens and not in others. If the dictionary was trained on what the model reads, it is \
                     `{ours}_{layer}`",
                    name.escape_debug()
                ))
            }
            _ => return Err(unknown()),
        };
        named(spot)
    }

    /// Parses a module of transformers' model, with its input or output: `model.layers.5.mlp.output`.
    ///
    /// # Errors
    /// If the module is not a place for dictionaries.
    pub(crate) fn module(path: &str, side: Option<&str>) -> std::result::Result<Place, String> {
        let unknown = || format!("`{}` is not a supported module", path.escape_debug());
        let mut parts: Vec<&str> = path.split('.').collect();
        let side = match (parts.last(), side) {
            (Some(&last @ ("input" | "output")), _) => {
                parts.pop();
                last
            }
            (_, Some(side)) => side,
            (_, None) => return Err(format!("`{}` names neither input nor output", path.escape_debug())),
        };
        let side = if side == "input" { Side::Input } else { Side::Output };
        let named = |spot| Ok(Place { text: path.to_owned(), spot });
        match (parts.as_slice(), side) {
            ([.., "embed_tokens" | "wte" | "embed_in"], Side::Output) => return named(Spot::Embedding),
            ([.., "norm" | "ln_f" | "final_layer_norm"], Side::Output)
                if !parts.iter().any(|part| part.parse::<u32>().is_ok()) =>
            {
                return named(Spot::Point(Point::model(Site::FinalNormOut)));
            }
            _ => {}
        }
        let at = parts.iter().position(|part| part.parse::<u32>().is_ok()).ok_or_else(unknown)?;
        let stems = ["layers", "h", "blocks", "block", "decoder"];
        if !parts[..at].last().is_none_or(|stem| stems.contains(stem)) {
            return Err(unknown());
        }
        let layer = parts[at].parse::<u32>().map_err(|_| unknown())? as usize;
        if layer > 100_000 {
            return Err(unknown());
        }
        let module = match &parts[at + 1..] {
            [] => Module::Block,
            ["self_attn" | "attn" | "attention" | "self_attention"] => Module::Attention,
            [
                "self_attn" | "attn" | "attention" | "self_attention",
                "o_proj" | "c_proj" | "dense" | "out_proj",
            ] => Module::AttentionOut,
            ["mlp"] => Module::Mlp,
            ["mlp", "down_proj" | "c_proj" | "dense_4h_to_h" | "fc2"] => Module::MlpDown,
            ["input_layernorm" | "ln_1"] => Module::FirstNorm,
            ["post_attention_layernorm" | "ln_2"] => Module::SecondNorm,
            ["pre_feedforward_layernorm"] => Module::BeforeMlp,
            ["post_feedforward_layernorm"] => Module::AfterMlp,
            _ => return Err(unknown()),
        };
        named(Spot::Module(layer, module, side))
    }

    /// The publisher's name.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The activation of a model that it means.
    ///
    /// # Errors
    /// If the model lacks the place, or the name is ambiguous.
    pub fn point(&self, arch: &Arch) -> Result<Point> {
        let point = match &self.spot {
            Spot::Point(point) => point.canonical(),
            Spot::Unclear(why) => {
                return Err(Error::input(why.clone()).hint("say which place is meant: --place IN,OUT"));
            }
            Spot::Embedding if arch.embed.positions.is_some() => {
                return Err(self.lacks("the embedding alone, before the learned positions are added"));
            }
            Spot::Embedding => Point::model(Site::InputEmbeddings),
            Spot::MlpStream(layer) => {
                self.check_layer(arch, *layer)?;
                let site = match arch.layers[*layer].wiring {
                    Wiring::Parallel { .. } => Site::ResidIn,
                    _ => Site::ResidMid,
                };
                Point::layer_of(site, *layer)
            }
            Spot::Module(layer, module, side) => {
                self.check_layer(arch, *layer)?;
                Point::layer_of(self.site(arch, *layer, *module, *side)?, *layer)
            }
        };
        arch.check_point(point).map_err(|e| e.at(format!("the dictionary's place `{}`", self.text)))?;
        Ok(point)
    }

    /// The activation, if it is the same in every model.
    pub fn fixed(&self) -> Option<Point> {
        match &self.spot {
            Spot::Point(point) => Some(*point),
            Spot::Module(layer, Module::Block, Side::Input) => Some(Point::layer_of(Site::ResidIn, *layer)),
            Spot::Module(layer, Module::Block, Side::Output) => Some(Point::layer_of(Site::ResidOut, *layer)),
            _ => None,
        }
    }

    /// The layer that it belongs to.
    pub fn layer(&self) -> Option<usize> {
        match &self.spot {
            Spot::Point(point) => point.layer(),
            Spot::Module(layer, ..) | Spot::MlpStream(layer) => Some(*layer),
            Spot::Embedding | Spot::Unclear(_) => None,
        }
    }

    fn check_layer(&self, arch: &Arch, layer: usize) -> Result<()> {
        if layer < arch.layers.len() {
            return Ok(());
        }
        let last = arch.layers.len().saturating_sub(1);
        Err(self.lacks(&format!("layer {layer}: it has {}, 0 to {last}", arch.layers.len())))
    }

    fn lacks(&self, what: &str) -> Error {
        Error::new(
            ErrorKind::Input,
            format!("the dictionary's place `{}`: this model lacks {what}", self.text),
        )
    }

    /// The site of a module's input or output in this architecture.
    fn site(&self, arch: &Arch, layer: usize, module: Module, side: Side) -> Result<Site> {
        let block = &arch.layers[layer];
        let (attention_post, mlp_pre, mlp_post) = match block.wiring {
            Wiring::Sequential { attention, mlp } => {
                (attention.post.is_some(), mlp.pre.is_some(), mlp.post.is_some())
            }
            Wiring::Parallel { mlp, .. } => (false, mlp.is_some(), false),
            Wiring::NormOnStream { .. } => (false, false, false),
        };
        let attention_pre = match block.wiring {
            Wiring::Sequential { attention, .. } => attention.pre.is_some(),
            Wiring::Parallel { .. } => true,
            Wiring::NormOnStream { .. } => false,
        };
        let is_scaled = block.factors.attention.is_some() || block.factors.mlp.is_some();
        let site = match (module, side) {
            (Module::Block, Side::Input) => Site::ResidIn,
            (Module::Block, Side::Output) => Site::ResidOut,
            (Module::Attention, Side::Input) => Site::AttnIn,
            (Module::Attention | Module::AttentionOut, Side::Output) => Site::AttnRaw,
            (Module::AttentionOut, Side::Input) => Site::Z,
            (Module::Mlp, Side::Input) => Site::MlpIn,
            (Module::MlpDown, Side::Input) => Site::MlpHidden,
            (Module::Mlp | Module::MlpDown, Side::Output) if !mlp_post && !is_scaled => Site::MlpOut,
            (Module::Mlp | Module::MlpDown, Side::Output) => {
                return Err(self.lacks("an activation between its MLP and the norm or factor that follows"));
            }
            (Module::FirstNorm, Side::Input) if attention_pre => Site::ResidIn,
            // A recurrence reads the norm's output unchanged; attention in parallel may read it times a factor.
            (Module::FirstNorm, Side::Output) if attention_pre && block.recurrence.is_some() => Site::MixerIn,
            (Module::FirstNorm, Side::Output) if attention_pre => Site::AttnIn,
            (Module::SecondNorm, Side::Input) if attention_post => Site::AttnRaw,
            (Module::SecondNorm, Side::Output) if attention_post && !is_scaled => Site::AttnOut,
            (Module::SecondNorm, Side::Output) if !attention_post && mlp_pre => Site::MlpIn,
            (Module::SecondNorm, Side::Input) if !attention_post && mlp_pre => match block.wiring {
                Wiring::Parallel { .. } => Site::ResidIn,
                _ => Site::ResidMid,
            },
            (Module::BeforeMlp, Side::Input) if attention_post && mlp_pre => Site::ResidMid,
            (Module::BeforeMlp, Side::Output) if attention_post && mlp_pre => Site::MlpIn,
            (Module::AfterMlp, Side::Output) if mlp_post && !is_scaled => Site::MlpOut,
            _ => return Err(self.lacks("such a module")),
        };
        Ok(site)
    }
}
