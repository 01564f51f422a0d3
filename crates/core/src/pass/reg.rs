//! Registers: the buffers of a pass, and sets of them.

/// A buffer, by what it holds. All have one row a token but the last three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reg {
    /// Rows of the token embedding, where a projection follows.
    Embedded,
    /// The residual stream.
    Stream,
    /// What attention or the MLP reads.
    Read,
    /// Compressed queries.
    CompressedQueries,
    /// Compressed keys and values, then the part of keys that all heads share.
    CompressedKv,
    /// The compressed keys and values, normed.
    KvLatent,
    /// Queries that were made of compressed ones.
    OwnQueries,
    /// Of each head the part of the key that is its own, then the value.
    OwnKv,
    /// Queries, keys and values side by side, of all heads.
    Qkv,
    /// Keys, then values, one a query head; only where a tap or the past tells apart what query heads share.
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
    /// The further inputs of all layers, side by side.
    PerLayer,
    /// One of them, gated.
    PerLayerHidden,
    /// What it adds to the stream.
    PerLayerOut,
    /// Keys, then values of a full layer that later layers read.
    LentFull,
    /// Keys, then values of a sliding layer that later layers read.
    LentSliding,
    /// Scores of all experts.
    RouterScores,
    /// The first projection of a recurrence: what is convolved, its gate, the rest.
    Mixed,
    /// What its convolution gave.
    Convolved,
    /// What is projected from that.
    Selected,
    /// What the recurrence gives, the input of its last projection.
    MixerZ,
    /// What the recurrence adds to the stream.
    MixerOut,
    /// Numbers of each token's experts.
    RouterIndex,
    /// Factors on what these give.
    RouterWeights,
    /// What one expert gives, zeros for the tokens that do not go through it.
    ExpertOut,
    /// Mean, variance and second moment of the stream.
    Moments,
    /// The stream at the tokens whose logits are wanted, then its norm.
    Final,
    /// `Final` in the width of the unembedding matrix, where that differs.
    Projected,
    /// Scores or patterns of some heads, each with a square a row of the batch.
    Pairs,
    /// Logits of some tokens.
    Logits,
    /// What a recurrence carries on from each row's last token.
    States,
}

/// How many registers hold one row a token.
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

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..MATRICES).filter(move |i| self.0 & (1 << i) != 0)
    }
}
