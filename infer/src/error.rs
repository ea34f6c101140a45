//! Everything that can go wrong between a packed file and its text.

use tern_kernels::ternary::UnknownKernel;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong, where, and the rule that it breaks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes of the model, or its tokenizer, break a rule.
    #[error(transparent)]
    Format(#[from] tern_format::Error),
    /// `TERN_KERNEL` names no kernel of this CPU.
    #[error(transparent)]
    Kernel(#[from] UnknownKernel),
    /// An id that the embedding has no row for.
    #[error("token {position}: id {id} must be below vocab_size {vocab_size}")]
    TokenId {
        /// Its place among the ids given.
        position: usize,
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// More tokens than the model has positions.
    #[error("{tokens} tokens do not fit the context of {most}")]
    Context {
        /// Tokens in the cache and those to be added.
        tokens: usize,
        /// `max_position_embeddings`.
        most: usize,
    },
    /// One message that leaves no room for its answer.
    #[error(
        "the message does not fit: with template and system prompt it has {tokens} tokens, the answer needs room for \
         {room}, and the context has {most}"
    )]
    Message {
        /// Tokens of the prompt that has nothing but it and the system prompt.
        tokens: usize,
        /// Tokens kept free for the answer.
        room: usize,
        /// `max_position_embeddings`.
        most: usize,
    },
    /// There is nothing to predict from.
    #[error("there must be a token to go on from: the prompt is empty and the model has no BOS")]
    NoTokens,
    /// A window too short to predict anything.
    #[error("window {window} must have at least 2 ids, has {ids}")]
    Window {
        /// Its place in the list.
        window: usize,
        /// Its length.
        ids: usize,
    },
    /// There is nothing to take the mean over.
    #[error("a loss needs at least one window, there is none")]
    NoWindows,
    /// A setting breaks its rule.
    #[error("{key} {rule}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// The rule and what was found.
        rule: String,
    },
    /// The model predicts nothing: every logit is NaN or minus infinity, or one is infinite.
    #[error("the logits after token {position} are not finite: the weights overflow")]
    Logits {
        /// Tokens before the prediction.
        position: usize,
    },
}
