//! The class of transformers that reads a folder's tokenizer.
//!
//! Most classes use tokenizer.json unchanged. Some keep only its vocabulary, merges and post-processor, and bring their
//! own normalizer, pre-tokenizer and decoder, so that the class determines how text is divided.

/// A class of transformers 5.24, as far as ids depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// `TokenizersBackend`, and every name unknown to transformers: tokenizer.json unchanged.
    AsItStands,
    Llama,
    CodeLlama,
    Gemma,
    Gpt2,
    CodeGen,
    GptNeoX,
    Qwen2,
    Qwen35,
    Cohere,
    Roberta,
    /// A class with its own rules, which are not implemented here; its name.
    Foreign(&'static str),
}

/// What a folder's files say about the class.
#[derive(Debug, Default)]
pub(super) struct Clues<'a> {
    /// `model_type` of config.json.
    pub(super) model_type: Option<&'a str>,
    /// `model_name` of config.json, which may stand for the type.
    pub(super) model_name: Option<&'a str>,
    /// `tokenizer_class` of tokenizer_config.json.
    pub(super) configured: Option<&'a str>,
    /// `tokenizer_class` of config.json.
    pub(super) of_model: Option<&'a str>,
    /// Whether tokenizer_config.json names custom Python code for the tokenizer (`auto_map`).
    pub(super) has_code: bool,
    /// Whether `"ByteLevel"` occurs anywhere in tokenizer.json.
    pub(super) byte_level: bool,
}

impl Class {
    /// The class that `AutoTokenizer.from_pretrained` chooses (models/auto/tokenization_auto.py), without the package
    /// mistral-common and without running code from the folder.
    pub(super) fn of(clues: &Clues<'_>) -> Class {
        let registered = clues.model_type.and_then(registered);
        let names = [clues.model_type, clues.model_name];
        let distrusted = words(DISTRUSTED).any(|word| names.contains(&Some(word)));
        let stated = clues.configured.or(clues.of_model).map(without_fast);
        if let Some(stated) = stated.filter(|_| !clues.has_code) {
            if stated == "LlamaTokenizer" && !distrusted && clues.byte_level {
                return Class::AsItStands;
            }
            match registered {
                Some("TokenizersBackend") if stated != "TokenizersBackend" => return Class::AsItStands,
                Some(registered) if registered != stated => {
                    return Class::named(if distrusted { registered } else { stated });
                }
                _ => {}
            }
        }
        let name = clues.configured.map(without_fast).or(stated).or(registered);
        name.map_or(Class::AsItStands, Class::named)
    }

    /// By its name, without `Fast`.
    fn named(name: &str) -> Class {
        match name {
            "LlamaTokenizer" => Class::Llama,
            "CodeLlamaTokenizer" => Class::CodeLlama,
            "GemmaTokenizer" => Class::Gemma,
            "GPT2Tokenizer" => Class::Gpt2,
            "CodeGenTokenizer" => Class::CodeGen,
            "GPTNeoXTokenizer" => Class::GptNeoX,
            "Qwen2Tokenizer" => Class::Qwen2,
            "Qwen3_5Tokenizer" => Class::Qwen35,
            "CohereTokenizer" => Class::Cohere,
            // Four names for one class.
            "RobertaTokenizer" | "BartTokenizer" | "LEDTokenizer" | "MvpTokenizer" => Class::Roberta,
            other => words(FOREIGN).find(|name| *name == other).map_or(Class::AsItStands, Class::Foreign),
        }
    }

