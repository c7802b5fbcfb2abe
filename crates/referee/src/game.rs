//! The game: who moves, what a move does, and who has won.

use crate::{
    CELL_CHUNK, LeafOpening, Move, Opening, Program, RefereeError, RowKind, Shape, Witness, eval,
    leaf_digest,
    witness::{Commitments, Opened},
};
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
use types::{
    ARITHMETIC_EXACT, B256, Bytes, Claim, ModelManifest, TokenOpening, TypesError, merkle,
    opening::{frontier_parts, frontier_root},
};

/// Longest state in bytes.
const STATE_BYTES_MAX: usize = 128 << 10;

/// Above every number in a state, so that sums of them and of a few others do not overflow.
const NUMBER_MAX: u64 = 1 << 44;

/// Who moves next, or has won.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// Who disputes the claim.
    Challenger,
    /// Who signed the claim.
    Node,
}

/// What a step of the game leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The game goes on.
    Next(Box<Game>),
    /// It is over.
    Won(Party),
}

/// Where a game stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Node: shows the parts of a tree over positions.
    Positions,
    /// Challenger: picks one.
    PickPositions,
    /// Node: shows a leaf.
    Leaf,
    /// Challenger: names what differs in it.
    PickRow,
    /// Node: commits to the vectors of a program.
    Table,
    /// Challenger: names the first vector that differs.
    PickVector,
    /// Node: shows the parts of the tree over a vector.
    Cells,
    /// Challenger: picks one.
    PickCells,
    /// Node: shows a chunk of a vector.
    Chunk,
    /// Challenger: proves an element of it wrong.
    Prove,
    /// Node: opens a generated token.
    OutputToken,
    /// Challenger: says what is wrong with it.
    PickToken,
}

const PHASES: [Phase; 12] = [
    Phase::Positions,
    Phase::PickPositions,
    Phase::Leaf,
    Phase::PickRow,
    Phase::Table,
    Phase::PickVector,
    Phase::Cells,
    Phase::PickCells,
    Phase::Chunk,
    Phase::Prove,
    Phase::OutputToken,
    Phase::PickToken,
];

impl Encodable for Phase {
    fn encode(&self, out: &mut dyn alloy_rlp::BufMut) {
        (*self as u8).encode(out);
    }
    fn length(&self) -> usize {
        (*self as u8).length()
    }
}

impl Decodable for Phase {
    fn decode(buf: &mut &[u8]) -> alloy_rlp::Result<Self> {
        let n = u8::decode(buf)?;
        PHASES.get(usize::from(n)).copied().ok_or(alloy_rlp::Error::Custom("unknown phase"))
    }
}

/// What a program computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum TargetKind {
    /// Keys and values that a layer keeps.
    #[default]
    Kept,
    /// A layer's output.
    Output,
    /// The token chosen at a position.
    Token,
}

impl Encodable for TargetKind {
    fn encode(&self, out: &mut dyn alloy_rlp::BufMut) {
        (*self as u8).encode(out);
    }
    fn length(&self) -> usize {
        (*self as u8).length()
    }
}

impl Decodable for TargetKind {
    fn decode(buf: &mut &[u8]) -> alloy_rlp::Result<Self> {
        match u8::decode(buf)? {
            0 => Ok(Self::Kept),
            1 => Ok(Self::Output),
            2 => Ok(Self::Token),
            _ => Err(alloy_rlp::Error::Custom("unknown target")),
        }
    }
}

/// One step of the computation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Target {
    /// What is computed.
    pub kind: TargetKind,
    /// At which position.
    pub position: u64,
    /// In which layer (of a row).
    pub layer: u64,
    /// The token that the node says was chosen.
    pub token: u32,
}

