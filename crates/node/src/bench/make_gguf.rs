//! `og bench make-gguf`: a model file with the shape of a known model and random weights, for measuring speed and memory.
//!
//! Nothing is downloaded and nothing is learnt: answers of such a model are noise. The speed of a Llama does not depend on the
//! values of its weights, only on shape and type. The file is written from front to back, in small pieces.

use super::{
    random_weights::{CHUNK_BLOCKS, RandomWeights, WeightType},
    shapes::Shape,
    vocabulary,
};
use crate::{cli::MakeGgufArgs, output::outln};
use anyhow::{Context as _, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use kernels::Pool;
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

/// Every tensor begins at a multiple of this many bytes, GGUF's default.
const ALIGNMENT: u64 = 32;
/// GGUF's number of the tensor type of 32-bit floats.
const F32: u32 = 0;

/// Writes the file that `args` ask for.
///
/// # Errors
/// The file is already there, or cannot be written.
pub(crate) fn run(args: &MakeGgufArgs) -> anyhow::Result<()> {
    let path = &args.out;
    let shown = path.display();
    ensure!(
        args.force || !path.exists(),
        "{shown} is already there; choose another --out, or overwrite it with --force"
    );
    let plan = Plan::new(args.shape.shape(), args.kind, args.seed);
    let size = plan.bytes();
    // A draft beside it, so that a file with the final name is always whole.
    let mut draft = path.clone().into_os_string();
    draft.push(".part");
    let draft = Path::new(&draft);
    let write = || -> io::Result<()> {
        let bar = ProgressBar::new(size).with_style(style());
        let mut out = BufWriter::with_capacity(1 << 20, File::create(draft)?);
        plan.write(&mut bar.wrap_write(&mut out))?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        bar.finish_and_clear();
        std::fs::rename(draft, path)
    };
    if let Err(e) = write() {
        // It may not exist; the error to tell is the first one.
        let _ = std::fs::remove_file(draft);
        return Err(e).with_context(|| {
            format!("cannot write {shown}; its folder must exist and have {:.1} MB free", size as f64 / 1e6)
        });
    }
    outln!("{shown}: {}, {} tensors, {size} bytes", plan.name(), plan.tensors.len());
    Ok(())
}

fn style() -> ProgressStyle {
    let template = "{bar:40} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// What a tensor holds.
#[derive(Clone, Debug, PartialEq)]
enum Content {
    /// Random weights of a matrix.
    Matrix(WeightType),
    /// Random weights of a norm.
    Norm,
    /// These values.
    Values(Vec<f32>),
}

/// One tensor of the file.
#[derive(Clone, Debug, PartialEq)]
struct TensorPlan {
    name: String,
    /// Fastest first.
    dims: Vec<u32>,
    content: Content,
}

impl TensorPlan {
    fn elements(&self) -> u64 {
        self.dims.iter().map(|d| u64::from(*d)).product()
    }

    fn bytes(&self) -> u64 {
        match &self.content {
            Content::Matrix(kind) => self.elements() / 32 * kind.block_bytes(),
            Content::Norm | Content::Values(_) => self.elements() * 4,
        }
    }

    fn type_number(&self) -> u32 {
        match &self.content {
            Content::Matrix(kind) => kind.number(),
            Content::Norm | Content::Values(_) => F32,
        }
    }
}

/// A whole file.
pub(crate) struct Plan {
    shape: Shape,
    kind: WeightType,
    seed: u64,
    tensors: Vec<TensorPlan>,
    /// All before the first tensor's data.
    header: Vec<u8>,
}

impl Plan {
    pub(crate) fn new(shape: Shape, kind: WeightType, seed: u64) -> Self {
        let mut plan = Self { shape, kind, seed, tensors: tensors(&shape, kind), header: vec![] };
        plan.header = plan.make_header();
        plan
    }

    fn name(&self) -> String {
        format!("random-{}", self.shape.name)
    }

    /// Size of the file.
    pub(crate) fn bytes(&self) -> u64 {
        let data: u64 = self.tensors.iter().map(|t| t.bytes().next_multiple_of(ALIGNMENT)).sum();
        self.header.len() as u64 + data
    }

    fn make_header(&self) -> Vec<u8> {
        let metadata = Metadata::describe(self);
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(metadata.count.to_le_bytes());
        out.extend(metadata.bytes);
        let mut offset = 0u64;
        for tensor in &self.tensors {
            string(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            for d in &tensor.dims {
                out.extend(u64::from(*d).to_le_bytes());
            }
            out.extend(tensor.type_number().to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += tensor.bytes().next_multiple_of(ALIGNMENT);
        }
        pad(&mut out);
        out
    }

    /// Writes the file to `to`.
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.header)?;
        let weights = RandomWeights::new(self.seed);
        let pool = Pool::new(std::thread::available_parallelism().map_or(1, usize::from));
        // Pieces that are made at once, and then written in order.
        let mut pieces = vec![Vec::new(); 4 * pool.threads()];
        for (number, tensor) in (0u32..).zip(&self.tensors) {
            match &tensor.content {
                Content::Matrix(kind) => {
                    // Keeps the size of activations: 1 / sqrt(inputs). Square roots are exact.
                    let sigma = 1.0 / (tensor.dims[0] as f32).sqrt();
                    let blocks = tensor.elements() / 32;
                    for first in (0..blocks).step_by(pieces.len() * CHUNK_BLOCKS as usize) {
                        pool.for_each_chunk(&mut pieces, 1, &|i, piece| {
                            let from = blocks.min(first + i as u64 * CHUNK_BLOCKS);
                            for piece in piece {
                                piece.clear();
                                let range = from..blocks.min(from + CHUNK_BLOCKS);
                                weights.blocks(*kind, number, sigma, range, piece);
                            }
                        });
                        pieces.iter().try_for_each(|piece| to.write_all(piece))?;
                    }
                }
                Content::Norm => write_floats(to, &weights.norm(number, tensor.dims[0]))?,
                Content::Values(values) => write_floats(to, values)?,
            }
            let padding = tensor.bytes().next_multiple_of(ALIGNMENT) - tensor.bytes();
            to.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
        }
        to.flush()
    }
}

/// The tensors of a Llama, in the order of the file.
fn tensors(s: &Shape, kind: WeightType) -> Vec<TensorPlan> {
    let mut all = Vec::new();
    let mut add = |name: String, dims: &[u32], content: Content| {
        all.push(TensorPlan { name, dims: dims.to_vec(), content });
    };
    let matrix = Content::Matrix(kind);
    let (query, kv) = (s.heads * s.head_width, s.kv_heads * s.head_width);
    add("token_embd.weight".into(), &[s.width, s.vocabulary], matrix.clone());
    if let Some(factors) = s.rope_factors() {
        add("rope_freqs.weight".into(), &[s.head_width / 2], Content::Values(factors));
    }
    for i in 0..s.layers {
        let name = |part: &str| format!("blk.{i}.{part}.weight");
        add(name("attn_norm"), &[s.width], Content::Norm);
        add(name("attn_q"), &[s.width, query], matrix.clone());
        add(name("attn_k"), &[s.width, kv], matrix.clone());
        add(name("attn_v"), &[s.width, kv], matrix.clone());
        add(name("attn_output"), &[query, s.width], matrix.clone());
        add(name("ffn_norm"), &[s.width], Content::Norm);
        add(name("ffn_gate"), &[s.width, s.hidden], matrix.clone());
        add(name("ffn_up"), &[s.width, s.hidden], matrix.clone());
        add(name("ffn_down"), &[s.hidden, s.width], matrix.clone());
    }
    add("output_norm.weight".into(), &[s.width], Content::Norm);
    if !s.tied {
        add("output.weight".into(), &[s.width, s.vocabulary], matrix);
    }
    all
}

/// Metadata in GGUF's encoding.
#[derive(Default)]
struct Metadata {
    count: u64,
    bytes: Vec<u8>,
}

/// GGUF's numbers of value types.
const UINT32: u32 = 4;
const INT32: u32 = 5;
const FLOAT32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

impl Metadata {
    fn key(&mut self, key: &str, kind: u32) {
        self.count += 1;
        string(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, STRING);
        string(&mut self.bytes, value);
    }

    fn integer(&mut self, key: &str, value: u32) {
        self.key(key, UINT32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn float(&mut self, key: &str, value: f32) {
        self.key(key, FLOAT32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn no(&mut self, key: &str) {
        self.key(key, BOOL);
        self.bytes.push(0);
    }

    fn array(&mut self, key: &str, kind: u32, len: usize) {
        self.key(key, ARRAY);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((len as u64).to_le_bytes());
    }

    fn describe(plan: &Plan) -> Self {
        let s = &plan.shape;
        let mut m = Self::default();
        m.text("general.architecture", "llama");
        m.text("general.name", &plan.name());
        m.text("general.description", "Random weights for measuring speed; its answers are noise");
        m.integer("general.file_type", plan.kind.file_type());
        m.integer("general.quantization_version", 2);
        m.integer("llama.context_length", s.context);
        m.integer("llama.embedding_length", s.width);
        m.integer("llama.block_count", s.layers);
        m.integer("llama.feed_forward_length", s.hidden);
        m.integer("llama.attention.head_count", s.heads);
        m.integer("llama.attention.head_count_kv", s.kv_heads);
        m.integer("llama.attention.key_length", s.head_width);
        m.integer("llama.attention.value_length", s.head_width);
        m.integer("llama.rope.dimension_count", s.head_width);
        m.float("llama.rope.freq_base", s.theta);
        m.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
        m.integer("llama.vocab_size", s.vocabulary);
        m.text("tokenizer.ggml.model", "gpt2");
        m.text("tokenizer.ggml.pre", "gpt-2");
        let tokens = vocabulary::tokens(s.vocabulary);
        m.array("tokenizer.ggml.tokens", STRING, tokens.len());
        for token in &tokens {
            string(&mut m.bytes, token);
        }
        m.array("tokenizer.ggml.token_type", INT32, tokens.len());
        for id in 0..tokens.len() {
            // Control tokens have type 3, ordinary ones type 1.
            let kind: i32 = if id < vocabulary::SPECIAL.len() { 3 } else { 1 };
            m.bytes.extend(kind.to_le_bytes());
        }
        m.array("tokenizer.ggml.merges", STRING, 0);
        m.integer("tokenizer.ggml.bos_token_id", vocabulary::BOS);
        m.integer("tokenizer.ggml.eos_token_id", vocabulary::END_OF_TURN);
        m.integer("tokenizer.ggml.padding_token_id", vocabulary::BOS);
        m.no("tokenizer.ggml.add_bos_token");
        m.no("tokenizer.ggml.add_space_prefix");
        m.text("tokenizer.chat_template", vocabulary::CHAT_TEMPLATE);
        m
    }
}

fn string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

/// Fills up to the alignment.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
}

fn write_floats(to: &mut impl Write, values: &[f32]) -> io::Result<()> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    to.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::bench::ShapeName;
    use engine::{ChatMessage, Model, Role, formats::gguf::Gguf};

    fn file(shape: Shape, kind: WeightType, seed: u64) -> Vec<u8> {
        let plan = Plan::new(shape, kind, seed);
        let mut bytes = Vec::new();
        plan.write(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, plan.bytes());
        bytes
    }

    #[test]
    fn the_engine_loads_what_is_written() {
        let shape = ShapeName::Tiny.shape();
        let model = Model::parse(&file(shape, WeightType::Q8x0, 1)).unwrap();
        let manifest = model.manifest();
        assert_eq!((manifest.name.as_str(), manifest.vocab_size), ("random-tiny", shape.vocabulary));
        assert_eq!(model.context_length(), shape.context as usize);
        // Every text can be spelt and comes back.
        let text = "Grüße,\n\0 world\u{7f}";
        let tokens = model.tokenizer().encode_text(text).unwrap();
        assert_eq!((tokens.len(), model.tokenizer().decode(&tokens).as_str()), (text.len(), text));
        let chat = [ChatMessage::text(Role::User, "Hi")];
        let prompt = model.chat_prompt(&chat, &[], 0).unwrap();
        assert_eq!(prompt.iter().filter(|t| **t == 1).count(), 2, "two turns begin");
        assert_eq!(prompt.iter().filter(|t| **t == vocabulary::END_OF_TURN).count(), 1);
    }

    #[test]
    fn same_seed_same_bytes() {
        let shape = ShapeName::Tiny.shape();
        let first = file(shape, WeightType::Q8x0, 7);
        assert_eq!(first, file(shape, WeightType::Q8x0, 7));
        assert_ne!(first, file(shape, WeightType::Q8x0, 8));
        // Golden: the bytes are the same on every machine and in every version.
        assert_eq!(
            types::keccak256(&first).to_string(),
            "0x50a43e28e058e4e22bae32e7cf9f1656bb5a395fd344ef268df57f0c4928536d"
        );
    }

    #[test]
    fn an_untied_head_and_stretched_angles_are_tensors_of_their_own() {
        let tiny = ShapeName::Tiny.shape();
        let scaling = ShapeName::Llama32x1b.shape().rope_scaling;
        let bytes = file(Shape { tied: false, rope_scaling: scaling, ..tiny }, WeightType::Q8x0, 1);
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(gguf.tensor("output.weight").unwrap().dims, [64, 512]);
        assert_eq!(gguf.tensor("rope_freqs.weight").unwrap().dims, [8]);
        assert!(
            !Gguf::parse(&file(tiny, WeightType::Q8x0, 1)).unwrap().tensors.contains_key("output.weight")
        );
    }

    #[test]
    fn sizes_are_those_of_the_models() {
        let parameters = |name: ShapeName| -> u64 {
            let shape = name.shape();
            tensors(&shape, WeightType::Q8x0)
                .iter()
                .filter(|t| t.name != "rope_freqs.weight")
                .map(TensorPlan::elements)
                .sum()
        };
        // The parameter counts that the models' publishers give.
        assert_eq!(parameters(ShapeName::SmolLm135m), 134_515_008);
        assert_eq!(parameters(ShapeName::TinyLlama1b), 1_100_048_384);
        assert_eq!(parameters(ShapeName::Llama32x1b), 1_235_814_400);
        assert_eq!(parameters(ShapeName::Llama31x8b), 8_030_261_248);
    }
}
