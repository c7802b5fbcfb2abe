//! GGUF versions 2 and 3 (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>), read from a byte slice.
//!
//! Every count, length and offset is checked against the bytes that are there before anything is allocated.

use crate::EngineError;
use kernels::Format;
use std::{borrow::Cow, collections::BTreeMap};

/// Most metadata entries and tensors.
const COUNT_MAX: u64 = 1 << 16;
/// Deepest nesting of arrays.
const DEPTH_MAX: usize = 2;
/// Most dimensions of a tensor.
const DIMENSIONS_MAX: u32 = 4;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Any float.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A UTF-8 string.
    String(String),
    /// An array of one type.
    Array(Vec<Value>),
}

/// Type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats (IEEE-754 half).
    F16,
    /// 16-bit floats (the upper half of an f32).
    BF16,
    /// A block format of the exact arithmetic.
    Blocks(Format),
}

impl TensorType {
    fn from_number(n: u32) -> Option<Self> {
        Some(match n {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Blocks(Format::Q4_0),
            8 => Self::Blocks(Format::Q8_0),
            12 => Self::Blocks(Format::Q4K),
            14 => Self::Blocks(Format::Q6K),
            30 => Self::BF16,
            _ => return None,
        })
    }

    /// The number in the file.
    pub fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Blocks(Format::Q4_0) => 2,
            Self::Blocks(Format::Q8_0) => 8,
            Self::Blocks(Format::Q4K) => 12,
            Self::Blocks(Format::Q6K) => 14,
            Self::BF16 => 30,
        }
    }

    /// Elements and bytes of one block.
    fn block(self) -> (u64, u64) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Blocks(format) => {
                let (elements, bytes) = format.block();
                (elements as u64, bytes as u64)
            }
        }
    }
}

/// One tensor: its shape and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor<'a> {
    /// Element type.
    pub kind: TensorType,
    /// Dimensions, fastest first.
    pub dims: Vec<u64>,
    /// Raw data.
    pub data: Cow<'a, [u8]>,
}

impl Tensor<'_> {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// A model file in GGUF's terms: other formats are turned into this before anything is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Gguf<'a> {
    /// Metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, Tensor<'a>>,
}

fn bad(detail: impl Into<String>) -> EngineError {
    EngineError::Format(detail.into())
}

/// A cursor that never runs over the end.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8], EngineError> {
        let rest = &self.bytes[self.at..];
        let n = usize::try_from(n).ok().filter(|n| *n <= rest.len());
        let n = n.ok_or_else(|| bad(format!("it ends inside a value at byte {}", self.at)))?;
        self.at += n;
        Ok(&rest[..n])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], EngineError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, EngineError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, EngineError> {
        self.array().map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Result<String, EngineError> {
        let n = self.u64()?;
        let bytes = self.take(n)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| bad("a string is not UTF-8"))
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, EngineError> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(self.array::<1>()?[0])),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.array()?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array()?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.array()?))),
            4 => Value::Unsigned(u64::from(self.u32()?)),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.array()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array()?))),
            7 => match self.array::<1>()?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(bad(format!("a boolean is {other}"))),
            },
            8 => Value::String(self.string()?),
            9 => self.list(depth)?,
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(bad(format!("unknown value type {other}"))),
        })
    }

    fn list(&mut self, depth: usize) -> Result<Value, EngineError> {
        if depth == DEPTH_MAX {
            return Err(bad("arrays are nested too deeply"));
        }
        let kind = self.u32()?;
        let n = self.u64()?;
        // Every element has at least one byte, so a count beyond the rest of the file is a lie.
        if n > (self.bytes.len() - self.at) as u64 {
            return Err(bad(format!("an array claims {n} elements, more than the file has bytes left")));
        }
        let mut out = Vec::new();
        for _ in 0..n {
            out.push(self.value(kind, depth + 1)?);
        }
        Ok(Value::Array(out))
    }
}

