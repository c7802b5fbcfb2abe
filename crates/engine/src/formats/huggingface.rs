//! Hugging Face directories: `config.json` and safetensors, turned into GGUF's terms, as llama.cpp's converter does it.

use super::gguf::{Gguf, Tensor, TensorType, Value};
use crate::EngineError;
use kernels::FileMap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// Largest JSON file that is read.
const JSON_BYTES_MAX: u64 = 64 << 20;
/// Most files that the weights may be spread over.
const SHARDS_MAX: usize = 256;

/// A directory whose files are open.
#[derive(Debug)]
pub struct Directory {
    config: Json,
    shards: Vec<FileMap>,
    name: String,
}

fn unsupported<T>(what: impl Into<String>) -> Result<T, EngineError> {
    Err(EngineError::Unsupported(what.into()))
}

/// Reads a file of at most [`JSON_BYTES_MAX`] bytes; `None` when there is none.
///
/// # Errors
/// [`EngineError::File`] when it is too large or cannot be read.
pub fn small_file(path: &Path) -> Result<Option<Vec<u8>>, EngineError> {
    let fault = |reason: String| EngineError::File { path: path.display().to_string(), reason };
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(fault(e.to_string())),
        Ok(m) if m.len() > JSON_BYTES_MAX => Err(fault(format!("larger than {JSON_BYTES_MAX} bytes"))),
        Ok(_) => std::fs::read(path).map(Some).map_err(|e| fault(e.to_string())),
    }
}

fn json(path: &Path) -> Result<Option<Json>, EngineError> {
    let Some(bytes) = small_file(path)? else { return Ok(None) };
    let parsed = serde_json::from_slice(&bytes);
    let fault =
        |e: serde_json::Error| EngineError::File { path: path.display().to_string(), reason: e.to_string() };
    parsed.map(Some).map_err(fault)
}

impl Directory {
    /// Opens the directory's configuration and weights.
    ///
    /// # Errors
    /// [`EngineError`] names the file that is missing or unsound.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let missing = |file: &str| EngineError::File {
            path: path.join(file).display().to_string(),
            reason: "no such file; a model directory needs config.json, tokenizer.json and model.safetensors"
                .into(),
        };
        let config = json(&path.join("config.json"))?.ok_or_else(|| missing("config.json"))?;
        let mut names: BTreeSet<String> = BTreeSet::new();
        match json(&path.join("model.safetensors.index.json"))? {
            None => _ = names.insert("model.safetensors".into()),
            Some(index) => {
                let map = index["weight_map"].as_object().into_iter().flatten();
                names.extend(map.filter_map(|(_, file)| Some(file.as_str()?.to_owned())));
            }
        }
        // A name is a file in this directory, not a way out of it.
        let plain = |n: &String| Path::new(n).components().count() == 1 && n.ends_with(".safetensors");
        if names.is_empty() || names.len() > SHARDS_MAX || !names.iter().all(plain) {
            return unsupported("model.safetensors.index.json names no files, too many, or files elsewhere");
        }
        let shards = names.iter().map(|n| FileMap::open(&path.join(n)).map_err(|_| missing(n)));
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("model").to_owned();
        Ok(Self { config, shards: shards.collect::<Result<_, _>>()?, name })
    }

    /// `config.json`.
    pub fn config(&self) -> &Json {
        &self.config
    }

    /// Metadata and tensors in GGUF's terms, without the tokenizer's.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when the configuration asks for something that the engine does not compute.
    pub fn gguf(&self) -> Result<Gguf<'_>, EngineError> {
        let config = match self.config.get("text_config") {
            Some(text) if text.is_object() => text,
            _ => &self.config,
        };
        let model_type = config["model_type"].as_str().unwrap_or_default();
        let architecture = match model_type {
            "llama" | "mistral" => "llama",
            "qwen2" | "qwen3" | "gemma2" | "phi3" | "bert" => model_type,
            "gemma3_text" | "gemma3" => "gemma3",
            other => {
                return unsupported(format!("model_type {other:?}; supported: {}", crate::arch::SUPPORTED));
            }
        };
        let mut tensors = BTreeMap::new();
        for shard in &self.shards {
            let parsed = SafeTensors::deserialize(shard)
                .map_err(|e| EngineError::Format(format!("a safetensors file is unsound: {e}")))?;
            for (name, view) in parsed.tensors() {
                let kind = match view.dtype() {
                    Dtype::F32 => TensorType::F32,
                    Dtype::F16 => TensorType::F16,
                    Dtype::BF16 => TensorType::BF16,
                    // Position indices and other buffers that older files carry.
                    Dtype::I64 => continue,
                    other => return unsupported(format!("the tensor {name} has the type {other:?}")),
                };
                let Some(name) = rename(architecture, &name) else { continue };
                if name == "output.weight" && config["tie_word_embeddings"] == true {
                    continue;
                }
                let dims = view.shape().iter().rev().map(|d| *d as u64).collect();
                // The view borrows from the parsed header, its bytes from the file.
                let (from, len) =
                    (view.data().as_ptr() as usize - shard.as_ptr() as usize, view.data().len());
                let data = Cow::Borrowed(&shard[from..from + len]);
                if tensors.insert(name.clone(), Tensor { kind, dims, data }).is_some() {
                    return unsupported(format!("the tensor {name} is there twice"));
                }
            }
        }
        let mut gguf = Gguf { metadata: BTreeMap::new(), tensors };
        Metadata { config, architecture, gguf: &mut gguf }.write(&self.name)?;
        convert(architecture, config, &mut gguf)?;
        Ok(gguf)
    }
}

