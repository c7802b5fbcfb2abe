use crate::{
    EngineError,
    arch::{self, Weights, decoder::Decoder, loader::Loader},
    constraint::GrammarEnvironment,
    formats::{
        gguf::{Gguf, Value},
        huggingface::{Directory, small_file},
    },
    template::{ChatTemplate, PLAIN_TEMPLATE},
    tokenizer::{Hints, Tokenizer},
};
use kernels::{FileMap, Pool};
use serde_json::Value as Json;
use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread,
};
use types::{ModelId, ModelManifest};

/// Told how many of how many bytes of weights are loaded.
pub type Progress<'a> = dyn Fn(u64, u64) + 'a;

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
    /// The result of a tool.
    Tool,
}

impl Role {
    /// The word in templates and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said; special tokens in it count as plain text.
    pub content: String,
    /// Tools that the model called in this turn.
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool's message answers.
    pub tool_call_id: Option<String>,
}

impl ChatMessage {
    /// A message of text alone.
    pub fn text(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), tool_calls: Vec::new(), tool_call_id: None }
    }
}

/// One call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Its id.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments, an object.
    pub arguments: Json,
}

/// Where a model's bytes are, for the few who need them again.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A GGUF file or a Hugging Face folder.
    Path(PathBuf),
    /// GGUF bytes.
    Bytes(Cow<'static, [u8]>),
}

/// A loaded model.
pub struct Model {
    pub(crate) source: Source,
    pub(crate) weights: Weights,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    bos: String,
    manifest: ModelManifest,
    id: ModelId,
    grammars: OnceLock<Result<GrammarEnvironment, EngineError>>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({} {})", self.manifest.name, self.id)
    }
}

impl Model {
    /// Loads a GGUF file, or a directory with `config.json`, `tokenizer.json` and safetensors.
    ///
    /// # Errors
    /// [`EngineError`] says what is wrong with the file.
    pub fn open(path: &Path) -> Result<Arc<Self>, EngineError> {
        Self::open_with(path, &|_, _| ())
    }

