//! Plays the games in which an account is on turn.

use super::{Court, call_of};
use alloy_sol_types::SolEvent as _;
use anyhow::Context as _;
use client::contracts::Disputes;
use engine::dispute::Player;
use referee::Game;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use tracing::{info, warn};
use types::{Address, B256, Bytes, Claim, U256};
use wallet::{Call, SendError};

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
    /// When the clock of the party on turn runs out (Unix time), as the ledger said last; zero before.
    deadline: u64,
    /// The move for the state with this number.
    found: Option<(usize, Bytes)>,
    /// What is on its way to the ledger, and the number of states when it was sent.
    sending: Option<(usize, JoinHandle<Result<(), SendError>>)>,
    /// After a failure: not before, and how long to wait after the next.
    pause: Option<(Instant, Duration)>,
}

/// First and longest pause after a move that could not be found or was refused.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

impl Table {
    fn new(claim: Claim, challenger: bool, state: Bytes, turn: u8) -> Self {
        let states = vec![state];
        Self {
            claim,
            challenger,
            states,
            turn,
            seen: 0,
            player: None,
            deadline: 0,
            found: None,
            sending: None,
            pause: None,
        }
    }

    /// Something went wrong: again in a while, as long as the game lasts.
    fn failed(&mut self) {
        let pause = self.pause.map_or(PAUSE, |(_, last)| (last * 2).min(PAUSE_MAX));
        self.pause = Some((Instant::now() + pause, pause));
    }
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
        let me = court.me();
        Self { court, me, from_block, tables: HashMap::new() }
    }

    /// Reads new events, moves where it is our turn, ends games in which the other party's clock has run out. Games that ended.
    pub(crate) async fn step(&mut self, prepare: Arc<Prepare<'static>>) -> anyhow::Result<Vec<Ended>> {
        let ended = self.read().await?;
        let time = self.court.rpc.block_time().await?;
        // Whose clock runs out first, moves first.
        let mut ids: Vec<(u64, U256)> = self.tables.iter().map(|(id, table)| (table.deadline, *id)).collect();
        ids.sort_unstable();
        for (_, id) in ids {
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
                    self.tables.insert(e.id, Table::new(claim, challenger, e.state, e.turn));
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
                    table.pause = None;
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
        if table.turn > DEFENDER || table.pause.is_some_and(|(at, _)| Instant::now() < at) {
            return Ok(());
        }
        if let Some((count, sending)) = table.sending.take() {
            if !sending.is_finished() {
                table.sending = Some((count, sending));
                return Ok(());
            }
            match sending.await? {
                // Its event is read with one of the next steps, and ends this pause.
                Ok(()) if table.states.len() == count => {
                    table.failed();
                    return Ok(());
                }
                Ok(()) => (),
                // A server may be behind, or may lie: it is tried again until the game has ended.
                Err(e) => {
                    table.failed();
                    return Err(e.into());
                }
            }
        }
        let mine = table.challenger == (table.turn == CHALLENGER);
        let game = self.court.rpc.view(disputes, &Disputes::gameOfCall { id }).await?;
        let Some(table) = self.tables.get_mut(&id) else { return Ok(()) };
        table.deadline = game.deadline;
        if !mine {
            if time > game.deadline && game.turn <= DEFENDER {
                table.send(&self.court, call_of(disputes, &Disputes::timeoutCall { id }));
            }
            return Ok(());
        }
        let moved = match table.think(prepare).await {
            Ok(moved) => moved,
            Err(e) => {
                table.failed();
                return Err(e.context("no move was found"));
            }
        };
        info!(id = %id, bytes = moved.len(), "a move");
        let state = table.states.last().cloned().unwrap_or_default();
        let call = call_of(disputes, &Disputes::moveCall { id, state, moved }).by(game.deadline + 1);
        table.send(&self.court, call.called(format!("a move in dispute {id}")));
        Ok(())
    }
}

impl Table {
    /// Sends a call beside the other games: none waits for another's transactions.
    fn send(&mut self, court: &Court, call: Call) {
        let court = court.clone();
        let sending = tokio::spawn(async move { court.send_call(call).await.map(drop) });
        self.sending = Some((self.states.len(), sending));
    }

    /// The move for the newest state.
    async fn think(&mut self, prepare: &Arc<Prepare<'static>>) -> anyhow::Result<Bytes> {
        if let Some((count, found)) = &self.found
            && *count == self.states.len()
        {
            return Ok(found.clone());
        }
        let (claim, defend) = (self.claim.clone(), !self.challenger);
        let states: Vec<Bytes> = self.states[self.seen..].to_vec();
        let (player, prepare) = (self.player.take(), prepare.clone());
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
        let (player, moved) = match tokio::task::spawn_blocking(work).await? {
            Ok(done) => done,
            Err(e) => {
                // The player is gone, and with it what it has seen.
                self.seen = 0;
                return Err(e);
            }
        };
        (self.seen, self.player) = (self.states.len(), Some(player));
        self.found = Some((self.seen, moved.clone()));
        Ok(moved)
    }
}
