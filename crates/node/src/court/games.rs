//! Plays the games in which an account is on turn.

use super::Court;
use alloy_sol_types::SolEvent as _;
use anyhow::Context as _;
use client::contracts::Disputes;
use engine::dispute::Player;
use referee::Game;
use std::{collections::HashMap, sync::Arc};
use tracing::{info, warn};
use types::{Address, B256, Bytes, Claim, U256};

/// Values of `turn`.
const CHALLENGER: u8 = 0;
const DEFENDER: u8 = 1;

/// A game of this account.
struct Table {
    claim: Claim,
    challenger: bool,
    /// Every state so far.
    states: Vec<Bytes>,
    turn: u8,
    /// States that the player has seen.
    seen: usize,
    player: Option<Player>,
    /// Moves that failed: the state's number, so that nothing is tried for ever.
    failed: Option<usize>,
}

/// All games of one account.
pub(crate) struct Games {
    court: Court,
    me: Address,
    from_block: u64,
    tables: HashMap<U256, Table>,
}

/// Makes the player of a game about a claim; `defend` says for which side.
pub(crate) type Prepare<'a> = dyn Fn(&Claim, bool) -> anyhow::Result<Player> + Send + Sync + 'a;

/// How a game ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) receipt: B256,
    pub(crate) node: Address,
    pub(crate) challenger: bool,
    pub(crate) node_lost: bool,
}

impl Games {
    /// Looks at events from `from_block` on.
    pub(crate) fn new(court: Court, from_block: u64) -> Self {
        let me = court.account.address();
        Self { court, me, from_block, tables: HashMap::new() }
    }

    /// Reads new events, moves where it is our turn, ends games whose other party is late. Games that ended.
    pub(crate) async fn step(&mut self, prepare: Arc<Prepare<'static>>) -> anyhow::Result<Vec<Ended>> {
        let ended = self.read().await?;
        let time = self.court.rpc.block_time().await?;
        let ids: Vec<U256> = self.tables.keys().copied().collect();
        for id in ids {
            if let Err(e) = self.play(id, time, &prepare).await {
                warn!("dispute {id}: {e:#}");
            }
        }
        Ok(ended)
    }

    async fn read(&mut self) -> anyhow::Result<Vec<Ended>> {
        let disputes = self.court.network.contracts.disputes;
        let head = self.court.rpc.block_number().await?;
        if head < self.from_block {
            return Ok(Vec::new());
        }
        let topics = [
            Disputes::Opened::SIGNATURE_HASH,
            Disputes::Moved::SIGNATURE_HASH,
            Disputes::Ended::SIGNATURE_HASH,
        ];
        let to = head.min(self.from_block + 999);
        let mut ended = Vec::new();
        for log in self.court.rpc.logs(disputes, &topics, self.from_block, to).await? {
            if let Some(e) = log.decode::<Disputes::Opened>() {
                let challenger = e.challenger == self.me;
                if (challenger || e.defender == self.me) && !e.state.is_empty() {
                    let claim = Game::decode(&e.state).context("a game's first state")?.claim;
                    info!(id = %e.id, node = %e.node, "a dispute about {}", e.receiptId);
                    let table = Table {
                        claim,
                        challenger,
                        states: vec![e.state],
                        turn: e.turn,
                        seen: 0,
                        player: None,
                        failed: None,
                    };
                    self.tables.insert(e.id, table);
                } else if challenger {
                    // Won with the first move.
                    ended.push(Ended {
                        receipt: e.receiptId,
                        node: e.node,
                        challenger,
                        node_lost: e.turn == 2,
                    });
                }
            } else if let Some(e) = log.decode::<Disputes::Moved>() {
                if let Some(table) = self.tables.get_mut(&e.id) {
                    table.states.push(e.state);
                    table.turn = e.turn;
                }
            } else if let Some(e) = log.decode::<Disputes::Ended>()
                && let Some(table) = self.tables.remove(&e.id)
            {
                info!(id = %e.id, node_lost = e.nodeLost, timed_out = e.timedOut, "a dispute has ended");
                let (receipt, node) = (table.claim.receipt_id().0, table.claim.node);
                ended.push(Ended { receipt, node, challenger: table.challenger, node_lost: e.nodeLost });
            }
        }
        self.from_block = to + 1;
        Ok(ended)
    }

    async fn play(&mut self, id: U256, time: u64, prepare: &Arc<Prepare<'static>>) -> anyhow::Result<()> {
        let disputes = self.court.network.contracts.disputes;
        let Some(table) = self.tables.get_mut(&id) else { return Ok(()) };
        if table.turn > DEFENDER {
            return Ok(());
        }
        let mine = table.challenger == (table.turn == CHALLENGER);
        if !mine {
            let game = self.court.rpc.view(disputes, &Disputes::gameOfCall { id }).await?;
            if time > game.deadline && game.turn <= DEFENDER {
                self.court.send(disputes, U256::ZERO, Disputes::timeoutCall { id }).await?;
            }
            return Ok(());
        }
        if table.failed == Some(table.states.len()) {
            return Ok(());
        }
        let (claim, defend) = (table.claim.clone(), !table.challenger);
        let states: Vec<Bytes> = table.states[table.seen..].to_vec();
        let (player, prepare) = (table.player.take(), prepare.clone());
        // Computing takes a while: not on the runtime's threads.
        let work = move || -> anyhow::Result<(Player, Bytes)> {
            let mut player = match player {
                Some(player) => player,
                None => prepare(&claim, defend)?,
            };
            let (last, before) = states.split_last().context("a game without a state")?;
            for state in before {
                let game = Game::decode(state)?;
                if defend == (game.turn() == referee::Party::Node) {
                    player.observe(&game);
                }
            }
            let by = player.respond(&Game::decode(last)?)?;
            Ok((player, by.encode().into()))
        };
        let done = tokio::task::spawn_blocking(work).await?;
        let Some(table) = self.tables.get_mut(&id) else { return Ok(()) };
        let (player, moved) = match done {
            Ok(done) => done,
            Err(e) => {
                table.failed = Some(table.states.len());
                return Err(e.context("no move was found"));
            }
        };
        let state = table.states.last().cloned().unwrap_or_default();
        (table.seen, table.player) = (table.states.len(), Some(player));
        let count = table.states.len();
        info!(id = %id, bytes = moved.len(), "a move");
        if let Err(e) = self.court.send(disputes, U256::ZERO, Disputes::moveCall { id, state, moved }).await {
            if let Some(table) = self.tables.get_mut(&id) {
                table.failed = Some(count);
            }
            return Err(e.into());
        }
        // The event of this move is read with the next step.
        if let Some(table) = self.tables.get_mut(&id) {
            table.failed = Some(count);
        }
        Ok(())
    }
}
