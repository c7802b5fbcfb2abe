use crate::{
    EngineError, Model,
    arch::loader::{CHUNK_BYTES, decode_floats},
    formats::{
        gguf::{Gguf, Tensor, TensorType},
        huggingface::Directory,
    },
    model::Source,
};
use kernels::{FileMap, Format, quantise_q8_0};
use referee::{TensorKind, TensorOpening, tensor_leaf};
use std::{collections::BTreeMap, ops::Range};
use types::{
    B256, merkle,
    opening::{RangeOpening, chunk_hashes},
};

const _: () = assert!(CHUNK_BYTES == referee::TENSOR_CHUNK, "one size of chunks");

/// A tensor's bytes as the arithmetic sees them.
#[derive(Debug)]
struct Canonical {
    number: u32,
    dims: Vec<u64>,
    bytes: Vec<u8>,
    hashes: Vec<B256>,
    root: B256,
}

/// All weights of a model with their Merkle trees, so that any part can be opened under the model id.
#[derive(Debug)]
pub struct TensorStore {
    tensors: BTreeMap<String, Canonical>,
    leaves: Vec<B256>,
}

impl TensorStore {
    /// Reads the model's file again.
    ///
    /// # Errors
    /// [`EngineError`] when it is gone or another one now.
    pub fn open(model: &Model) -> Result<Self, EngineError> {
        let fault = |path: &std::path::Path, reason: String| EngineError::File {
            path: path.display().to_string(),
            reason,
        };
        let store = match &model.source {
            Source::Bytes(bytes) => Self::read(&Gguf::parse(bytes)?)?,
            Source::Path(path) if path.is_dir() => Self::read(&Directory::open(path)?.gguf()?)?,
            Source::Path(path) => {
                let map = FileMap::open(path).map_err(|e| fault(path, e.to_string()))?;
                Self::read(&Gguf::parse(&map)?)?
            }
        };
        if merkle::root(&store.leaves) != model.manifest().weights_root {
            return Err(EngineError::Format("the model's file has changed since it was loaded".into()));
        }
        Ok(store)
    }

    fn read(gguf: &Gguf<'_>) -> Result<Self, EngineError> {
        let mut tensors = BTreeMap::new();
        for (name, tensor) in &gguf.tensors {
            let (kind, bytes) = canonical(name, tensor)?;
            let hashes = chunk_hashes(&bytes, CHUNK_BYTES);
            let (number, dims, root) = (kind.number(), tensor.dims.clone(), merkle::root(&hashes));
            tensors.insert(name.clone(), Canonical { number, dims, bytes, hashes, root });
        }
        let leaf = |(name, t): (&String, &Canonical)| tensor_leaf(name, t.number, &t.dims, &t.root);
        let leaves = tensors.iter().map(leaf).collect();
        Ok(Self { tensors, leaves })
    }

    pub(super) fn kind(&self, name: &str) -> Option<(TensorKind, Vec<u64>)> {
        let tensor = self.tensors.get(name)?;
        Some((TensorKind::from_number(tensor.number)?, tensor.dims.clone()))
    }

    pub(super) fn bytes(&self, name: &str, range: Range<usize>) -> Option<&[u8]> {
        self.tensors.get(name)?.bytes.get(range)
    }

    /// Opens bytes of a tensor.
    pub(super) fn open_range(&self, name: &str, range: Range<usize>) -> Option<TensorOpening> {
        let index = self.tensors.keys().position(|n| n == name)?;
        let t = self.tensors.get(name).filter(|t| range.start < range.end && range.end <= t.bytes.len())?;
        Some(TensorOpening {
            name: name.to_owned(),
            kind: t.number,
            dims: t.dims.clone(),
            root: t.root,
            index: index as u64,
            count: self.leaves.len() as u64,
            path: merkle::range_path(&self.leaves, index..index + 1)?,
            len: t.bytes.len() as u64,
            opening: RangeOpening::new(&t.bytes, &t.hashes, CHUNK_BYTES, range),
        })
    }
}

/// Float matrices as the canonical quantiser makes them, vectors as f32, blocks as they are.
fn canonical(name: &str, tensor: &Tensor<'_>) -> Result<(TensorType, Vec<u8>), EngineError> {
    let Some(values) = decode_floats(tensor.kind, &tensor.data) else {
        return Ok((tensor.kind, tensor.data.to_vec()));
    };
    if let [_] = tensor.dims[..] {
        return Ok((TensorType::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
    }
    let k = tensor.dims.first().copied().unwrap_or(0) as usize;
    let rows =
        values.chunks(k.max(1)).map(|row| quantise_q8_0(row).ok_or(())).collect::<Result<Vec<_>, ()>>();
    let rows = rows.map_err(|()| EngineError::Format(format!("the tensor {name} cannot be quantised")))?;
    Ok((TensorType::Blocks(Format::Q8_0), rows.concat()))
}