/// A dispute about one claim. The state that a contract keeps (by its hash) is [`Game::encode`].
#[derive(Clone, Debug, PartialEq, RlpEncodable, RlpDecodable)]
pub struct Game {
    /// The claim.
    pub claim: Claim,
    /// Where the game stands.
    pub phase: Phase,
    /// Root of the tree that is looked into.
    pub hash: B256,
    /// First leaf of that tree, in the whole one.
    pub first: u64,
    /// Number of its leaves.
    pub size: u64,
    /// Roots of its parts, or of all vectors, that the node has shown.
    pub nodes: Vec<B256>,
    /// The leaf or the chunk that the node has shown.
    pub data: Bytes,
    /// What is computed, from [`Phase::Table`] on.
    pub target: Target,
    /// Digest of the row that the trace has for the target.
    pub digest: B256,
    /// Roots of all vectors.
    pub roots: Vec<B256>,
    /// Bytes of each vector.
    pub lengths: Vec<u64>,
    /// The vector that differs.
    pub vector: u64,
}

impl Game {
    /// Starts a game about a claim whose signature was checked.
    ///
    /// # Errors
    /// [`RefereeError::NotPlayable`] when no arithmetic can decide about this claim.
    pub fn start(claim: Claim, opening: &Opening) -> Result<Outcome, RefereeError> {
        let refuse = |why| Err(RefereeError::NotPlayable(why));
        // What the claim says of itself needs no game.
        if claim.computed_price() != Some(claim.price) || claim.completion_tokens > claim.max_tokens {
            return Ok(Outcome::Won(Party::Challenger));
        }
        if claim.arithmetic_class != ARITHMETIC_EXACT
            || claim.arithmetic_version != kernels::ARITHMETIC_VERSION
        {
            return refuse("its arithmetic is not the referee's");
        }
        if claim.choices != 1 || claim.prompt_tokens == 0 || claim.completion_tokens == 0 {
            return refuse("it is not about a single answer");
        }
        let mut game = Self {
            phase: Phase::Positions,
            hash: claim.trace_root,
            first: 0,
            size: positions(&claim),
            nodes: Vec::new(),
            data: Bytes::new(),
            target: Target::default(),
            digest: B256::ZERO,
            roots: Vec::new(),
            lengths: Vec::new(),
            vector: 0,
            claim,
        };
        match opening {
            Opening::Trace => game.descend(Phase::Positions, Phase::Leaf),
            Opening::Output(index) if *index < u64::from(game.claim.completion_tokens) => {
                game.phase = Phase::OutputToken;
                game.first = *index;
            }
            Opening::Output(_) => return refuse("there is no such token"),
        }
        Ok(Outcome::Next(Box::new(game)))
    }

    /// Canonical bytes (RLP).
    pub fn encode(&self) -> Vec<u8> {
        alloy_rlp::encode(self)
    }

    /// Decodes what [`encode`](Self::encode) gave.
    ///
    /// # Errors
    /// [`RefereeError::Types`] when too long or not canonical.
    pub fn decode(bytes: &[u8]) -> Result<Self, RefereeError> {
        if bytes.len() > STATE_BYTES_MAX {
            return Err(
                TypesError::TooLarge { what: "state", size: bytes.len(), max: STATE_BYTES_MAX }.into()
            );
        }
        let fault = |e: alloy_rlp::Error| TypesError::Encoding { what: "state", detail: e.to_string() };
        let game: Self = alloy_rlp::decode_exact(bytes).map_err(fault)?;
        game.check().map(|()| game)
    }

    /// What every state that [`start`](Self::start) and [`play`](Self::play) lead to has; a contract may be given others.
    fn check(&self) -> Result<(), RefereeError> {
        let claim = &self.claim;
        let sound = claim.choices == 1
            && claim.prompt_tokens > 0
            && claim.completion_tokens > 0
            && self.first < NUMBER_MAX
            && (1..NUMBER_MAX).contains(&self.size)
            && self.lengths.len() == self.roots.len()
            && self.lengths.iter().all(|l| (1..NUMBER_MAX).contains(l))
            && (self.roots.is_empty() || self.vector < self.roots.len() as u64)
            && self.target.position < positions(claim);
        let of_vector = matches!(
            self.phase,
            Phase::PickVector | Phase::Cells | Phase::PickCells | Phase::Chunk | Phase::Prove
        );
        let token = self.target.kind == TargetKind::Token
            && self.target.position + 1 < u64::from(claim.prompt_tokens);
        if sound && !token && !(of_vector && self.roots.is_empty()) {
            return Ok(());
        }
        Err(RefereeError::BadMove("not a state of a game"))
    }