    /// As [`open`](Self::open), with news of the progress.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: &Path, progress: &Progress<'_>) -> Result<Arc<Self>, EngineError> {
        let fault = |reason: String| EngineError::File { path: path.display().to_string(), reason };
        if path.is_dir() {
            return Self::open_directory(path, progress);
        }
        let map = FileMap::open(path).map_err(|e| fault(e.to_string()))?;
        let gguf = Gguf::parse(&map)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let template = gguf.optional_string("tokenizer.chat_template")?.map(str::to_owned);
        Self::build(Source::Path(path.to_owned()), &gguf, tokenizer, template, progress)
    }

    /// Loads a Hugging Face directory.
    fn open_directory(path: &Path, progress: &Progress<'_>) -> Result<Arc<Self>, EngineError> {
        let directory = Directory::open(path)?;
        let gguf = directory.gguf()?;
        let read = |file: &str| small_file(&path.join(file));
        let json = |file: &str| -> Result<Json, EngineError> {
            let bytes = read(file)?.unwrap_or_else(|| b"null".to_vec());
            serde_json::from_slice(&bytes).map_err(|e| EngineError::File {
                path: path.join(file).display().to_string(),
                reason: e.to_string(),
            })
        };
        let tokenizer = read("tokenizer.json")?.ok_or_else(|| EngineError::File {
            path: path.join("tokenizer.json").display().to_string(),
            reason: "no such file; a model directory needs it".into(),
        })?;
        let (config, generation) = (json("tokenizer_config.json")?, json("generation_config.json")?);
        let vocabulary = gguf.tensor("token_embd.weight")?.dims.last().copied().unwrap_or(0) as usize;
        let models = vec![&generation, directory.config()];
        let hints = Hints { config: Some(&config), models, vocabulary };
        let tokenizer = Tokenizer::from_hugging_face(&tokenizer, &hints)?;
        let template = match read("chat_template.jinja")? {
            Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            None => config["chat_template"].as_str().map(str::to_owned),
        };
        Self::build(Source::Path(path.to_owned()), &gguf, tokenizer, template, progress)
    }

    /// The model that is built into the program: `taskmaster-chat`.
    ///
    /// # Errors
    /// Never in a sound build.
    pub fn embedded() -> Result<Arc<Self>, EngineError> {
        Self::parse_from(Cow::Borrowed(EMBEDDED))
    }

    /// Loads GGUF bytes.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn parse(bytes: &[u8]) -> Result<Arc<Self>, EngineError> {
        Self::parse_from(Cow::Owned(bytes.to_vec()))
    }

    fn parse_from(bytes: Cow<'static, [u8]>) -> Result<Arc<Self>, EngineError> {
        let source = Source::Bytes(bytes.clone());
        let gguf = Gguf::parse(&bytes)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let template = gguf.optional_string("tokenizer.chat_template")?.map(str::to_owned);
        Self::build(source, &gguf, tokenizer, template, &|_, _| ())
    }

    fn build(
        source: Source,
        gguf: &Gguf<'_>,
        tokenizer: Tokenizer,
        template: Option<String>,
        progress: &Progress<'_>,
    ) -> Result<Arc<Self>, EngineError> {
        // A model without a template takes raw prompts; asked to chat, it gets plain turns.
        let template = ChatTemplate::new(template.as_deref().unwrap_or(PLAIN_TEMPLATE))?;
        let pool = Pool::new(thread::available_parallelism().map_or(1, usize::from));
        let loader = Loader::new(gguf, &pool, progress)?;
        let weights = arch::load(&loader, tokenizer.vocabulary())?;
        let (context, hyperparameters) = match &weights {
            Weights::Decoder(d) => (d.spec.context, d.hyperparameters()),
            Weights::Encoder(e) => (e.context(), e.hyperparameters()),
        };
        let bos = tokenizer.bos().and_then(|id| tokenizer.special_text(id)).unwrap_or_default().to_owned();
        let optional = |key: &str| match gguf.metadata.get(key) {
            Some(Value::String(s)) => s.chars().filter(|c| !c.is_control()).take(128).collect(),
            _ => String::new(),
        };
        let manifest = ModelManifest {
            version: 1,
            name: optional("general.name"),
            architecture: loader.architecture().into(),
            arithmetic_version: kernels::ARITHMETIC_VERSION,
            context_length: context as u32,
            vocab_size: tokenizer.vocabulary() as u32,
            parameters: gguf.tensors.values().map(|t| t.elements()).sum(),
            hyperparameters,
            weights_root: loader.weights_root()?,
            tokenizer_hash: tokenizer.hash(),
            template_hash: template.hash(),
            licence: optional("general.license"),
        };
        if manifest.name.is_empty() {
            return Err(EngineError::Unsupported("the file has no general.name".into()));
        }
        let id = manifest.id();
        Ok(Arc::new(Self {
            source,
            weights,
            tokenizer,
            template,
            bos,
            manifest,
            id,
            grammars: OnceLock::new(),
        }))
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
        self.manifest.context_length as usize
    }

    /// Bytes of the weights in memory.
    pub fn weight_bytes(&self) -> usize {
        match &self.weights {
            Weights::Decoder(d) => d.bytes(),
            Weights::Encoder(e) => e.bytes(),
        }
    }

    /// Elements of an embedding, when this model gives embeddings (and then it gives nothing else).
    pub fn embedding_width(&self) -> Option<usize> {
        match &self.weights {
            Weights::Decoder(_) => None,
            Weights::Encoder(e) => Some(e.width()),
        }
    }

    /// The weights that generate tokens.
    pub(crate) fn decoder(&self) -> Result<&Decoder, EngineError> {
        match &self.weights {
            Weights::Decoder(d) => Ok(d),
            Weights::Encoder(_) => Err(EngineError::OnlyEmbeddings),
        }
    }

    /// The vocabulary as grammars need it; made at the first use.
    pub(crate) fn grammar_environment(&self) -> Result<&GrammarEnvironment, EngineError> {
        self.grammars.get_or_init(|| GrammarEnvironment::new(&self.tokenizer)).as_ref().map_err(Clone::clone)
    }

    /// Whether `token` ends an answer.
    pub(crate) fn ends_turn(&self, token: u32) -> bool {
        self.tokenizer.is_end_of_generation(token)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Tokens of a chat, ready for the model's turn. `tools` are definitions in OpenAI's form (`{"type": "function", "function": …}`);
    /// `now_unix` (seconds) is the clock that the template sees.
    ///
    /// # Errors
    /// [`EngineError::Template`] when the template refuses the messages.
    pub fn chat_prompt(
        &self,
        messages: &[ChatMessage],
        tools: &[Json],
        now_unix: u64,
    ) -> Result<Vec<u32>, EngineError> {
        // Content goes through the template as it is (templates may trim or test it), but with a guard character inside
        // everything that looks like a special token. The guard is a private-use character that nobody used.
        let all = format!("{messages:?}{}", Json::from(tools));
        let guard = ('\u{e000}'..='\u{f8ff}')
            .find(|c| !all.contains(*c) && !all.contains(&c.escape_debug().to_string()))
            .ok_or_else(|| EngineError::Template("the messages use every private-use character".into()))?;
        let guarded = |text: &str| self.tokenizer.guarded(text, guard);
        let eos = self.tokenizer.special_text(self.tokenizer.end_of_turn()).unwrap_or_default();
        let text = self.template.render(messages, tools, &guarded, &self.bos, eos, now_unix)?;
        self.tokenizer.encode_with_specials(&text, guard)
    }

    /// The texts that generating `tokens` streams, one for each, under these stop strings; and whether the answer ended by itself.
    pub fn texts(&self, tokens: &[u32], stop: &[String]) -> (Vec<String>, bool) {
        crate::scheduler::texts(self, tokens, stop)
    }

    /// How the token `id` is shown beside its log-probability: its text, or its name when it is special.
    pub fn token_text(&self, id: u32) -> String {
        match self.tokenizer.special_text(id) {
            Some(name) => name.to_owned(),
            None => String::from_utf8_lossy(self.tokenizer.token_bytes(id)).into_owned(),
        }
    }
}
