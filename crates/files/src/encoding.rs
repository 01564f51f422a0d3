use std::fmt;

/// The encoding of a tensor's numbers in its file.
///
/// Names and layouts of the block types: ggml's `ggml-common.h`.
#[expect(missing_docs, reason = "the variants are the names that the formats themselves use")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoding {
    F64,
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Mxfp4,
    Tq1_0,
    Tq2_0,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    /// One byte per element, in one of the 8-bit float types. Listed, never decoded.
    F8,
    /// Two 32-bit floats per element. Listed, never decoded.
    Complex64,
}

impl Encoding {
    /// Elements in one block: 1 for the plain types.
    pub fn block_len(self) -> usize {
        match self {
            Encoding::Q4_0
            | Encoding::Q4_1
            | Encoding::Q5_0
            | Encoding::Q5_1
            | Encoding::Q8_0
            | Encoding::Iq4Nl
            | Encoding::Mxfp4 => 32,
            Encoding::Q2K
            | Encoding::Q3K
            | Encoding::Q4K
            | Encoding::Q5K
            | Encoding::Q6K
            | Encoding::Iq4Xs
            | Encoding::Tq1_0
            | Encoding::Tq2_0 => 256,
            _ => 1,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Encoding::Bool | Encoding::U8 | Encoding::I8 | Encoding::F8 => 1,
            Encoding::F16 | Encoding::Bf16 | Encoding::I16 | Encoding::U16 => 2,
            Encoding::F32 | Encoding::I32 | Encoding::U32 => 4,
            Encoding::F64 | Encoding::I64 | Encoding::U64 | Encoding::Complex64 => 8,
            Encoding::Q4_0 | Encoding::Iq4Nl => 18,
            Encoding::Q4_1 => 20,
            Encoding::Q5_0 => 22,
            Encoding::Q5_1 => 24,
            Encoding::Q8_0 => 34,
            Encoding::Q2K => 84,
            Encoding::Q3K => 110,
            Encoding::Q4K => 144,
            Encoding::Q5K => 176,
            Encoding::Q6K => 210,
            Encoding::Iq4Xs => 136,
            Encoding::Mxfp4 => 17,
            Encoding::Tq1_0 => 54,
            Encoding::Tq2_0 => 66,
        }
    }

    /// Whether [`StoredTensor`](crate::StoredTensor) decodes it to `f32`: all 16- to 64-bit floats and all block types,
    /// but not integers, booleans, 8-bit floats or complex numbers.
    pub fn is_decoded(self) -> bool {
        self.block_len() > 1 || matches!(self, Encoding::F64 | Encoding::F32 | Encoding::F16 | Encoding::Bf16)
    }

    /// Bytes of `elements` in a row, if they are whole blocks and the number fits in a `usize`.
    pub(crate) fn bytes_of(self, elements: usize) -> Option<usize> {
        elements
            .is_multiple_of(self.block_len())
            .then(|| (elements / self.block_len()).checked_mul(self.block_bytes()))?
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Encoding::F64 => "F64",
            Encoding::F32 => "F32",
            Encoding::F16 => "F16",
            Encoding::Bf16 => "BF16",
            Encoding::Q4_0 => "Q4_0",
            Encoding::Q4_1 => "Q4_1",
            Encoding::Q5_0 => "Q5_0",
            Encoding::Q5_1 => "Q5_1",
            Encoding::Q8_0 => "Q8_0",
            Encoding::Q2K => "Q2_K",
            Encoding::Q3K => "Q3_K",
            Encoding::Q4K => "Q4_K",
            Encoding::Q5K => "Q5_K",
            Encoding::Q6K => "Q6_K",
            Encoding::Iq4Nl => "IQ4_NL",
            Encoding::Iq4Xs => "IQ4_XS",
            Encoding::Mxfp4 => "MXFP4",
            Encoding::Tq1_0 => "TQ1_0",
            Encoding::Tq2_0 => "TQ2_0",
            Encoding::I64 => "I64",
            Encoding::I32 => "I32",
            Encoding::I16 => "I16",
            Encoding::I8 => "I8",
            Encoding::U64 => "U64",
            Encoding::U32 => "U32",
            Encoding::U16 => "U16",
            Encoding::U8 => "U8",
            Encoding::Bool => "BOOL",
            Encoding::F8 => "F8",
            Encoding::Complex64 => "C64",
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