    /// Who moves next.
    pub fn turn(&self) -> Party {
        match self.phase {
            Phase::Positions
            | Phase::Leaf
            | Phase::Table
            | Phase::Cells
            | Phase::Chunk
            | Phase::OutputToken => Party::Node,
            _ => Party::Challenger,
        }
    }

    /// What a move of the party on turn leads to.
    ///
    /// # Errors
    /// [`RefereeError`] when it is not a valid move; the party may try another one.
    pub fn play(mut self, by: Move) -> Result<Outcome, RefereeError> {
        match (self.phase, by) {
            (Phase::Positions, Move::Nodes(nodes)) => self.show(nodes, Phase::PickPositions)?,
            (Phase::PickPositions, Move::Pick(i)) => self.pick(i, Phase::Positions, Phase::Leaf)?,
            (Phase::Leaf, Move::Leaf(data)) => self.leaf(data)?,
            (Phase::PickRow, Move::Row { layer, output }) => self.row(layer, output)?,
            (Phase::PickRow, Move::PromptToken(opening)) => return self.prompt_token(&opening),
            (Phase::PickRow, Move::Chosen) => {
                let (position, token) = (self.first, leaf_token(&self.data)?);
                self.chosen(position, token)?;
            }
            (Phase::Table, Move::Table { manifest, roots }) => self.table(&manifest, roots)?,
            (Phase::PickVector, Move::Pick(i)) => {
                let root = usize::try_from(i).ok().and_then(|i| self.roots.get(i));
                self.hash = *root.ok_or(RefereeError::BadMove("there is no such vector"))?;
                self.vector = i;
                self.first = 0;
                self.size = self.lengths[i as usize].div_ceil(CELL_CHUNK as u64);
                self.descend(Phase::Cells, Phase::Chunk);
            }
            (Phase::Cells, Move::Nodes(nodes)) => self.show(nodes, Phase::PickCells)?,
            (Phase::PickCells, Move::Pick(i)) => self.pick(i, Phase::Cells, Phase::Chunk)?,
            (Phase::Chunk, Move::Chunk(bytes)) => {
                let begin = self.first * CELL_CHUNK as u64;
                let end = self.lengths[self.vector as usize].min(begin + CELL_CHUNK as u64);
                let whole = Some(bytes.len() as u64) == end.checked_sub(begin);
                if !whole || merkle::leaf_hash(&bytes) != self.hash {
                    return Err(RefereeError::BadMove("another chunk than the node committed to"));
                }
                self.data = bytes;
                self.phase = Phase::Prove;
            }
            (Phase::Prove, Move::Prove { manifest, cell, hint, witness }) => {
                return self.prove(&manifest, cell, hint, &witness);
            }
            (Phase::OutputToken, Move::OutputToken(opening)) => {
                let count = u64::from(self.claim.completion_tokens);
                if opening.commitment(self.first, count)? != self.claim.output_hash {
                    return Err(RefereeError::BadMove("another token than the claim commits to"));
                }
                self.target.token = opening.token;
                self.phase = Phase::PickToken;
            }
            (Phase::PickToken, Move::Chosen) => {
                let position = u64::from(self.claim.prompt_tokens) + self.first;
                let token = self.target.token;
                self.chosen(position, token)?;
            }
            (Phase::PickToken, Move::Contradiction(leaf)) => return self.contradiction(&leaf),
            _ => return Err(RefereeError::BadMove("another kind of move is due")),
        }
        Ok(Outcome::Next(Box::new(self)))
    }