/// The tensor's name in GGUF; `None` for buffers that are no weights.
fn rename(architecture: &str, name: &str) -> Option<String> {
    let name = ["language_model.", "model.", "bert."]
        .iter()
        .fold(name, |name, prefix| name.strip_prefix(prefix).unwrap_or(name));
    if name.contains("rotary_emb") || name.starts_with("pooler.") || name.ends_with("position_ids") {
        return None;
    }
    let top = match name {
        "embed_tokens.weight" | "embeddings.word_embeddings.weight" => "token_embd.weight",
        "norm.weight" => "output_norm.weight",
        "lm_head.weight" => "output.weight",
        "embeddings.position_embeddings.weight" => "position_embd.weight",
        "embeddings.token_type_embeddings.weight" => "token_types.weight",
        "embeddings.LayerNorm.weight" => "token_embd_norm.weight",
        "embeddings.LayerNorm.bias" => "token_embd_norm.bias",
        _ => "",
    };
    if !top.is_empty() {
        return Some(top.into());
    }
    let rest = name.strip_prefix("layers.").or(name.strip_prefix("encoder.layer."));
    let Some((layer, part)) = rest.and_then(|r| r.split_once('.')) else { return Some(name.into()) };
    let (part, kind) = part.rsplit_once('.').unwrap_or((part, ""));
    let gemma = architecture.starts_with("gemma");
    let part = match part {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" | "attention.self.query" => "attn_q",
        "self_attn.k_proj" | "attention.self.key" => "attn_k",
        "self_attn.v_proj" | "attention.self.value" => "attn_v",
        "self_attn.qkv_proj" => "attn_qkv",
        "self_attn.o_proj" | "attention.output.dense" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "post_attention_layernorm" if gemma => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" | "mlp.gate_up_proj" | "intermediate.dense" => "ffn_up",
        "mlp.down_proj" | "output.dense" => "ffn_down",
        "attention.output.LayerNorm" => "attn_output_norm",
        "output.LayerNorm" => "layer_output_norm",
        other => other,
    };
    Some(format!("blk.{layer}.{part}.{kind}"))
}

struct Metadata<'c, 'g, 'd> {
    config: &'c Json,
    architecture: &'c str,
    gguf: &'g mut Gguf<'d>,
}

