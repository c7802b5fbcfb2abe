use crate::{LeafOpening, RefereeError, Witness};
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
use types::{B256, Bytes, TokenOpening, TypesError};

/// Longest move in bytes.
const MOVE_BYTES_MAX: usize = 256 << 10;

/// What the challenger alleges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Something in the trace is wrong, or a token that was fed.
    Trace,
    /// This generated token (by its index) is wrong, or is another one than the trace was computed with.
    Output(u64),
}

/// What a party does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Node: roots of the parts of the current tree.
    Nodes(Vec<B256>),
    /// Challenger: the first part (or vector) that differs.
    Pick(u64),
    /// Node: data of the leaf of a position.
    Leaf(Bytes),
    /// Challenger: the first row of that leaf that differs.
    Row {
        /// The layer.
        layer: u64,
        /// Whether it is the output, not the keys and values.
        output: bool,
    },
    /// Challenger: the leaf's token is not the prompt's.
    PromptToken(TokenOpening),
    /// Challenger: the leaf's (or opened) token is not what is chosen at the position before.
    Chosen,
    /// Node: RLP of the manifest, and the roots of all vectors of the program.
    Table {
        /// The manifest.
        manifest: Bytes,
        /// A root for each vector.
        roots: Vec<B256>,
    },
    /// Node: a chunk of a vector.
    Chunk(Bytes),
    /// Challenger: which element of the chunk is wrong, and everything that it is computed from.
    Prove {
        /// The manifest.
        manifest: Bytes,
        /// Number of the element in the vector.
        cell: u64,
        /// See [`eval`](crate::eval); `u32::MAX` for none.
        hint: u32,
        /// The inputs.
        witness: Box<Witness>,
    },
    /// Node: the generated token that was asked for.
    OutputToken(TokenOpening),
    /// Challenger: the leaf of the trace where another token was fed than the one opened.
    Contradiction(LeafOpening),
}

#[derive(RlpEncodable, RlpDecodable)]
struct RowFields {
    layer: u64,
    output: bool,
}
#[derive(RlpEncodable, RlpDecodable)]
struct TableFields {
    manifest: Bytes,
    roots: Vec<B256>,
}
#[derive(RlpEncodable, RlpDecodable)]
struct ProveFields {
    manifest: Bytes,
    cell: u64,
    hint: u32,
    witness: Witness,
}

fn decode<T: Decodable>(what: &'static str, bytes: &[u8]) -> Result<T, RefereeError> {
    alloy_rlp::decode_exact(bytes).map_err(|e| TypesError::Encoding { what, detail: e.to_string() }.into())
}

fn tagged(tag: u8, body: &dyn Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![tag];
    body(&mut out);
    out
}

impl Move {
    /// Canonical bytes: a number for the kind, then RLP.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Nodes(nodes) => tagged(0, &|out| nodes.encode(out)),
            Self::Pick(index) => tagged(1, &|out| index.encode(out)),
            Self::Leaf(data) => tagged(2, &|out| data.encode(out)),
            Self::Row { layer, output } => {
                tagged(3, &|out| RowFields { layer: *layer, output: *output }.encode(out))
            }
            Self::PromptToken(opening) => tagged(4, &|out| opening.encode(out)),
            Self::Chosen => vec![5],
            Self::Table { manifest, roots } => {
                tagged(6, &|out| TableFields { manifest: manifest.clone(), roots: roots.clone() }.encode(out))
            }
            Self::Chunk(bytes) => tagged(7, &|out| bytes.encode(out)),
            Self::Prove { manifest, cell, hint, witness } => tagged(8, &|out| {
                let witness = (**witness).clone();
                ProveFields { manifest: manifest.clone(), cell: *cell, hint: *hint, witness }.encode(out)
            }),
            Self::OutputToken(opening) => tagged(9, &|out| opening.encode(out)),
            Self::Contradiction(leaf) => tagged(10, &|out| leaf.encode(out)),
        }
    }

    /// Decodes canonical bytes.
    ///
    /// # Errors
    /// [`RefereeError::Types`] when too long or not canonical.
    pub fn decode(bytes: &[u8]) -> Result<Self, RefereeError> {
        if bytes.len() > MOVE_BYTES_MAX {
            return Err(TypesError::TooLarge { what: "move", size: bytes.len(), max: MOVE_BYTES_MAX }.into());
        }
        let Some((tag, body)) = bytes.split_first() else { return Err(RefereeError::BadMove("no bytes")) };
        Ok(match tag {
            0 => Self::Nodes(decode("move", body)?),
            1 => Self::Pick(decode("move", body)?),
            2 => Self::Leaf(decode("move", body)?),
            3 => {
                let RowFields { layer, output } = decode("move", body)?;
                Self::Row { layer, output }
            }
            4 => Self::PromptToken(decode("move", body)?),
            5 if body.is_empty() => Self::Chosen,
            6 => {
                let TableFields { manifest, roots } = decode("move", body)?;
                Self::Table { manifest, roots }
            }
            7 => Self::Chunk(decode("move", body)?),
            8 => {
                let ProveFields { manifest, cell, hint, witness } = decode("move", body)?;
                Self::Prove { manifest, cell, hint, witness: Box::new(witness) }
            }
            9 => Self::OutputToken(decode("move", body)?),
            10 => Self::Contradiction(decode("move", body)?),
            _ => return Err(RefereeError::BadMove("an unknown kind")),
        })
    }
}

impl Opening {
    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Trace => vec![0],
            Self::Output(index) => tagged(1, &|out| index.encode(out)),
        }
    }

    /// Decodes canonical bytes.
    ///
    /// # Errors
    /// [`RefereeError`] when not canonical.
    pub fn decode(bytes: &[u8]) -> Result<Self, RefereeError> {
        match bytes.split_first() {
            Some((0, [])) => Ok(Self::Trace),
            Some((1, body)) => Ok(Self::Output(decode("opening", body)?)),
            _ => Err(RefereeError::BadMove("an unknown allegation")),
        }
    }
}
