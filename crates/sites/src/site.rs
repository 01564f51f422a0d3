//! The table of sites.

/// How much of a model one value of a site describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The whole model: `logits`.
    Model,
    /// One layer: `resid_out_5`.
    Layer,
    /// One layer, written with an L: `queries_L5`.
    LetteredLayer,
    /// One head of one layer: `pattern_L5H3`.
    Head,
    /// One expert of one layer: `expert_out_5E3`.
    Expert,
}

/// The basis of a site's vectors, which also determines their width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Basis {
    /// Token ids: one integer.
    Ids,
    /// Indices of the experts chosen for a token: k integers.
    ExpertIds,
    /// The residual stream itself, D.
    Stream,
    /// A term added to the residual stream, or a share of it, D.
    Addition,
    /// The stream as attention or the MLP reads it, D.
    Reading,
    /// Queries of all heads, H·h.
    Queries,
    /// Keys of all key/value heads, K·h.
    Keys,
    /// Values of all key/value heads, K·v.
    Values,
    /// Mixed values of all heads, H·v.
    MixedValues,
    /// One head's query or key, h.
    Head,
    /// One head's value, v.
    HeadValue,
    /// Compressed keys and values, c.
    Compressed,
    /// Positions: one number per key that a query could see.
    Positions,
    /// Channels of a recurrence, N.
    Channels,
    /// Neurons, F.
    Neurons,
    /// Experts, E.
    Experts,
    /// The experts chosen for a token, k.
    ChosenExperts,
    /// Statistics of a vector.
    Statistics,
    /// Class labels of a classification head, C.
    Labels,
    /// Ids of the vocabulary, V.
    Vocabulary,
}

/// What a site allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// It can be read.
    Reads,
    /// It can be read, and interventions can change it.
    Changes,
}

macro_rules! sites {
    ($($variant:ident $name:literal $scope:ident [$axes:literal] $basis:ident $access:ident $flag:literal $meaning:literal;)*) => {
        /// A place in the forward pass.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Site {
            $(#[doc = $meaning] $variant,)*
        }

        impl Site {
            /// Every site, in the order of the forward pass.
            pub const ALL: &'static [Site] = &[$(Site::$variant),*];

            /// The name, without layer and head.
            pub fn name(self) -> &'static str {
                match self { $(Site::$variant => $name),* }
            }

            /// How much of a model one value describes.
            pub fn scope(self) -> Scope {
                match self { $(Site::$variant => Scope::$scope),* }
            }

            /// Axes of a captured value, rows first. B rows of the batch, T selected positions, D `d_model`, H query
            /// heads, K key/value heads, h `d_head`, v columns of a value (mostly h), c columns of compressed keys and
            /// values, N channels of a recurrence, F `d_mlp`, E experts, k experts per token, C labels, V vocabulary.
            pub fn axes(self) -> &'static str {
                match self { $(Site::$variant => $axes),* }
            }

            /// The basis of its vectors.
            pub fn basis(self) -> Basis {
                match self { $(Site::$variant => Basis::$basis),* }
            }

            /// Whether interventions can change it.
            pub fn access(self) -> Access {
                match self { $(Site::$variant => Access::$access),* }
            }

            /// The extraction config field that requests it.
            pub fn flag(self) -> &'static str {
                match self { $(Site::$variant => $flag),* }
            }

            /// One sentence that says what the value is.
            pub fn meaning(self) -> &'static str {
                match self { $(Site::$variant => $meaning),* }
            }
        }
    };
}