impl Metadata<'_, '_, '_> {
    fn put(&mut self, key: &str, value: Value) {
        self.gguf.metadata.insert(format!("{}.{key}", self.architecture), value);
    }

    fn integer(&mut self, key: &str, from: &str) -> Result<(), EngineError> {
        match &self.config[from] {
            Json::Null => Ok(()),
            value => match value.as_u64() {
                Some(n) => {
                    self.put(key, Value::Unsigned(n));
                    Ok(())
                }
                None => unsupported(format!("{from} in config.json must be an integer")),
            },
        }
    }

    fn float(&mut self, key: &str, value: &Json) {
        if let Some(x) = value.as_f64() {
            self.put(key, Value::Float(x));
        }
    }

    fn write(&mut self, name: &str) -> Result<(), EngineError> {
        let c = self.config;
        let string = |s: &str| Value::String(s.to_owned());
        self.gguf.metadata.insert("general.architecture".into(), string(self.architecture));
        let given = c["_name_or_path"].as_str().and_then(|n| n.rsplit('/').next()).filter(|n| !n.is_empty());
        self.gguf.metadata.insert("general.name".into(), string(given.unwrap_or(name)));
        for (key, from) in [
            ("embedding_length", "hidden_size"),
            ("block_count", "num_hidden_layers"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
            ("attention.key_length", "head_dim"),
            ("context_length", "max_position_embeddings"),
        ] {
            self.integer(key, from)?;
        }
        self.float("attention.layer_norm_rms_epsilon", &c["rms_norm_eps"]);
        self.float("attention.layer_norm_epsilon", &c["layer_norm_eps"]);
        self.check_function()?;
        self.window()?;
        self.rope()?;
        match self.architecture {
            "gemma2" => {
                self.float("attn_logit_softcapping", &c["attn_logit_softcapping"]);
                self.float("final_logit_softcapping", &c["final_logit_softcapping"]);
            }
            "bert" => self.put("pooling_type", Value::Unsigned(1)),
            _ => {}
        }
        if let Some(scalar) = c["query_pre_attn_scalar"].as_f64() {
            self.put("attention.scale", Value::Float(1.0 / scalar.sqrt()));
        }
        Ok(())
    }

    /// The activation must be the one that the architecture has.
    fn check_function(&self) -> Result<(), EngineError> {
        let given = self.config["hidden_activation"].as_str().or(self.config["hidden_act"].as_str());
        let expected: &[&str] = match self.architecture {
            "gemma2" | "gemma3" => &["gelu_pytorch_tanh"],
            "bert" => &["gelu"],
            _ => &["silu"],
        };
        match given {
            Some(given) if !expected.contains(&given) => unsupported(format!("the activation {given:?}")),
            _ => Ok(()),
        }
    }

    fn window(&mut self) -> Result<(), EngineError> {
        let c = self.config;
        let off = c["use_sliding_window"] == false || self.architecture.starts_with("qwen");
        if self.architecture.starts_with("qwen") && c["use_sliding_window"] == true {
            return unsupported("sliding windows in Qwen models");
        }
        if !off {
            self.integer("attention.sliding_window", "sliding_window")?;
        }
        if let Some(layers) = c["layer_types"].as_array()
            && self.architecture.starts_with("gemma")
        {
            let full = |l: &Json| l == "full_attention";
            let first = layers.iter().position(full).map_or(layers.len() + 1, |i| i + 1);
            if layers.iter().enumerate().any(|(i, l)| full(l) != (i + 1).is_multiple_of(first)) {
                return unsupported("layers with sliding windows in no regular pattern");
            }
            self.put("attention.sliding_window_pattern", Value::Unsigned(first as u64));
        } else if self.architecture.starts_with("gemma") {
            self.integer("attention.sliding_window_pattern", "sliding_window_pattern")?;
        }
        Ok(())
    }

    fn rope(&mut self) -> Result<(), EngineError> {
        let c = self.config;
        // Since version 5 of transformers all of it is in `rope_parameters`, for each kind of layer if they differ.
        let parameters = &c["rope_parameters"];
        let (global, local) = match parameters.get("full_attention") {
            Some(global) => (global, &parameters["sliding_attention"]),
            None if parameters.is_object() => (parameters, &Json::Null),
            None => (&c["rope_scaling"], &Json::Null),
        };
        let theta = global["rope_theta"].as_f64().or(c["rope_theta"].as_f64());
        if let Some(theta) = theta {
            self.put("rope.freq_base", Value::Float(theta));
        }
        if let Some(theta) = local["rope_theta"].as_f64().or(c["rope_local_base_freq"].as_f64()) {
            self.put("rope.freq_base_swa", Value::Float(theta));
        }
        let head = match c["head_dim"].as_u64() {
            Some(n) => Some(n),
            None => c["hidden_size"]
                .as_u64()
                .zip(c["num_attention_heads"].as_u64())
                .and_then(|(w, h)| w.checked_div(h)),
        };
        let part =
            global["partial_rotary_factor"].as_f64().or(c["partial_rotary_factor"].as_f64()).unwrap_or(1.0);
        let dims = (head.unwrap_or(0).min(1 << 12) as f64 * part) as usize;
        if part != 1.0 {
            self.put("rope.dimension_count", Value::Unsigned(dims as u64));
        }
        let kind = global["rope_type"].as_str().or(global["type"].as_str()).unwrap_or("default");
        let number = |key: &str| global[key].as_f64();
        match kind {
            "default" => {}
            "linear" => {
                self.put("rope.scaling.type", Value::String("linear".into()));
                self.float("rope.scaling.factor", &global["factor"]);
            }
            "llama3" => {
                let parts = number("factor").zip(number("low_freq_factor")).zip(number("high_freq_factor"));
                let original = number("original_max_position_embeddings");
                let Some((((factor, low), high), original)) = parts.zip(original) else {
                    return unsupported("rope_scaling of type llama3 without its factors");
                };
                let theta = theta.unwrap_or(10_000.0);
                let divisors = llama3_divisors(dims, theta, factor, low, high, original);
                self.vector("rope_freqs.weight", &divisors);
            }
            "longrope" | "su" => {
                let list = |key: &str| -> Option<Vec<f32>> {
                    global[key].as_array()?.iter().map(|x| x.as_f64().map(|x| x as f32)).collect()
                };
                let original = number("original_max_position_embeddings")
                    .or(c["original_max_position_embeddings"].as_f64());
                let context = c["max_position_embeddings"].as_f64();
                let found = list("long_factor").zip(list("short_factor")).zip(original.zip(context));
                let Some(((long, short), (original, context))) = found else {
                    return unsupported("rope_scaling of type longrope without its factors");
                };
                self.vector("rope_factors_long.weight", &long);
                self.vector("rope_factors_short.weight", &short);
                self.put("rope.scaling.type", Value::String("longrope".into()));
                self.put("rope.scaling.original_context_length", Value::Unsigned(original as u64));
                let scale = context / original;
                let attention = match number("attention_factor") {
                    Some(given) => given,
                    None if scale <= 1.0 => 1.0,
                    None => libm::sqrt(1.0 + libm::log(scale) / libm::log(original)),
                };
                self.put("rope.scaling.attn_factor", Value::Float(attention));
            }
            other => return unsupported(format!("rotary positions scaled by {other:?}")),
        }
        Ok(())
    }

    fn vector(&mut self, name: &str, values: &[f32]) {
        let data = Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect());
        let tensor = Tensor { kind: TensorType::F32, dims: vec![values.len() as u64], data };
        self.gguf.tensors.insert(name.into(), tensor);
    }
}