    /// Goes on with the tree of `size` leaves under `hash`, or with its only leaf.
    fn descend(&mut self, inner: Phase, leaf: Phase) {
        self.nodes.clear();
        self.phase = if self.size == 1 { leaf } else { inner };
    }

    fn show(&mut self, nodes: Vec<B256>, next: Phase) -> Result<(), RefereeError> {
        if frontier_root(self.size, &nodes) != Some(self.hash) {
            return Err(RefereeError::BadMove("other parts than the node committed to"));
        }
        self.nodes = nodes;
        self.phase = next;
        Ok(())
    }

    fn pick(&mut self, index: u64, inner: Phase, leaf: Phase) -> Result<(), RefereeError> {
        let parts = frontier_parts(self.size);
        let found = usize::try_from(index).ok().and_then(|i| Some((parts.get(i)?, self.nodes.get(i)?)));
        let ((at, size), node) = found.ok_or(RefereeError::BadMove("there is no such part"))?;
        (self.hash, self.first, self.size) = (*node, self.first + at, *size);
        self.descend(inner, leaf);
        Ok(())
    }

    fn leaf(&mut self, data: Bytes) -> Result<(), RefereeError> {
        let position = data.get(..4) == Some((self.first as u32).to_be_bytes().as_slice());
        if merkle::leaf_hash(&data) != self.hash || !position || data.len() < 72 || data.len() % 64 != 8 {
            return Err(RefereeError::BadMove("not the leaf of this position"));
        }
        self.data = data;
        self.phase = Phase::PickRow;
        Ok(())
    }

    fn row(&mut self, layer: u64, output: bool) -> Result<(), RefereeError> {
        let kind = if output { RowKind::Output } else { RowKind::Kept };
        let index = usize::try_from(layer).ok().filter(|l| *l < self.data.len() / 64);
        let digest = index.and_then(|l| leaf_digest(&self.data, l, kind));
        self.digest = B256::from_slice(digest.ok_or(RefereeError::BadMove("there is no such layer"))?);
        let kind = if output { TargetKind::Output } else { TargetKind::Kept };
        self.target = Target { kind, position: self.first, layer, token: 0 };
        self.phase = Phase::Table;
        Ok(())
    }

    /// The token at `position` is disputed: goes on with the computation at the position before.
    fn chosen(&mut self, position: u64, token: u32) -> Result<(), RefereeError> {
        if position < u64::from(self.claim.prompt_tokens) {
            return Err(RefereeError::BadMove("a prompt token was not chosen"));
        }
        self.target = Target { kind: TargetKind::Token, position: position - 1, layer: 0, token };
        self.digest = B256::ZERO;
        self.phase = Phase::Table;
        Ok(())
    }

    fn prompt_token(&self, opening: &TokenOpening) -> Result<Outcome, RefereeError> {
        let count = u64::from(self.claim.prompt_tokens);
        if self.first >= count || opening.commitment(self.first, count)? != self.claim.prompt_hash {
            return Err(RefereeError::BadMove("not a token of the prompt"));
        }
        match opening.token == leaf_token(&self.data)? {
            true => Err(RefereeError::BadMove("the leaf has the prompt's token")),
            false => Ok(Outcome::Won(Party::Challenger)),
        }
    }

    fn contradiction(&self, leaf: &LeafOpening) -> Result<Outcome, RefereeError> {
        let hash = merkle::leaf_hash(&leaf.data);
        let root = merkle::root_from_range(&[hash], leaf.position, positions(&self.claim), &leaf.path)?;
        let here = leaf.position == u64::from(self.claim.prompt_tokens) + self.first;
        if root != self.claim.trace_root || !here || leaf_token(&leaf.data)? == self.target.token {
            return Err(RefereeError::BadMove("the trace was computed with this token"));
        }
        Ok(Outcome::Won(Party::Challenger))
    }