    /// Its name in transformers.
    pub(super) fn name(self) -> &'static str {
        match self {
            Class::AsItStands => "TokenizersBackend",
            Class::Llama => "LlamaTokenizer",
            Class::CodeLlama => "CodeLlamaTokenizer",
            Class::Gemma => "GemmaTokenizer",
            Class::Gpt2 => "GPT2Tokenizer",
            Class::CodeGen => "CodeGenTokenizer",
            Class::GptNeoX => "GPTNeoXTokenizer",
            Class::Qwen2 => "Qwen2Tokenizer",
            Class::Qwen35 => "Qwen3_5Tokenizer",
            Class::Cohere => "CohereTokenizer",
            Class::Roberta => "RobertaTokenizer",
            Class::Foreign(name) => name,
        }
    }

    /// Whether it divides text by its own rules, implemented here.
    pub(super) fn has_rules(self) -> bool {
        !matches!(self, Class::AsItStands | Class::Foreign(_))
    }

    /// The roles that it fills if no file mentions them.
    pub(super) fn default_roles(self) -> &'static [(&'static str, &'static str)] {
        const END: &str = "<|endoftext|>";
        match self {
            Class::AsItStands | Class::Foreign(_) => &[],
            Class::Llama => &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
            Class::CodeLlama => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("prefix_token", "\u{2581}<PRE>"),
                ("middle_token", "\u{2581}<MID>"),
                ("suffix_token", "\u{2581}<SUF>"),
                ("eot_token", "\u{2581}<EOT>"),
                ("fill_token", "<FILL_ME>"),
            ],
            Class::Gemma => &[
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Class::Gpt2 | Class::CodeGen => &[("bos_token", END), ("eos_token", END), ("unk_token", END)],
            Class::GptNeoX => {
                &[("bos_token", END), ("eos_token", END), ("unk_token", END), ("pad_token", "<|padding|>")]
            }
            Class::Qwen2 | Class::Qwen35 => &[("eos_token", END), ("unk_token", END), ("pad_token", END)],
            Class::Cohere => &[
                ("bos_token", "<BOS_TOKEN>"),
                ("eos_token", "<|END_OF_TURN_TOKEN|>"),
                ("unk_token", "<UNK>"),
                ("sep_token", "<SEP>"),
                ("pad_token", "<PAD>"),
                ("cls_token", "<CLS>"),
                ("mask_token", "<MASK_TOKEN>"),
            ],
            Class::Roberta => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("sep_token", "</s>"),
                ("pad_token", "<pad>"),
                ("cls_token", "<s>"),
                ("mask_token", "<mask>"),
            ],
        }
    }

    /// Whether it has a parameter for `pad_token`, which is then not taken from tokenizer.json's padding.
    pub(super) fn decides_padding_token(self) -> bool {
        !matches!(self, Class::AsItStands | Class::Foreign(_) | Class::Llama | Class::CodeLlama)
    }

    /// Whether it pads on the left by default.
    pub(super) fn pads_left(self) -> bool {
        matches!(self, Class::Llama | Class::CodeLlama | Class::Gemma | Class::Cohere)
    }
}

fn words(list: &'static str) -> impl Iterator<Item = &'static str> {
    list.split_ascii_whitespace()
}

fn without_fast(class: &str) -> &str {
    class.strip_suffix("Fast").unwrap_or(class)
}

/// The class registered for a `model_type`, without `Fast`: `TOKENIZER_MAPPING_NAMES`, as far as it matters here. For
/// an unlisted type the files determine the class.
fn registered(model_type: &str) -> Option<&'static str> {
    REGISTERED.iter().find(|(_, types)| words(types).any(|word| word == model_type)).map(|(class, _)| *class)
}

const REGISTERED: [(&str, &str); 10] = [
    ("LlamaTokenizer", "idefics idefics2"),
    ("CodeLlamaTokenizer", "code_llama"),
    (
        "GemmaTokenizer",
        "diffusion_gemma gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text recurrent_gemma shieldgemma2 t5gemma zaya",
    ),
    (
        "GPT2Tokenizer",
        "blip-2 codegen dbrx emu3 gpt2 gpt_neo gptj hyperclovax_vision_v2 instructblip instructblipvideo jais2 opt phi \
         starcoder2",
    ),
    ("GPTNeoXTokenizer", "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmoe rwkv xlstm"),
    (
        "Qwen2Tokenizer",
        "audioflamingo3 colqwen2 cosmos3_omni dots3_note fun_asr_nano hunyuan_vl internvl lighton_ocr \
         moss_transcribe_diarize ovis2 qianfan_ocr qwen2 qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_moe qwen2_vl qwen3 \
         qwen3_asr qwen3_moe qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe vibevoice",
    ),
    ("Qwen3_5Tokenizer", "qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen4_exp"),
    ("CohereTokenizer", "aya_vision cohere cohere2"),
    (
        "RobertaTokenizer",
        "bart bridgetower clap data2vec-text ibert lilt longformer mega mra roberta roberta-prelayernorm",
    ),
    (
        "TokenizersBackend",
        "EvollaModel aria beam bigbird_pegasus canary flex_olmo glm glm4 glm4_moe glm4_moe_lite glm4v glm4v_moe \
         glm_image glmasr got_ocr2 gpt_bigcode gradium_phonon_tts granite granitemoe granitemoehybrid granitemoeshared \
         kimi_k25 kimi_linear kosmos-2 mimo_v2_flash minicpm_ocr minicpmv4_6 minicpmv4_7 ministral ministral3 mistral \
         mistral3 mistral_large4 mixtral nemo_speechlm nystromformer olmo2 olmo3 olmo_hybrid omniasr pegasus_x \
         persimmon pix2struct pixtral pocket_tts stablelm umt5 voxtral voxtral_realtime xlm-roberta-xl modernbert \
         minicpmv llava_next vipllava fuyu chatlm ernie4_5_moe internlm2 nvfp4 phimoe jamba camembertv2-base minicpm3 \
         minimax_m2 molmo phi3_v ernie4_5 opencua molmo2 cohere_asr arctic iquestcoder paddleocr_vl h2ovl_chat openvla \
         step3_vl hyperclovax_vlm internlm3 hyperclovax modernbert-decoder phi3 llava smolvlm nemotron",
    ),
];