/// Llama 3's scaling: low frequencies are divided by `factor`, high ones stay, those between are mixed.
fn llama3_divisors(dims: usize, theta: f64, factor: f64, low: f64, high: f64, original: f64) -> Vec<f32> {
    let pairs = (0..dims / 2).map(|i| {
        let frequency = libm::exp(-(2.0 * i as f64 / dims as f64) * libm::log(theta));
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    });
    pairs.map(|d| d as f32).collect()
}

/// What the converter does to weights: Llama's query and key rows are reordered for neighbouring pairs, Gemma's norms get one added.
fn convert(architecture: &str, config: &Json, gguf: &mut Gguf<'_>) -> Result<(), EngineError> {
    let heads = config["num_attention_heads"].as_u64().unwrap_or(0) as usize;
    let kv_heads = config["num_key_value_heads"].as_u64().map_or(heads, |n| n as usize);
    for (name, tensor) in &mut gguf.tensors {
        if architecture == "llama" && (name.contains(".attn_q.") || name.contains(".attn_k.")) {
            let heads = if name.contains(".attn_q.") { heads } else { kv_heads };
            reorder(tensor, heads, name)?;
        }
        if architecture.starts_with("gemma") && name.contains("norm") {
            add_one(tensor);
        }
    }
    Ok(())
}

/// Row `j * half + i` of each head becomes row `2 i + j`.
fn reorder(tensor: &mut Tensor<'_>, heads: usize, name: &str) -> Result<(), EngineError> {
    let rows = tensor.dims.last().copied().unwrap_or(0) as usize;
    if heads == 0 || rows == 0 || !rows.is_multiple_of(2 * heads) {
        return unsupported(format!("the rows of {name} do not make up heads"));
    }
    let (bytes, width) = (tensor.data.len() / rows, rows / heads);
    let mut out = Vec::with_capacity(tensor.data.len());
    for head in 0..heads {
        for i in 0..width / 2 {
            for j in 0..2 {
                let row = head * width + j * (width / 2) + i;
                out.extend_from_slice(&tensor.data[row * bytes..][..bytes]);
            }
        }
    }
    tensor.data = Cow::Owned(out);
    Ok(())
}

fn add_one(tensor: &mut Tensor<'_>) {
    let halves = || tensor.data.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
    let values: Vec<f32> = match tensor.kind {
        TensorType::F16 => halves().map(kernels::f16_to_f32).collect(),
        TensorType::BF16 => halves().map(|h| f32::from_bits(u32::from(h) << 16)).collect(),
        _ => tensor.data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    };
    tensor.kind = TensorType::F32;
    tensor.data = Cow::Owned(values.iter().flat_map(|v| (1.0 + v).to_le_bytes()).collect());
}
