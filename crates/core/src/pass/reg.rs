//! Registers: the buffers of a pass, and sets of them.

/// A buffer, by its contents. All but the last three have one row per token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reg {
    /// Rows of the token embedding, if a projection follows.
    Embedded,
    /// The residual stream.
    Stream,
    /// The input of attention or the MLP.
    Read,
    /// Compressed queries.
    CompressedQueries,
    /// Compressed keys and values, then the part of keys shared by all heads.
    CompressedKv,
    /// The compressed keys and values, normed.
    KvLatent,
    /// Queries made from compressed ones.
    OwnQueries,
    /// For each head, its own part of the key, then the value.
    OwnKv,
    /// Queries, keys and values side by side, of all heads.
    Qkv,
    /// Keys, then values, one per query head; only if a tap or the cache treats shared heads separately.
    HeadKv,
    /// Mixed values of all heads, the input of the output projection.
    Z,
    /// What attention adds to the stream.
    AttnOut,
    /// Neurons, the input of the MLP's last projection.
    Hidden,
    /// What the MLP adds to the stream.
    MlpOut,
    /// One head's vectors through its slice of the output projection.
    Head,
    /// A copy of `Head` from before a tap saw it.
    Unedited,
    /// Neurons of the shared expert.
    SharedHidden,
    /// What the shared expert gives.
    SharedOut,
    /// The additional inputs of all layers, side by side.
    PerLayer,
    /// One layer's additional input, gated.
    PerLayerHidden,
    /// What it adds to the stream.
    PerLayerOut,
    /// Keys, then values of a full layer that later layers read.
    LentFull,
    /// Keys, then values of a sliding layer that later layers read.
    LentSliding,
    /// Scores of all experts.
    RouterScores,
    /// The first projection of a recurrence: the convolved columns, its gate, the rest.
    Mixed,
    /// The output of its convolution.
    Convolved,
    /// The projection of that output.
    Selected,
    /// The state's output, the input of the recurrence's last projection.
    MixerZ,
    /// What the recurrence adds to the stream.
    MixerOut,
    /// Indices of each token's experts.
    RouterIndex,
    /// Factors on their outputs.
    RouterWeights,
    /// The compressed stream that experts read, if they do.
    LatentRead,
    /// The sum of what such experts give.
    LatentSum,
    /// One expert's output; zeros for tokens not routed to it.
    ExpertOut,
    /// Mean, variance and second moment of the stream.
    Moments,
    /// The stream at the tokens whose logits are wanted, then its norm.
    Final,
    /// `Final` in the width of the unembedding matrix, where that differs.
    Projected,
    /// Scores or patterns of a range of heads, each with one square per row of the batch.
    Pairs,
    /// Logits of the chosen tokens.
    Logits,
    /// The states of a recurrence after each row's last token.
    States,
}

/// Number of registers with one row per token.
pub(crate) const MATRICES: usize = Reg::Pairs as usize;

/// A set of registers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Regs(u64);

impl Regs {
    /// No register.
    pub(crate) const NONE: Regs = Regs(0);

    pub(crate) const fn of(regs: &[Reg]) -> Regs {
        let mut set = 0;
        let mut i = 0;
        while i < regs.len() {
            set |= 1 << regs[i] as u64;
            i += 1;
        }
        Regs(set)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn has(self, reg: Reg) -> bool {
        self.0 & (1 << reg as u64) != 0
    }

    pub(crate) fn and(self, other: Regs) -> Regs {
        Regs(self.0 | other.0)
    }

    pub(crate) fn both(self, other: Regs) -> Regs {
        Regs(self.0 & other.0)
    }

    pub(crate) fn without(self, other: Regs) -> Regs {
        Regs(self.0 & !other.0)
    }

    /// All registers with one row per token that are not in the set.
    pub(crate) fn others(self) -> impl Iterator<Item = usize> {
        Regs(!self.0).iter()
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..MATRICES).filter(move |i| self.0 & (1 << i) != 0)
    }
}