sites! {
    InputIds "input_ids" Model ["B T"] Ids Reads "save_input_ids" "Token ids.";
    InputEmbeddings "input_embeddings" Model ["B T D"] Addition Changes "extract_embed" "What enters the first block: token embedding with its scale, norm and learned position.";
    ResidIn "resid_in" Layer ["B T D"] Stream Changes "extract_resid_in" "Residual stream entering the block.";
    AttnIn "attn_in" Layer ["B T D"] Reading Changes "extract_attn_in" "Input of attention, after its norm if it has one.";
    ResidInPostLayernorm "resid_in_post_layernorm" Layer ["B T D"] Reading Changes "extract_resid_in_post_layernorm" "The same place as `attn_in`, under its other name.";
    KvCompressed "kv_compressed" Layer ["B T c"] Compressed Changes "extract_kv_compressed" "Compressed keys and values straight from their projection, before their norm; then, before its rotation, the part of keys that all heads share.";
    Queries "queries" LetteredLayer ["B T H·h"] Queries Changes "extract_queries" "Queries straight from the projection (bias included), before any norm, rotary or scaling.";
    Keys "keys" LetteredLayer ["B T K·h"] Keys Changes "extract_keys" "Keys straight from the projection (bias included), before any norm or rotary.";
    Values "values" LetteredLayer ["B T K·v"] Values Changes "extract_values" "Values straight from the projection (bias included).";
    HeadQueries "head_queries" Head ["B T h"] Head Changes "extract_head_queries" "The query of one head.";
    HeadKeys "head_keys" Head ["B T h"] Head Changes "extract_head_keys" "The key that one query head sees; a grouped key appears under each of its query heads.";
    HeadValues "head_values" Head ["B T v"] HeadValue Changes "extract_head_values" "The value that one query head sees; a grouped value appears under each of its query heads.";
    Scores "scores" Head ["B T T"] Positions Changes "extract_attn_scores" "What the softmax of one head is taken of: scaled, capped, with any bias of the positions; minus infinity where the key is hidden.";
    Pattern "pattern" Head ["B T T"] Positions Changes "extract_attn_pattern" "Softmax weights of one head; rows (queries) and columns (keys) both at the selected positions.";
    ProjectedValue "projected_value" Head ["B T D"] Addition Reads "extract_head_values_projected" "The head's value vector at each position through its slice of the output projection, without bias.";
    ProjectedKey "projected_key" Head ["B T D"] Addition Reads "extract_head_keys_projected" "The head's key vector at each position through its slice of the output projection, without bias.";
    ProjectedQuery "projected_query" Head ["B T D"] Addition Reads "extract_head_queries_projected" "The head's query vector at each position through its slice of the output projection, without bias.";
    RotatedQueries "rotated_queries" LetteredLayer ["B T H·h"] Queries Changes "extract_rotated_queries" "Queries as the scores are taken of them: after their norm, clamp and rotation, as far as the model has these.";
    RotatedKeys "rotated_keys" LetteredLayer ["B T K·h"] Keys Changes "extract_rotated_keys" "Keys as the scores are taken of them: after their norm, clamp and rotation, as far as the model has these.";
    AttnGate "attn_gate" Layer ["B T H·h"] Queries Changes "extract_attn_gate" "What mixed values are multiplied by, before its sigmoid; only some families have such a gate.";
    Z "z" LetteredLayer ["B T H·v"] MixedValues Changes "extract_z" "Mixed values of all heads, after a gate: what enters attention's output projection.";
    HeadOut "head_out" Head ["B T D"] Addition Changes "extract_head_out" "The head's mixed values through its slice of the output projection, without bias, before any post-norm or residual multiplier.";
    AttnRaw "attn_raw" Layer ["B T D"] Addition Changes "extract_attn_raw" "Output of attention's last projection, bias included: the sum of all `head_out` and the bias.";
    AttnOut "attn_out" Layer ["B T D"] Addition Changes "extract_attn_out" "Exactly what attention adds to the residual stream: after a post-norm and any residual multiplier.";
    MixerIn "mixer_in" Layer ["B T D"] Reading Changes "extract_mixer_in" "Input of a recurrence, after its norm: of layers that mix tokens by a state they carry.";
    MixerZ "mixer_z" Layer ["B T N"] Channels Changes "extract_mixer_z" "What a recurrence gives, after its gate: the input of its last projection.";
    MixerOut "mixer_out" Layer ["B T D"] Addition Changes "extract_mixer_out" "Exactly what a recurrence adds to the residual stream.";
    ResidMid "resid_mid" Layer ["B T D"] Stream Changes "extract_resid_mid" "Residual stream between attention and MLP; parallel blocks have none.";
    MlpIn "mlp_in" Layer ["B T D"] Reading Changes "extract_mlp_in" "Input of the MLP, after its norm if it has one.";
    RouterLogits "router_logits" Layer ["B T E"] Experts Changes "extract_router_logits" "Scores that the router gives to each expert, before softmax or sigmoid. Minus infinity knocks an expert out, infinity forces the choice of it.";
    RouterIndex "router_index" Layer ["B T k"] ExpertIds Reads "extract_router_index" "Numbers of the experts that a token goes through, the first choice first; -1 where too few are left to choose from.";
    RouterWeights "router_weights" Layer ["B T k"] ChosenExperts Changes "extract_router_weights" "Factors on what these experts give, in the order of `router_index`.";
    ExpertOut "expert_out" Expert ["B T D"] Addition Changes "extract_expert_out" "What one expert gives for the tokens that go through it, before its factor; zeros for all others, where a change has no effect.";
    SharedOut "shared_out" Layer ["B T D"] Addition Changes "extract_shared_out" "What the shared experts give, after the gate that weighs them.";
    MlpHidden "mlp_hidden" Layer ["B T F"] Neurons Changes "extract_mlp_hidden" "Neurons after non-linearity and gate, the input of the last projection; a layer of experts has none.";
    MlpOut "mlp_out" Layer ["B T D"] Addition Changes "extract_mlp_out" "Exactly what the MLP adds to the residual stream.";
    PerLayerOut "per_layer_out" Layer ["B T D"] Addition Changes "extract_per_layer_out" "Exactly what a layer's own input adds to the residual stream, after its norm.";
    ResidOut "resid_out" Layer ["B T D"] Stream Changes "extract_resid_out" "Residual stream leaving the block.";
    LastLayernorm "last_layernorm" Model ["three of B T"] Statistics Reads "extract_last_layernorm" "`mean`, `variance` (over D, divided by D, without eps) and `second_moment` of what enters the final norm.";
    FinalNormOut "final_norm_out" Model ["B T D"] Reading Reads "extract_final_norm_out" "What the unembedding reads: the last residual stream after the final norm.";
    Score "score" Model ["B C or B T C"] Labels Reads "extract_score" "What the head of a classifier or reward model gives: of a class `ForSequenceClassification` one vector a row, at its last token that is not padding; of `ForTokenClassification` and `ForQuestionAnswering` one at each position.";
    Logits "logits" Model ["B T V"] Vocabulary Reads "save_logits" "Final logits, softcap and scaling included.";
}

