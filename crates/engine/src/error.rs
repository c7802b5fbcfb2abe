use thiserror::Error;

/// What can go wrong with a model file, a prompt or a job.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum EngineError {
    /// The file could not be read.
    #[error("cannot read {path}: {reason}")]
    File {
        /// Path of the file.
        path: String,
        /// The system's reason.
        reason: String,
    },
    /// The file is not a sound GGUF file.
    #[error("not a sound GGUF file: {0}")]
    Format(String),
    /// The file is sound, but this engine cannot run it.
    #[error("this model cannot be run: {0}")]
    Unsupported(String),
    /// Tokenizer data is inconsistent.
    #[error("unusable tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template refused the messages, or is broken.
    #[error("the model's chat template failed: {0}")]
    Template(String),
    /// The prompt has no token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {tokens} tokens, but the model's context is {max} tokens; shorten the messages")]
    PromptTooLong {
        /// Tokens in the prompt.
        tokens: usize,
        /// Context length of the model.
        max: usize,
    },
    /// A token id beyond the vocabulary.
    #[error("token {token} is not in the vocabulary of {vocabulary} tokens")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A sampling parameter is out of range.
    #[error(transparent)]
    Sampling(#[from] types::TypesError),
    /// Too many stop strings, or an empty or overlong one.
    #[error("stop must be at most 4 strings of 1 to 256 bytes")]
    Stop,
    /// A bias that is NaN or beyond the bounds.
    #[error("every logit bias must be a number from -100 to 100")]
    LogitBias,
    /// The grammar is unsound or cannot be followed.
    #[error("the response format cannot be followed: {0}")]
    Grammar(String),
    /// The model generates no text.
    #[error("this model gives embeddings only; ask /v1/embeddings")]
    OnlyEmbeddings,
    /// The model gives no embeddings.
    #[error("this model generates text and gives no embeddings; serve an encoder such as MiniLM for those")]
    NoEmbeddings,
    /// Too many jobs wait.
    #[error("the engine's queue is full ({max} jobs); try again later")]
    QueueFull {
        /// The bound.
        max: usize,
    },
    /// The engine is shutting down.
    #[error("the engine has stopped")]
    Stopped,
    /// The device that should compute is not there, or failed.
    #[error("the device does not compute: {0}")]
    Device(String),
    /// The model produced NaN.
    #[error("the model produced a logit that is not a number at position {position}")]
    NotANumber {
        /// Position in the sequence.
        position: usize,
    },
}
