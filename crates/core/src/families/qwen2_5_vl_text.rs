//! The decoder of Qwen2.5-VL, which is that of Qwen2-VL.

use super::{Family, qwen2_vl_text};

pub(super) const FAMILY: Family =
    Family { model_type: "qwen2_5_vl_text", read: qwen2_vl_text::read, inert: &[], only: &[] };