/// Types for which transformers ignores the class in their files (`MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS`).
const DISTRUSTED: &str = "arctic camembertv2-base chatlm cohere_asr ernie4_5 ernie4_5_moe fuyu h2ovl_chat hyperclovax \
     hyperclovax_vision_v2 hyperclovax_vlm internlm2 internlm3 iquestcoder jamba llava llava_next minicpm3 minicpmv \
     minimax_m2 modernbert modernbert-decoder molmo molmo2 nemotron nvfp4 opencua openvla paddleocr_vl phi3 phi3_v \
     phimoe qwen2 qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen4_exp siglip2 smolvlm step3_vl vipllava";

/// Classes of encoders, translators and similar models.
const FOREIGN: &str = "AlbertTokenizer BarthezTokenizer BartphoTokenizer BertGenerationTokenizer BertJapaneseTokenizer \
     BertTokenizer BertTokenizerLegacy BertweetTokenizer BigBirdTokenizer BioGptTokenizer BlenderbotSmallTokenizer \
     BlenderbotTokenizer ByT5Tokenizer CLIPTokenizer CTRLTokenizer CamembertTokenizer CanineTokenizer ClvpTokenizer \
     ConvBertTokenizer CpmAntTokenizer CpmTokenizer DPRContextEncoderTokenizer DPRQuestionEncoderTokenizer \
     DPRReaderTokenizer DebertaTokenizer DebertaV2Tokenizer DiaTokenizer DistilBertTokenizer EsmTokenizer EsmcTokenizer \
     FNetTokenizer FSMTTokenizer FastSpeech2ConformerTokenizer FlaubertTokenizer FunnelTokenizer \
     GPTNeoXJapaneseTokenizer GPTSw3Tokenizer HerbertTokenizer LasrTokenizer LayoutLMv2Tokenizer LayoutLMv3Tokenizer \
     LayoutXLMTokenizer LukeTokenizer LxmertTokenizer M2M100Tokenizer MBart50Tokenizer MBartTokenizer MLukeTokenizer \
     MPNetTokenizer MarianTokenizer MarkupLMTokenizer MgpstrTokenizer MobileBertTokenizer MyT5Tokenizer \
     NllbTokenizer NougatTokenizer OpenAIGPTTokenizer PLBartTokenizer ParakeetTokenizer PegasusTokenizer \
     PerceiverTokenizer PhobertTokenizer Pop2PianoTokenizer ProphetNetTokenizer RagTokenizer ReformerTokenizer \
     RemBertTokenizer RoCBertTokenizer RoFormerTokenizer SeamlessM4TTokenizer Siglip2Tokenizer SiglipTokenizer \
     Speech2TextTokenizer SpeechT5Tokenizer SplinterTokenizer T5Tokenizer TapasTokenizer Tipsv2Tokenizer UdopTokenizer \
     VideoPrismTokenizer VitsTokenizer Wav2Vec2CTCTokenizer Wav2Vec2PhonemeCTCTokenizer WhisperTokenizer XGLMTokenizer \
     XLMRobertaTokenizer XLMTokenizer XLNetTokenizer";
