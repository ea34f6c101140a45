//! How a text is cut into words before byte-level BPE, by the names that llama.cpp has for it (`llama-vocab.cpp`).

/// One way to cut.
pub(super) struct PreTokenizer {
    /// Cut out what the first matches, then of every part what the second matches, and so on.
    pub(super) patterns: &'static [&'static str],
    /// Whether a word that is a token is that token, whatever the merges.
    pub(super) ignore_merges: bool,
    /// Whether a document begins with BOS where the file does not say.
    pub(super) adds_bos: bool,
}

/// GPT-2's.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
/// LLaMA 3's.
pub(super) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's: LLaMA 3's, but digits stand alone.
pub(super) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The way of a name, or the rule that it breaks.
pub(super) fn pre_tokenizer(name: &str) -> Result<PreTokenizer, String> {
    let plain = |patterns| PreTokenizer { patterns, ignore_merges: false, adds_bos: false };
    Ok(match name {
        "gpt-2" | "phi-2" | "gigachat" | "mellum" | "modern-bert" | "mpt" | "olmo" | "jais"
        | "trillion" | "granite-docling" => plain(&[GPT2]),
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
        | "lfm2" => PreTokenizer { patterns: &[LLAMA3], ignore_merges: true, adds_bos: true },
        "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4" => plain(&[LLAMA3]),
        "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b" => {
            plain(&[r"\p{N}", GPT2])
        }
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "stablelm2" | "megrez" | "hunyuan" => {
            plain(&[QWEN2])
        }
        "falcon" => plain(&[r"[\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"]),
        "default" => plain(&[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
        _ => {
            let known = "gpt-2, llama-bpe, smollm, starcoder, command-r, qwen2, stablelm2, dbrx, falcon, default and their kin";
            return Err(format!(
                "{} is not known here; those that are: {known}",
                crate::error::quoted(name)
            ));
        }
    })
}
