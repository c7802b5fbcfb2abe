use super::{
    Table, TensorStore, Trace,
    table::{Inputs, KnownRoots, Tamper, Theirs, UNTOUCHED},
};
use crate::{EngineError, Model};
use referee::{CELL_CHUNK, Game, LeafOpening, Move, OpKind, Opening, Phase, Program, Shape, TargetKind};
use std::sync::Arc;
use types::{
    B256, Claim, Options, Tokens, merkle,
    opening::{frontier, frontier_parts, halves},
};

/// What one side knows of the disputed answer.
pub struct Dispute {
    /// The model that the claim names.
    pub model: Arc<Model>,
    /// Its weights.
    pub weights: TensorStore,
    /// The claim.
    pub claim: Claim,
    /// The client's salt.
    pub nonce: B256,
    /// Tokens of the prompt.
    pub prompt: Vec<u32>,
    /// Tokens that the claim commits to (node), or that the challenger holds right.
    pub output: Vec<u32>,
    /// Biases and grammar.
    pub options: Option<Options>,
    /// For an answer under a grammar: the tokens that it allows at each place, a bit a token.
    pub masks: Vec<Vec<u8>>,
    /// The computation.
    pub trace: Box<dyn Trace + Send>,
}

impl std::fmt::Debug for Dispute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dispute({})", self.claim.receipt_id())
    }
}

/// Plays one side of a game. It remembers what the other side has shown, so it must be told every state when it is on turn.
#[derive(Debug)]
pub struct Player {
    dispute: Dispute,
    leaves: Vec<B256>,
    /// Roots that the node has shown: of its trace, and of the vector that is disputed.
    shown: Vec<Shown>,
    shown_cells: Vec<Shown>,
    their_leaf: Option<(usize, Vec<u8>)>,
    table: Option<Table>,
}

/// Root of a subtree: first leaf, number of leaves, hash.
type Shown = (u64, u64, B256);

/// Why no move is made.
fn stuck(what: &str) -> EngineError {
    EngineError::Format(format!("no move in this dispute: {what}"))
}

impl Player {
    /// A player who knows `dispute`.
    pub fn new(dispute: Dispute) -> Self {
        let leaves = dispute.trace.leaves().iter().map(|d| merkle::leaf_hash(d)).collect();
        Self { dispute, leaves, shown: Vec::new(), shown_cells: Vec::new(), their_leaf: None, table: None }
    }

    /// What a challenger should allege, or `None` when the claim's answer is what it computed itself.
    pub fn allegation(&self) -> Option<Opening> {
        let claim = &self.dispute.claim;
        let d = &self.dispute;
        if claim.computed_price() != Some(claim.price) || claim.completion_tokens > claim.max_tokens {
            return Some(Opening::Trace);
        }
        if merkle::root(&self.leaves) != claim.trace_root {
            return Some(Opening::Trace);
        }
        if types::commit_tokens(&d.nonce, Tokens::Output, &d.output) != claim.output_hash {
            // The trace fixes all tokens but the last.
            return Some(Opening::Output(u64::from(claim.completion_tokens) - 1));
        }
        None
    }

    /// Remembers what the node has shown; [`respond`](Self::respond) does it by itself. A challenger that starts again in the middle of a
    /// game needs all states in which it was on turn.
    pub fn observe(&mut self, game: &Game) {
        match game.phase {
            Phase::PickPositions => self.shown.extend(shown(game)),
            Phase::PickRow => {
                self.shown.push((game.first, 1, merkle::leaf_hash(&game.data)));
                self.their_leaf = Some((game.first as usize, game.data.to_vec()));
            }
            Phase::PickVector => self.shown_cells.clear(),
            Phase::PickCells => self.shown_cells.extend(shown(game)),
            _ => (),
        }
    }

    /// The move for whoever is on turn in `game`, played by what this side knows.
    ///
    /// # Errors
    /// [`EngineError`] when the two sides agree, or the model cannot be computed.
    pub fn respond(&mut self, game: &Game) -> Result<Move, EngineError> {
        self.respond_with(game, UNTOUCHED)
    }

