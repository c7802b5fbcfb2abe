use crate::{
    EngineError,
    arch::llama::Llama,
    formats::gguf::{Gguf, Value},
    template::ChatTemplate,
    tokenizer::Tokenizer,
};
use std::{path::Path, sync::Arc};
use types::{ModelId, ModelManifest, merkle};

/// Bytes of one leaf of a tensor's Merkle tree.
const CHUNK_BYTES: usize = 64 << 10;

/// Largest model file that is read into memory (64 GiB).
const FILE_BYTES_MAX: u64 = 64 << 30;

static EMBEDDED: &[u8] = include_bytes!("../../../models/taskmaster-chat/taskmaster-chat-q8_0.gguf");

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The word in templates and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said; special tokens in it count as plain text.
    pub content: String,
}

/// A loaded model.
pub struct Model {
    pub(crate) weights: Llama,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    bos: String,
    manifest: ModelManifest,
    id: ModelId,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({} {})", self.manifest.name, self.id)
    }
}

impl Model {
    /// Loads a GGUF file.
    ///
    /// # Errors
    /// [`EngineError`] says what is wrong with the file.
    pub fn open(path: &Path) -> Result<Arc<Self>, EngineError> {
        let fault = |reason: String| EngineError::File { path: path.display().to_string(), reason };
        let size = std::fs::metadata(path).map_err(|e| fault(e.to_string()))?.len();
        if size > FILE_BYTES_MAX {
            return Err(fault(format!("{size} bytes, more than the allowed {FILE_BYTES_MAX}")));
        }
        Self::parse(&std::fs::read(path).map_err(|e| fault(e.to_string()))?)
    }

    /// The model that is built into the program: `taskmaster-chat`.
    ///
    /// # Errors
    /// Never in a sound build.
    pub fn embedded() -> Result<Arc<Self>, EngineError> {
        Self::parse(EMBEDDED)
    }

    /// Loads GGUF bytes.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn parse(bytes: &[u8]) -> Result<Arc<Self>, EngineError> {
        let gguf = Gguf::parse(bytes)?;
        let architecture = gguf.string("general.architecture")?;
        if architecture != "llama" {
            return Err(EngineError::Unsupported(format!("architecture {architecture:?}; supported: llama")));
        }
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let template = ChatTemplate::new(gguf.string("tokenizer.chat_template")?)?;
        let weights = Llama::load(&gguf, tokenizer.vocabulary())?;
        let bos = gguf.integer("tokenizer.ggml.bos_token_id").ok();
        let bos = bos.and_then(|id| tokenizer.special_text(id)).unwrap_or_default().to_owned();
        let optional = |key: &str| match gguf.metadata.get(key) {
            Some(Value::String(s)) => s.chars().filter(|c| !c.is_control()).take(128).collect(),
            _ => String::new(),
        };
        let manifest = ModelManifest {
            version: 1,
            name: optional("general.name"),
            architecture: architecture.into(),
            arithmetic_version: kernels::ARITHMETIC_VERSION,
            context_length: weights.config.context as u32,
            vocab_size: weights.vocabulary as u32,
            parameters: gguf.tensors.values().map(|t| t.elements()).sum(),
            hyperparameters: weights.config.hyperparameters(),
            weights_root: weights_root(&gguf),
            tokenizer_hash: tokenizer.hash(),
            template_hash: template.hash(),
            licence: optional("general.license"),
        };
        if manifest.name.is_empty() {
            return Err(EngineError::Unsupported("the file has no general.name".into()));
        }
        let id = manifest.id();
        Ok(Arc::new(Self { weights, tokenizer, template, bos, manifest, id }))
    }

    /// Everything that decides this model's answers.
    pub fn manifest(&self) -> &ModelManifest {
        &self.manifest
    }

    /// Hash of the manifest.
    pub fn id(&self) -> ModelId {
        self.id
    }

    /// Longest sequence in tokens.
    pub fn context_length(&self) -> usize {
        self.weights.config.context
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Tokens of a chat, ready for the model's turn. `now_unix` (seconds) is the clock that the template sees.
    ///
    /// # Errors
    /// [`EngineError::Template`] when the template refuses the messages.
    pub fn chat_prompt(&self, messages: &[ChatMessage], now_unix: u64) -> Result<Vec<u32>, EngineError> {
        // Content goes through the template as it is (templates may trim or test it), but with a guard character inside
        // everything that looks like a special token. The guard is a private-use character that nobody used.
        let guard = ('\u{e000}'..='\u{f8ff}')
            .find(|c| !messages.iter().any(|m| m.content.contains(*c)))
            .ok_or_else(|| EngineError::Template("the messages use every private-use character".into()))?;
        let guarded: Vec<_> = messages
            .iter()
            .map(|m| ChatMessage { role: m.role, content: self.tokenizer.guarded(&m.content, guard) })
            .collect();
        let eos = self.tokenizer.special_text(self.tokenizer.end_of_turn()).unwrap_or_default();
        let text = self.template.render(&guarded, &self.bos, eos, now_unix)?;
        self.tokenizer.encode_with_specials(&text, guard)
    }
}

/// RFC 6962 Merkle root over the tensors in order of name. A leaf is `name length (u32 BE) ‖ name ‖ type (u32 BE) ‖ number of
/// dimensions (u32 BE) ‖ dimensions (u64 BE) ‖ root over the tensor's bytes in chunks of 64 KiB`.
fn weights_root(gguf: &Gguf<'_>) -> types::B256 {
    let leaves: Vec<_> = gguf
        .tensors
        .iter()
        .map(|(name, tensor)| {
            let chunks: Vec<_> = tensor.data.chunks(CHUNK_BYTES).map(merkle::leaf_hash).collect();
            let mut leaf = Vec::new();
            leaf.extend_from_slice(&(name.len() as u32).to_be_bytes());
            leaf.extend_from_slice(name.as_bytes());
            leaf.extend_from_slice(&tensor.kind.number().to_be_bytes());
            leaf.extend_from_slice(&(tensor.dims.len() as u32).to_be_bytes());
            for d in &tensor.dims {
                leaf.extend_from_slice(&d.to_be_bytes());
            }
            leaf.extend_from_slice(merkle::root(&chunks).as_slice());
            merkle::leaf_hash(&leaf)
        })
        .collect();
    merkle::root(&leaves)
}
