//! Plays the games in which an account is on turn.

use super::Court;
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
use tracing::{error, info, warn};
use types::{Address, B256, Bytes, Claim, U256};

/// Values of `turn`.
const CHALLENGER: u8 = 0;
const DEFENDER: u8 = 1;

/// Time after a failure until the same is tried again; doubles with each, up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest time between two tries. Short beside every network's clock, and long enough not to fill a core with replays.
const RETRY_MAX: Duration = Duration::from_secs(60);

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
    /// When the clock of the party on turn runs out, in Unix time; unknown until the ledger was asked about this state.
    deadline: Option<u64>,
    /// The move in the newest state, once it is found.
    found: Option<Bytes>,
    /// The move was included, and its event will come.
    moved: bool,
    /// What failed is not tried again before this.
    wait: Option<(Instant, Duration)>,
}

impl Table {
    fn new(claim: Claim, challenger: bool, state: Bytes, turn: u8) -> Self {
        Self {
            claim,
            challenger,
            states: vec![state],
            turn,
            seen: 0,
            player: None,
            deadline: None,
            found: None,
            moved: false,
            wait: None,
        }
    }

    /// A new state: whose turn it is, and nothing is known of its move.
    fn advance(&mut self, state: Bytes, turn: u8) {
        self.states.push(state);
        self.turn = turn;
        (self.deadline, self.found, self.moved, self.wait) = (None, None, false, None);
    }

    fn mine(&self) -> bool {
        self.challenger == (self.turn == CHALLENGER)
    }

    /// Whether anything is to be done at once.
    fn due(&self) -> bool {
        self.turn <= DEFENDER && !self.moved && self.wait.is_none_or(|(at, _)| Instant::now() >= at)
    }

    /// Waits longer after each failure.
    fn failed(&mut self) {
        let pause = self.wait.map_or(RETRY_MIN, |(_, pause)| (pause * 2).min(RETRY_MAX));
        self.wait = Some((Instant::now() + pause, pause));
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
        let me = court.account.address();
        Self { court, me, from_block, tables: HashMap::new() }
    }

    /// Reads new events, moves where it is our turn, ends games in which the other party's clock has run out. Games that ended. What
    /// fails is tried again in a later step, for as long as the game goes on.
    pub(crate) async fn step(&mut self, prepare: Arc<Prepare<'static>>) -> anyhow::Result<Vec<Ended>> {
        let ended = self.read().await?;
        let time = self.court.rpc.block_time().await?;
        for id in self.due().await? {
            if let Err(e) = self.play(id, time, &prepare).await {
                let Some(table) = self.tables.get_mut(&id) else { continue };
                table.failed();
                let left = table.deadline.map_or(0, |at| at.saturating_sub(time));
                match table.mine() {
                    true => error!("dispute {id}: {e:#}; trying again, {left} s are left before it is lost"),
                    false => warn!("dispute {id}: {e:#}"),
                }
            }
        }
        Ok(ended)
    }

    /// Games with something to do, those whose clock runs out first at the front.
    async fn due(&mut self) -> anyhow::Result<Vec<U256>> {
        let disputes = self.court.network.contracts.disputes;
        let mut due = Vec::new();
        for (id, table) in self.tables.iter_mut().filter(|(_, t)| t.due()) {
            let deadline = match table.deadline {
                Some(known) => known,
                None => {
                    let game = self.court.rpc.view(disputes, &Disputes::gameOfCall { id: *id }).await?;
                    // A game that has gone on meanwhile has another deadline; its event will come.
                    *table.deadline.insert(game.deadline)
                }
            };
            due.push((deadline, *id));
        }
        due.sort_unstable();
        Ok(due.into_iter().map(|(_, id)| id).collect())
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
                    table.advance(e.state, e.turn);
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
        if !table.mine() {
            if table.deadline.is_some_and(|at| time > at) {
                // Ask again: the other party may have moved in a block that we have not read.
                let game = self.court.rpc.view(disputes, &Disputes::gameOfCall { id }).await?;
                if time > game.deadline && game.turn <= DEFENDER {
                    self.court.send(disputes, U256::ZERO, Disputes::timeoutCall { id }).await?;
                }
            }
            return Ok(());
        }
        let moved = match table.found.clone() {
            Some(found) => found,
            None => self.find(id, prepare).await?,
        };
        let Some(table) = self.tables.get_mut(&id) else { return Ok(()) };
        let state = table.states.last().cloned().unwrap_or_default();
        info!(id = %id, bytes = moved.len(), "a move");
        self.court.send(disputes, U256::ZERO, Disputes::moveCall { id, state, moved }).await?;
        // The event of this move is read with the next step.
        if let Some(table) = self.tables.get_mut(&id) {
            table.moved = true;
        }
        Ok(())
    }

    /// Computes the move in a game's newest state, and keeps it.
    async fn find(&mut self, id: U256, prepare: &Arc<Prepare<'static>>) -> anyhow::Result<Bytes> {
        let table = self.tables.get_mut(&id).context("a game that is over")?;
        let (claim, defend) = (table.claim.clone(), !table.challenger);
        // What a failure leaves of a player is not used again: a new one sees all states.
        let (player, prepare) = (table.player.take(), prepare.clone());
        let seen = if player.is_some() { table.seen } else { 0 };
        let states: Vec<Bytes> = table.states[seen..].to_vec();
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
        let table = self.tables.get_mut(&id).context("a game that is over")?;
        let (player, moved) = done.context("no move was found")?;
        (table.seen, table.player, table.found) = (table.states.len(), Some(player), Some(moved.clone()));
        Ok(moved)
    }
}