    /// As [`respond`](Self::respond), but every vector goes through `tamper(vector, element, bytes)`: for tests of what a cheat can do.
    ///
    /// # Errors
    /// As [`respond`](Self::respond).
    pub fn respond_with(&mut self, game: &Game, tamper: &Tamper<'_>) -> Result<Move, EngineError> {
        self.observe(game);
        let at = |first: u64, size: u64| first as usize..(first + size) as usize;
        Ok(match game.phase {
            Phase::Positions => Move::Nodes(frontier(self.part(&self.leaves, at(game.first, game.size))?)),
            Phase::PickPositions => Move::Pick(self.compare(&self.leaves, game)?),
            Phase::Leaf => {
                let data = self.dispute.trace.leaves().get(game.first as usize);
                Move::Leaf(data.ok_or_else(|| stuck("no such position"))?.clone().into())
            }
            Phase::PickRow => self.pick_row(game)?,
            Phase::Table => {
                let manifest = self.dispute.model.manifest().encode().into();
                Move::Table { manifest, roots: self.table(game, tamper)?.roots() }
            }
            Phase::PickVector => {
                let roots = self.table(game, tamper)?.roots();
                let index = roots.iter().zip(&game.roots).position(|(a, b)| a != b);
                Move::Pick(index.ok_or_else(|| stuck("their vectors are the same"))? as u64)
            }
            Phase::Cells => {
                let hashes = &self.table(game, tamper)?.hashes[game.vector as usize];
                Move::Nodes(frontier(&hashes[at(game.first, game.size)]))
            }
            Phase::PickCells => {
                let hashes = self.table(game, tamper)?.hashes[game.vector as usize].clone();
                Move::Pick(self.compare(&hashes, game)?)
            }
            Phase::Chunk => {
                let vector = &self.table(game, tamper)?.vectors[game.vector as usize];
                let from = game.first as usize * CELL_CHUNK;
                Move::Chunk(vector[from..vector.len().min(from + CELL_CHUNK)].to_vec().into())
            }
            Phase::Prove => self.prove(game, tamper)?,
            Phase::OutputToken => {
                let d = &self.dispute;
                let index = game.first as usize;
                if index >= d.output.len() {
                    return Err(stuck("no such token"));
                }
                Move::OutputToken(Tokens::Output.open(&d.nonce, &d.output, index))
            }
            Phase::PickToken => {
                let position = u64::from(game.claim.prompt_tokens) + game.first;
                let fed = self.dispute.trace.token(position as usize);
                match fed.filter(|t| *t != game.target.token) {
                    Some(_) => {
                        let at = position as usize;
                        let path = merkle::range_path(&self.leaves, at..at + 1).unwrap_or_default();
                        let data = self.dispute.trace.leaves()[at].clone().into();
                        Move::Contradiction(LeafOpening { position, data, path })
                    }
                    None => Move::Chosen,
                }
            }
        })
    }