    /// The program of the target, when `manifest` is the claim's model.
    fn program(&self, manifest: &[u8]) -> Result<Program, RefereeError> {
        let manifest = ModelManifest::decode(manifest)?;
        if manifest.id().0 != self.claim.model {
            return Err(RefereeError::BadMove("another model than the claim names"));
        }
        let shape = Shape::new(&manifest)?;
        if self.target.kind != TargetKind::Token && self.target.layer >= shape.layers.len() as u64 {
            return Err(RefereeError::BadMove("the trace has more layers than the model"));
        }
        let prompt = self.claim.prompt_tokens as usize;
        Ok(Program::new(shape, &self.target, prompt, self.claim.sampling, !self.claim.options.is_zero()))
    }

    fn table(&mut self, manifest: &[u8], roots: Vec<B256>) -> Result<(), RefereeError> {
        let program = self.program(manifest)?;
        let of_token = self.target.kind == TargetKind::Token;
        // The last vector is small, and is what the node is committed to already.
        let last = match of_token {
            true => merkle::leaf_hash(&self.target.token.to_le_bytes()),
            false => merkle::leaf_hash(self.digest.as_slice()),
        };
        if !of_token && self.data.len() != 8 + 64 * program.shape.layers.len() {
            return Err(RefereeError::BadMove("the trace has other layers than the model"));
        }
        if roots.len() != program.ops.len() || roots.last() != Some(&last) {
            return Err(RefereeError::BadMove("not a table that ends in what the node is committed to"));
        }
        self.lengths = program.ops.iter().map(|o| o.bytes() as u64).collect();
        self.roots = roots;
        self.data = Bytes::new();
        self.phase = Phase::PickVector;
        Ok(())
    }

    fn prove(
        &self,
        manifest: &[u8],
        cell: u64,
        hint: u32,
        witness: &Witness,
    ) -> Result<Outcome, RefereeError> {
        let program = self.program(manifest)?;
        let vector = self.vector as usize;
        if program.ops.len() != self.roots.len() || program.ops[vector].bytes() as u64 != self.lengths[vector]
        {
            return Err(RefereeError::BadMove("not the table of this program"));
        }
        let size = program.ops[vector].size;
        let outside = RefereeError::BadMove("the element is not in the chunk");
        // An element may reach over the chunk's end; then the witness opens the node's vector for the rest.
        let cell =
            usize::try_from(cell).ok().filter(|c| *c < program.ops[vector].cells).ok_or(outside.clone())?;
        let bound = Commitments {
            trace_root: self.claim.trace_root,
            positions: positions(&self.claim),
            roots: &self.roots,
            options: self.claim.options,
        };
        let opened = Opened::new(witness, &program, &bound)?;
        let from = cell * size;
        let chunk = self.first as usize * CELL_CHUNK;
        if from >= chunk + self.data.len() || from + size <= chunk {
            return Err(outside);
        }
        let claimed = match from.checked_sub(chunk).and_then(|at| self.data.get(at..at + size)) {
            Some(bytes) => bytes.to_vec(),
            None => crate::Reader::cells(&opened, vector, from..from + size)?.into_owned(),
        };
        let computed = eval(&program, vector, cell, hint, &opened)?;
        Ok(Outcome::Won(if computed == claimed { Party::Node } else { Party::Challenger }))
    }
}

/// Number of positions of the trace: the prompt, and the answer without its last token.
fn positions(claim: &Claim) -> u64 {
    u64::from(claim.prompt_tokens) + u64::from(claim.completion_tokens) - 1
}

/// The token that a leaf's data names.
fn leaf_token(data: &[u8]) -> Result<u32, RefereeError> {
    let bytes = data.get(4..8).and_then(|b| b.try_into().ok());
    bytes.map(u32::from_be_bytes).ok_or(RefereeError::BadMove("no token in the leaf"))
}