impl Site {
    /// The site itself, or the primary one if two names mean one place.
    pub fn canonical(self) -> Site {
        if self == Site::ResidInPostLayernorm { Site::AttnIn } else { self }
    }

    /// Whether one value concerns a query and a key, so that both axes of a capture are the selected positions.
    pub fn is_pairwise(self) -> bool {
        matches!(self, Site::Scores | Site::Pattern)
    }

    /// Whether its values are integers, which have no mean and no gradient.
    pub fn is_whole(self) -> bool {
        matches!(self.basis(), Basis::Ids | Basis::ExpertIds)
    }

    /// Finds a site by its bare name.
    pub fn from_name(name: &str) -> Option<Site> {
        Site::ALL.iter().copied().find(|s| s.name() == name)
    }

    /// The pattern of this site's names: `resid_out_{layer}`.
    pub fn template(self) -> String {
        match self.scope() {
            Scope::Model => self.name().to_owned(),
            Scope::Layer => format!("{}_{{layer}}", self.name()),
            Scope::LetteredLayer => format!("{}_L{{layer}}", self.name()),
            Scope::Head => format!("{}_L{{layer}}H{{head}}", self.name()),
            Scope::Expert => format!("{}_{{layer}}E{{expert}}", self.name()),
        }
    }
}