    fn part<'a>(&self, leaves: &'a [B256], range: std::ops::Range<usize>) -> Result<&'a [B256], EngineError> {
        leaves.get(range).ok_or_else(|| stuck("the trace has another length"))
    }

    /// First part of the tree that differs.
    fn compare(&self, leaves: &[B256], game: &Game) -> Result<u64, EngineError> {
        let range = game.first as usize..(game.first + game.size) as usize;
        let mine = frontier(self.part(leaves, range)?);
        let index = mine.iter().zip(&game.nodes).position(|(a, b)| a != b);
        Ok(index.ok_or_else(|| stuck("their tree is the same"))? as u64)
    }

    fn pick_row(&self, game: &Game) -> Result<Move, EngineError> {
        let d = &self.dispute;
        let position = game.first as usize;
        let mine = d.trace.leaves().get(position).ok_or_else(|| stuck("no such position"))?;
        if mine.get(4..8) != game.data.get(4..8) {
            return Ok(match position < d.prompt.len() {
                true => Move::PromptToken(Tokens::Prompt.open(&d.nonce, &d.prompt, position)),
                false => Move::Chosen,
            });
        }
        let rows = mine[8..].chunks(32).zip(game.data[8..].chunks(32));
        let index =
            rows.into_iter().position(|(a, b)| a != b).ok_or_else(|| stuck("their leaf is the same"))?;
        Ok(Move::Row { layer: index as u64 / 2, output: index % 2 == 1 })
    }

    fn inputs(&self, game: &Game) -> Inputs<'_> {
        let d = &self.dispute;
        let place = (game.target.position as usize + 1).saturating_sub(d.prompt.len());
        let mask = d.masks.get(place).map(Vec::as_slice);
        let (model, weights, trace) = (d.model.as_ref(), &d.weights, d.trace.as_ref());
        Inputs { model, weights, trace, options: d.options.as_ref(), mask }
    }

    fn table(&mut self, game: &Game, tamper: &Tamper<'_>) -> Result<&Table, EngineError> {
        if self.table.is_none() {
            let shape = Shape::new(self.dispute.model.manifest()).map_err(|e| stuck(&e.to_string()))?;
            let claim = &game.claim;
            let options = !claim.options.is_zero();
            let prompt = claim.prompt_tokens as usize;
            let program = Program::new(shape, &game.target, prompt, claim.sampling, options);
            self.table = Some(Table::build(self.inputs(game), program, tamper)?);
        }
        self.table.as_ref().ok_or_else(|| stuck("no table"))
    }

    fn prove(&mut self, game: &Game, tamper: &Tamper<'_>) -> Result<Move, EngineError> {
        let table = self.table(game, tamper)?;
        let vector = game.vector as usize;
        let (op, mine) = (&table.program.ops[vector], &table.vectors[vector]);
        let from = game.first as usize * CELL_CHUNK;
        let differs = game.data.iter().zip(&mine[from..]).position(|(a, b)| a != b);
        let cell = (from + differs.ok_or_else(|| stuck("their chunk is the same"))?) / op.size;
        let hint = match op.kind {
            // The token that should stand there.
            OpKind::Order { .. } => {
                let rank = mine.get(cell * 4..cell * 4 + 4).and_then(|b| b.try_into().ok());
                rank.map_or(u32::MAX, u32::from_le_bytes)
            }
            _ => u32::MAX,
        };
        self.prove_element(game, cell, hint)
    }

    /// The last move of a challenger, about element `cell` of the chunk.
    ///
    /// # Errors
    /// As [`respond`](Self::respond).
    pub fn prove_element(&mut self, game: &Game, cell: usize, hint: u32) -> Result<Move, EngineError> {
        self.table(game, UNTOUCHED)?;
        let table = self.table.as_ref().ok_or_else(|| stuck("no table"))?;
        let vector = game.vector as usize;
        let from = game.first as usize * CELL_CHUNK;
        // Their vector as far as it is known: mine before the chunk, theirs in it.
        let mut theirs = table.vectors[vector].clone();
        theirs[from..from + game.data.len()].copy_from_slice(&game.data);
        let mut cells = self.shown_cells.clone();
        cells.push((game.first, 1, merkle::leaf_hash(&game.data)));
        // In the computation of a token the trace is disputed from the token's own position on.
        let disputed = match game.target.kind {
            TargetKind::Token => game.target.position + 1,
            _ => game.target.position,
        };
        let of_trace: &KnownRoots<'_> =
            &|first, size| known(&self.leaves, &self.shown, disputed, first, size);
        let hashes = &table.hashes[vector];
        let of_vector: &KnownRoots<'_> = &|first, size| known(hashes, &cells, game.first, first, size);
        let leaf = self.their_leaf.as_ref().map(|(p, data)| (*p, data.as_slice()));
        let theirs = Theirs { trace: of_trace, leaf, vector: of_vector, bytes: &theirs };
        let witness = table.witness(self.inputs(game), (vector, cell, hint), &theirs)?;
        let manifest = self.dispute.model.manifest().encode().into();
        Ok(Move::Prove { manifest, cell: cell as u64, hint, witness: Box::new(witness) })
    }
}

/// Roots that a state shows.
fn shown(game: &Game) -> impl Iterator<Item = Shown> + '_ {
    let parts = frontier_parts(game.size).into_iter().zip(&game.nodes);
    parts.map(|((at, size), hash)| (game.first + at, size, *hash))
}

/// Root of a subtree of the other side's tree: mine before the first leaf that differs, and what it has shown from there on.
fn known(mine: &[B256], shown: &[Shown], differs: u64, first: u64, size: u64) -> Option<B256> {
    if let Some((_, _, hash)) = shown.iter().rev().find(|(f, s, _)| (*f, *s) == (first, size)) {
        return Some(*hash);
    }
    if first + size <= differs || shown.is_empty() {
        return mine.get(first as usize..(first + size) as usize).map(merkle::root);
    }
    if size < 2 {
        return None;
    }
    let (left, right) = halves(size);
    let left_root = known(mine, shown, differs, first, left)?;
    Some(merkle::node_hash(&left_root, &known(mine, shown, differs, first + left, right)?))
}