impl<'a> Gguf<'a> {
    /// Parses `bytes`.
    ///
    /// # Errors
    /// [`EngineError::Format`] says what is unsound; [`EngineError::Unsupported`] names a tensor type that this engine cannot run.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EngineError> {
        let mut r = Reader { bytes, at: 0 };
        if r.take(4)? != b"GGUF" {
            return Err(bad("it does not begin with GGUF"));
        }
        let version = r.u32()?;
        if !(2..=3).contains(&version) {
            return Err(bad(format!("version {version}; this engine reads 2 and 3")));
        }
        let (tensor_count, metadata_count) = (r.u64()?, r.u64()?);
        if tensor_count > COUNT_MAX || metadata_count > COUNT_MAX {
            return Err(bad(format!(
                "{tensor_count} tensors and {metadata_count} keys; at most {COUNT_MAX} of each"
            )));
        }
        let mut metadata = BTreeMap::new();
        for _ in 0..metadata_count {
            let key = r.string()?;
            let kind = r.u32()?;
            let value = r.value(kind, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(bad(format!("the key {key:?} is there twice")));
            }
        }
        let infos = (0..tensor_count).map(|_| TensorInfo::read(&mut r)).collect::<Result<Vec<_>, _>>()?;
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::Unsigned(a)) if a.is_power_of_two() && *a <= 1 << 16 => *a,
            Some(_) => return Err(bad("general.alignment must be a power of two up to 65536")),
        };
        let base = (r.at as u64).next_multiple_of(alignment);
        let tensors = place(bytes, infos, base, alignment)?;
        Ok(Self { metadata, tensors })
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when there is none.
    pub fn tensor(&self, name: &str) -> Result<&Tensor<'a>, EngineError> {
        self.tensors
            .get(name)
            .ok_or_else(|| EngineError::Unsupported(format!("the tensor {name} is missing")))
    }

    /// The string `key`.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when it is missing or of another type.
    pub fn string(&self, key: &str) -> Result<&str, EngineError> {
        match self.metadata.get(key) {
            Some(Value::String(s)) => Ok(s),
            _ => Err(EngineError::Unsupported(format!("the metadata string {key} is missing"))),
        }
    }

    /// The string `key`, if present.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when it is of another type.
    pub fn optional_string(&self, key: &str) -> Result<Option<&str>, EngineError> {
        match self.metadata.contains_key(key) {
            true => self.string(key).map(Some),
            false => Ok(None),
        }
    }

    /// The unsigned integer `key`.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when it is missing, of another type or above 2³².
    pub fn integer(&self, key: &str) -> Result<u32, EngineError> {
        match self.metadata.get(key) {
            Some(Value::Unsigned(n)) => u32::try_from(*n).ok(),
            Some(Value::Signed(n)) => u32::try_from(*n).ok(),
            _ => None,
        }
        .ok_or_else(|| {
            EngineError::Unsupported(format!("the metadata integer {key} is missing or out of range"))
        })
    }

    /// The float `key`, if present.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when it is of another type or not finite.
    pub fn float(&self, key: &str) -> Result<Option<f64>, EngineError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() => Ok(Some(*x)),
            Some(_) => Err(EngineError::Unsupported(format!("the metadata {key} must be a finite float"))),
        }
    }

    /// The array `key`.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] when it is missing or of another type.
    pub fn list(&self, key: &str) -> Result<&[Value], EngineError> {
        match self.metadata.get(key) {
            Some(Value::Array(a)) => Ok(a),
            _ => Err(EngineError::Unsupported(format!("the metadata array {key} is missing"))),
        }
    }
}

struct TensorInfo {
    name: String,
    kind: TensorType,
    dims: Vec<u64>,
    offset: u64,
    bytes: u64,
}

impl TensorInfo {
    fn read(r: &mut Reader<'_>) -> Result<Self, EngineError> {
        let name = r.string()?;
        let n = r.u32()?;
        if n == 0 || n > DIMENSIONS_MAX {
            return Err(bad(format!("the tensor {name:?} has {n} dimensions")));
        }
        let dims = (0..n).map(|_| r.u64()).collect::<Result<Vec<_>, _>>()?;
        let number = r.u32()?;
        let offset = r.u64()?;
        let kind = TensorType::from_number(number).ok_or_else(|| {
            EngineError::Unsupported(format!(
                "the tensor {name:?} has type {number}; this engine runs F32, F16, BF16, Q8_0, Q4_0, Q4_K and Q6_K: convert the file to Q8_0"
            ))
        })?;
        let (block, block_bytes) = kind.block();
        let elements = dims.iter().try_fold(1u64, |a, d| a.checked_mul(*d)).filter(|e| *e > 0);
        let elements = elements.ok_or_else(|| bad(format!("the tensor {name:?} has the size {dims:?}")))?;
        if !dims[0].is_multiple_of(block) {
            return Err(bad(format!("rows of the tensor {name:?} are no multiple of {block}")));
        }
        let bytes = (elements / block).checked_mul(block_bytes);
        let bytes = bytes.ok_or_else(|| bad(format!("the tensor {name:?} is too large")))?;
        Ok(Self { name, kind, dims, offset, bytes })
    }
}

/// Cuts the tensors out of the file; they must be inside, aligned and apart.
fn place<'a>(
    bytes: &'a [u8],
    mut infos: Vec<TensorInfo>,
    base: u64,
    alignment: u64,
) -> Result<BTreeMap<String, Tensor<'a>>, EngineError> {
    infos.sort_by_key(|i| i.offset);
    let mut end = 0u64;
    let mut tensors = BTreeMap::new();
    for info in infos {
        let name = &info.name;
        if info.offset < end || !info.offset.is_multiple_of(alignment) {
            return Err(bad(format!("the tensor {name:?} overlaps another one or is not aligned")));
        }
        end = info.offset.checked_add(info.bytes).ok_or_else(|| bad("a tensor's offset overflows"))?;
        let range = base.checked_add(info.offset).zip(base.checked_add(end));
        let data = range
            .and_then(|(from, to)| bytes.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?))
            .ok_or_else(|| bad(format!("the file ends before the tensor {name:?} does")))?;
        let tensor = Tensor { kind: info.kind, dims: info.dims, data: Cow::Borrowed(data) };
        if tensors.insert(info.name.clone(), tensor).is_some() {
            return Err(bad(format!("the tensor {:?} is there twice", info.name)));
        }
    }
    Ok(tensors)
}
