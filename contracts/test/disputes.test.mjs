import assert from 'node:assert/strict';
import test from 'node:test';
import { getAddress, keccak256, toBeHex, TypedDataEncoder, Wallet } from 'ethers';
import {
  after, announce, announcement, bond, BURN, claim, client, court, Log, NOBODY, NOTHING, pass, RULES, settle, step, subjects, TURN,
} from './court.mjs';
import { Chain, COIN, GENESIS, MIN_STAKE, person, reverts, TX_GAS_MAX } from './evm.mjs';

const node = person(1);
const hunter = person(5);
const { clockSeconds, openSeconds, windowSeconds, fraudSlash, timeoutSlash } = RULES.disputes;
const bounty = (slash) => slash / 4n;
const receiptId = (n) => toBeHex(0x1d0000 + n, 32);

async function ready(rules) {
  const all = await court(rules);
  await bond(all, node, 3n * MIN_STAKE);
  return { ...all, all };
}
const signed = (all, n, fields = {}) => claim({ node, receiptId: receiptId(n), timeMs: all.chain.time * 1000n, ...fields });
/** Opens a game and follows its state; `game.move(who, turn)` plays. */
async function open(all, c, turn, { by = hunter, value = COIN, opening = step(turn) } = {}) {
  const salt = await announce(all, by, subjects.dispute(c.node, c.receiptId, opening));
  const { events, values, gas } = await all.disputes.send(by, 'open', [c.claim, c.signature, opening, salt], value);
  const game = { id: values.id, events, gas, state: after(c.digest, opening), names: events.map((e) => e.name) };
  game.move = async (who, next, note) => {
    const moved = step(next, note);
    const sent = await all.disputes.send(who, 'move', [game.id, game.state, moved]);
    game.state = after(game.state, moved);
    return sent;
  };
  return game;
}
const balance = (all, who) => all.disputes.read('balances', who);
const stake = async (all, who = node) => (await all.nodes.read('nodeInfo', who)).stake;
const finding = async (all, n) => [...(await all.disputes.read('lost', node, receiptId(n)))];

test('disputes: the constructor rejects useless rules', async () => {
  const chain = await Chain.create();
  const deploy = (change) => chain.deploy('Disputes', [...Array(5).fill(NOBODY), { ...RULES.disputes, ...change }]);
  for (const change of [
    { clockSeconds: 0n }, { openSeconds: 0n }, { windowSeconds: 366n * 86400n }, { bond: 1n << 96n },
    { timeoutSlash: fraudSlash + 1n }, { fraudSlash: 1n << 128n }, { bountyPermille: 1001n },
    // The longest game and the time for opening it must fit twice over into the window.
    { windowSeconds: 2n * (clockSeconds + openSeconds) }, { clockSeconds: 1n << 63n }, { openSeconds: 1n << 63n },
  ]) await reverts(deploy(change), 'InvalidParams');
  await deploy({});
  await deploy({ windowSeconds: 2n * (clockSeconds + openSeconds) + 1n });
});

test('disputes: a game that the challenger wins', async () => {
  const { all, chain } = await ready();
  const c = signed(all, 1);
  const game = await open(all, c, TURN.node);
  assert.deepEqual(game.names, ['Opened']);
  const [id, by, challenger, defender, receipt, state, turn] = game.events[0].args;
  assert.deepEqual([id, by, challenger, defender].map(String), ['1', getAddress(node), getAddress(hunter), getAddress(node)]);
  assert.deepEqual([receipt, state, turn], [receiptId(1), game.state, 1n]);
  const stored = await all.disputes.read('gameOf', 1);
  assert.deepEqual([stored.stateHash, stored.bond, stored.turn], [keccak256(game.state), COIN, 1n]);
  assert.deepEqual([await all.nodes.read('holds', node), await all.disputes.read('openCount', node)], [fraudSlash, 1n]);

  const { events } = await game.move(node, TURN.challenger, '0xabcd');
  assert.deepEqual(events.map((e) => [e.name, ...e.args.slice(1)]), [['Moved', 0n, game.state, step(0, '0xabcd')]]);
  const last = await game.move(hunter, TURN.challengerWon);
  assert.deepEqual(last.events.map((e) => e.name), ['Moved', 'Ended', 'Fault', 'NodeSlashed', 'Punished']);
  assert.deepEqual(last.events[1].args, [1n, true, false]);
  assert.equal(await stake(all), 3n * MIN_STAKE - fraudSlash);
  assert.deepEqual([await all.nodes.read('holds', node), await all.disputes.read('openCount', node)], [0n, 0n]);
  assert.deepEqual(await finding(all, 1), [2n, fraudSlash]);
  assert.equal(await chain.balance(BURN), fraudSlash - bounty(fraudSlash));
  const before = await chain.balance(hunter);
  await all.disputes.send(hunter, 'withdraw');
  assert.equal(await chain.balance(hunter), before + COIN + bounty(fraudSlash));
  await reverts(all.disputes.send(hunter, 'withdraw'), 'NothingToWithdraw');
  assert.equal(await chain.balance(all.disputes.address), 0n);
  await reverts(game.move(node, TURN.challenger), 'NotYourTurn');
  await reverts(all.disputes.send(person(6), 'timeout', [1]), 'NotYourTurn');
  await reverts(open(all, c, TURN.node, { by: person(6) }), 'AlreadyLost');
});

test('disputes: a game that the node wins: half of the bond is the node’s, half is burnt', async () => {
  const { all, chain } = await ready();
  const game = await open(all, signed(all, 1), TURN.challenger);
  await game.move(hunter, TURN.node);
  const { events } = await game.move(node, TURN.nodeWon);
  assert.deepEqual(events.map((e) => e.name), ['Moved', 'Ended']);
  assert.deepEqual([await balance(all, node), await balance(all, hunter), await stake(all)], [COIN / 2n, 0n, 3n * MIN_STAKE]);
  assert.equal(await chain.balance(BURN), COIN / 2n);
  assert.deepEqual(await finding(all, 1), [0n, 0n]);
  await all.disputes.send(node, 'withdraw');
  assert.equal(await chain.balance(all.disputes.address), 0n);
  // The same challenger has no second try; another one has its own.
  await reverts(open(all, signed(all, 1), TURN.node), 'AlreadyTried');
  await open(all, signed(all, 1), TURN.node, { by: person(6) });
});

test('disputes: the opening can decide at once', async () => {
  const { all } = await ready();
  const won = await open(all, signed(all, 1), TURN.challengerWon);
  assert.deepEqual(won.names, ['Opened', 'Ended', 'Fault', 'NodeSlashed', 'Punished']);
  const lost = await open(all, signed(all, 2), TURN.nodeWon);
  assert.deepEqual(lost.names, ['Opened', 'Ended']);
  assert.equal(await all.disputes.read('openCount', node), 0n);
  await reverts(open(all, signed(all, 3), 4), 'BadTurn', [4n]);
  await reverts(open(all, signed(all, 3), null), undefined);
});

test('disputes: only who is on turn moves, from the right state, in time', async () => {
  const { all } = await ready();
  const game = await open(all, signed(all, 1), TURN.node);
  for (const who of [hunter, person(6)]) await reverts(game.move(who, TURN.challenger), 'NotYourTurn');
  await reverts(all.disputes.send(node, 'move', [9, game.state, step(0)]), 'NotYourTurn');
  await reverts(all.disputes.send(node, 'move', [1, `${game.state}00`, step(0)]), 'WrongState');
  await reverts(all.disputes.send(node, 'move', [1, game.state, step(null)]), undefined);
  await reverts(all.disputes.send(node, 'move', [1, game.state, step(7)]), 'BadTurn', [7n]);
  await game.move(node, TURN.challenger);
  await reverts(game.move(node, TURN.challenger), 'NotYourTurn');
  pass(all, clockSeconds);
  await reverts(game.move(hunter, TURN.challengerWon), 'Late');
});

test('disputes: who does not move loses, on each turn', async () => {
  const { all, chain } = await ready();
  const slow = await open(all, signed(all, 1), TURN.node);
  await reverts(all.disputes.send(person(6), 'timeout', [slow.id]), 'NotLate');
  await reverts(all.disputes.send(person(6), 'timeout', [7]), 'NotYourTurn');
  const deadline = (await all.disputes.read('gameOf', 1)).deadline;
  chain.time = deadline - 1n;
  await reverts(all.disputes.send(person(6), 'timeout', [slow.id]), 'NotLate', [deadline]);
  const { events } = await all.disputes.send(person(6), 'timeout', [slow.id]);
  assert.deepEqual(events[0].args, [1n, true, true]);
  assert.equal(await stake(all), 3n * MIN_STAKE - timeoutSlash);
  assert.equal(await balance(all, hunter), COIN + bounty(timeoutSlash));
  assert.deepEqual(await finding(all, 1), [1n, timeoutSlash]);

  const idle = await open(all, signed(all, 2), TURN.node);
  await idle.move(node, TURN.challenger);
  pass(all, clockSeconds);
  await all.disputes.send(node, 'timeout', [idle.id]);
  assert.deepEqual([await balance(all, node), await stake(all)], [COIN / 2n, 3n * MIN_STAKE - timeoutSlash]);
  await reverts(all.disputes.send(node, 'timeout', [idle.id]), 'NotYourTurn');
});

test('disputes: the claim must be signed, recent, and of a bonded node', async () => {
  const { all, chain } = await ready();
  const bad = { ...signed(all, 1), signature: `0x${'22'.repeat(65)}` };
  await reverts(open(all, bad, TURN.node), undefined);
  const at = (ms) => signed(all, 1, { timeMs: ms });
  // The announcement is in the next block and must be made in the window; the opening is in the block after it.
  const announced = () => (chain.time + 1n) * 1000n;
  const opened = () => (chain.time + 2n) * 1000n;
  const time = (windowSeconds - openSeconds) * 1000n;
  await reverts(open(all, at(announced() - time - 1n), TURN.node), 'OutsideWindow');
  await reverts(open(all, at(opened() + 600_001n), TURN.node), 'OutsideWindow');
  await reverts(open(all, at((1n << 64n) - 1n), TURN.node), 'OutsideWindow');
  await open(all, at(announced() - time), TURN.node);
  await open(all, signed(all, 2, { timeMs: opened() + 600_000n }), TURN.node);
  await reverts(open(all, signed(all, 3, { node: person(2) }), TURN.node), 'NotBonded', [getAddress(person(2))]);
});

/** A node's log of two claims whose time is long over, posted now. `begin(i)` disputes one with its place. */
async function backdated(all) {
  const log = new Log(all, node);
  log.add(2, () => ({ timeMs: (all.chain.time - 5n * windowSeconds) * 1000n }));
  const size = await log.post();
  const posted = await all.log.read('timeOf', node, size);
  const begin = async (i, { by = hunter, of = node, at = size, index = i, opening = step(TURN.challengerWon), value = COIN, ...parts } = {}) => {
    const salt = await announce(all, by, subjects.dispute(node, log.claims[i].receiptId, opening));
    return all.disputes.send(by, 'openLogged', [of, at, index, { ...log.logged(i), ...parts }, opening, salt], value);
  };
  return { log, size, posted, begin };
}

test('disputes: a claim that its node dates back can be disputed from when it is in the log', async () => {
  const { all, chain } = await ready();
  const { log, size, posted, begin } = await backdated(all);
  assert.deepEqual([size, posted > chain.time - 100n, posted <= chain.time], [2, true, true]);
  for (const c of log.claims) await reverts(open(all, c, TURN.node), 'OutsideWindow', [c.timeMs]);
  const { events, values } = await begin(0);
  assert.deepEqual(events.map((e) => e.name), ['Opened', 'Ended', 'Fault', 'NodeSlashed', 'Punished']);
  assert.deepEqual(events[0].args.slice(0, 3).map(String), [String(values.id), getAddress(node), getAddress(hunter)]);
  assert.equal(await stake(all), 3n * MIN_STAKE - fraudSlash);
  const lostOf = (i) => all.disputes.read('lost', node, log.claims[i].receiptId);
  assert.deepEqual([...(await lostOf(0))], [2n, fraudSlash]);
  await reverts(begin(0, { by: person(6) }), 'AlreadyLost');
  // One second after the window it is too late; at its end it is not.
  chain.time = posted + windowSeconds - openSeconds;
  await reverts(begin(1), 'OutsideWindow', [log.claims[1].timeMs]);
  chain.time = posted + windowSeconds - openSeconds - 1n;
  await begin(1, { opening: step(TURN.nodeWon) });
  assert.deepEqual([...(await lostOf(1))], [0n, 0n]);
  assert.ok((await all.disputes.read('disputedAt', node, log.claims[1].receiptId)) > 0n);
});

test('disputes: who disputes by a place in the log shows that place', async () => {
  const { all } = await ready();
  const { log, size, begin } = await backdated(all);
  const { path } = log.logged(0);
  await bond(all, person(2));
  await reverts(begin(0, { path: [...path].map(() => NOTHING) }), 'NotInLog');
  await reverts(begin(0, { path: [] }), 'BadPath');
  await reverts(begin(0, { path: [...path, NOTHING] }), 'BadPath');
  await reverts(begin(0, { path: log.logged(1).path }), 'NotInLog');
  await reverts(begin(0, { index: 1 }), 'NotInLog');
  await reverts(begin(0, { index: size }), 'BadPath');
  await reverts(begin(0, { at: size - 1 }), 'BadPath');
  await reverts(begin(0, { at: size - 1, path: [] }), 'NotInLog');
  await reverts(begin(0, { at: size + 2 }), 'BadPath');
  await reverts(begin(0, { of: person(2) }), 'WrongNode', [getAddress(node)]);
  const other = claim({ node, receiptId: receiptId(9), timeMs: all.chain.time * 1000n });
  await reverts(begin(0, { claim: other.claim, signature: other.signature }), 'NotInLog');
  await reverts(begin(0, { signature: `0x${'22'.repeat(65)}` }), undefined);
  assert.equal(await all.disputes.read('gameCount'), 0n);
  // The bond, the one try and the limits are the same as without a place.
  await reverts(begin(0, { opening: step(TURN.node), value: COIN - 1n }), 'WrongBond', [COIN - 1n, COIN]);
  await begin(0, { opening: step(TURN.node) });
  await reverts(begin(0), 'AlreadyTried');
  await reverts(open(all, log.claims[0], TURN.node), 'OutsideWindow');
});

test('disputes: a later time in the claim lengthens the window, and one of the far future waits for its time', async () => {
  const { all, chain } = await ready();
  const log = new Log(all, node);
  const ahead = chain.time + 5n * windowSeconds;
  log.add(1, () => ({ timeMs: ahead * 1000n }));
  const size = await log.post();
  const begin = async () => {
    const salt = await announce(all, hunter, subjects.dispute(node, log.claims[0].receiptId, step(TURN.node)));
    return all.disputes.send(hunter, 'openLogged', [node, size, 0, log.logged(0), step(TURN.node), salt], COIN);
  };
  await reverts(begin(), 'OutsideWindow');
  chain.time = ahead + windowSeconds - openSeconds;
  await reverts(begin(), 'OutsideWindow');
  chain.time = ahead + windowSeconds - openSeconds - 1n;
  await begin();
});

test('disputes: a later log does not begin the time anew', async () => {
  const { all, chain } = await ready();
  const { log, posted, begin } = await backdated(all);
  chain.time = posted + windowSeconds;
  await reverts(begin(0), 'OutsideWindow');
  log.add(1);
  const later = await log.post();
  await reverts(begin(0, { at: later }), 'LaterLog');
});

test('disputes: the bond is the same whatever else is open', async () => {
  const { all, chain } = await ready();
  for (let n = 0; n < 40; n++) {
    const game = { by: person(3 + (n % 4)) };
    if (n % 10 === 0) {
      for (const value of [0n, COIN - 1n, COIN + 1n]) {
        await reverts(open(all, signed(all, n), TURN.node, { ...game, value }), 'WrongBond', [value, COIN]);
      }
    }
    await open(all, signed(all, n), TURN.node, game);
  }
  assert.equal(await all.disputes.read('openCount', node), 40n);
  assert.equal(await chain.balance(all.disputes.address), 40n * COIN);
});

test('disputes: a node cannot save itself by a friend’s game', async () => {
  const { all } = await ready();
  const friend = await open(all, signed(all, 1), TURN.node, { by: person(6) });
  const honest = await open(all, signed(all, 1), TURN.node);
  pass(all, clockSeconds - 20n);
  await honest.move(node, TURN.challenger);
  pass(all, 40n);
  await all.disputes.send(person(6), 'timeout', [friend.id]);
  assert.equal(await stake(all), 3n * MIN_STAKE - timeoutSlash);
  await honest.move(hunter, TURN.challengerWon);
  assert.equal(await stake(all), 3n * MIN_STAKE - fraudSlash);
  assert.deepEqual(await finding(all, 1), [2n, fraudSlash]);
  // The friend was first, so the bounty is its: the node gets that part back, as it could with any report of its own.
  assert.equal(await balance(all, hunter), COIN);
  assert.equal(await balance(all, person(6)), COIN + bounty(timeoutSlash) + bounty(fraudSlash - timeoutSlash));
});

test('disputes: a second verdict about one receipt slashes and refunds nothing more', async () => {
  const { all } = await ready();
  const log = new Log(all, node);
  log.add(1);
  await log.post();
  const alice = await client(all, 1);
  await all.escrow.send(alice.address, 'deposit', [node], 9n * COIN);
  await settle(all, node, 1, alice.voucher(node, 4n * COIN));
  const c = signed(all, 1, { payer: alice.address, price: COIN });
  const first = await open(all, c, TURN.node);
  const second = await open(all, c, TURN.node, { by: person(6) });
  for (const game of [first, second]) {
    await game.move(node, TURN.challenger);
    await game.move(game === first ? hunter : person(6), TURN.challengerWon);
  }
  assert.equal(await stake(all), 3n * MIN_STAKE - fraudSlash);
  assert.equal(await all.escrow.read('balances', alice.address), COIN);
  assert.equal(await balance(all, hunter), COIN + bounty(fraudSlash));
  assert.equal(await balance(all, person(6)), COIN);
});

test('disputes: a node cannot give the bounty to a friend that opens later', async () => {
  const { all } = await ready();
  const honest = await open(all, signed(all, 1), TURN.node);
  const friend = await open(all, signed(all, 1), TURN.node, { by: person(6) });
  // It loses the friend's game by a verdict, and lets the other run out of time.
  await friend.move(node, TURN.challengerWon);
  pass(all, clockSeconds);
  await all.disputes.send(hunter, 'timeout', [honest.id]);
  assert.deepEqual([await balance(all, hunter), await balance(all, person(6))], [COIN + bounty(fraudSlash), COIN]);
});

test('disputes: who copies an opening and moves faster gets no bounty', async () => {
  const { all } = await ready();
  const c = signed(all, 1);
  const first = await open(all, c, TURN.node);
  const copy = await open(all, c, TURN.node, { by: person(6) });
  for (const [game, who] of [[copy, person(6)], [first, hunter]]) {
    await game.move(node, TURN.challenger);
    assert.equal(await balance(all, hunter), 0n);
    await game.move(who, TURN.challengerWon);
  }
  assert.deepEqual([await balance(all, hunter), await balance(all, person(6))], [COIN + bounty(fraudSlash), COIN]);
});

test('disputes: only who announced it in an earlier block opens, and not much later', async () => {
  const { all, chain } = await ready();
  const c = signed(all, 1);
  const opening = step(TURN.challengerWon);
  const subject = subjects.dispute(node, c.receiptId, opening);
  assert.equal(await all.disputes.read('disputeSubject', node, c.receiptId, opening), subject);
  assert.equal(await all.disputes.read('announcementOf', hunter, subject, NOTHING), announcement(hunter, subject, NOTHING));
  const begin = (by, salt, what = opening) => all.disputes.send(by, 'open', [c.claim, c.signature, what, salt], COIN);
  await reverts(begin(hunter, NOTHING), 'NotAnnounced');
  // What another announced, another salt, another opening.
  const salt = await announce(all, hunter, subject);
  await all.disputes.send(person(6), 'announce', [announcement(hunter, subject)]);
  await reverts(begin(person(6), salt), 'NotAnnounced');
  await reverts(begin(hunter, NOTHING), 'NotAnnounced');
  await reverts(begin(hunter, salt, step(TURN.node)), 'NotAnnounced');
  // In the same block it is too early: who sees an opening cannot announce it in front of it.
  const now = chain.number;
  await all.disputes.send(person(6), 'announce', [announcement(person(6), subject)]);
  chain.number = now;
  await reverts(begin(person(6), salt), 'NotAnnounced');
  chain.time += openSeconds;
  await reverts(begin(hunter, salt), 'NotAnnounced');
  await announce(all, hunter, subject);
  chain.time += openSeconds - 1n;
  await begin(hunter, salt);
  await reverts(begin(hunter, salt), 'NotAnnounced');
});

test('disputes: each side has its time for all of its moves', async () => {
  const { all, chain } = await ready();
  const game = await open(all, signed(all, 1), TURN.node);
  const clocks = async () => {
    const { challengerLeft, defenderLeft, deadline } = await all.disputes.read('gameOf', game.id);
    return [challengerLeft, defenderLeft, deadline - chain.time];
  };
  const at = chain.time;
  assert.deepEqual(await clocks(), [clockSeconds, clockSeconds, clockSeconds - 1n]);
  chain.time = at + 49n;
  await game.move(node, TURN.challenger);
  chain.time = at + 150n - 1n;
  await game.move(hunter, TURN.node);
  assert.deepEqual((await clocks()).slice(0, 2), [clockSeconds - 100n, clockSeconds - 50n]);
  // The node has 150 seconds left, and a move at the last one counts.
  chain.time = at + 150n + 150n - 1n;
  await game.move(node, TURN.challenger);
  chain.time = at + 300n + 100n - 1n;
  await game.move(hunter, TURN.node);
  assert.deepEqual((await clocks()).slice(0, 2), [0n, 0n]);
  chain.time = at + 400n;
  await reverts(game.move(node, TURN.challenger), 'Late');
  chain.time = at + 400n;
  await all.disputes.send(person(6), 'timeout', [game.id]);
  assert.deepEqual(await finding(all, 1), [1n, timeoutSlash]);
});

test('disputes: when both sides dragged, the node gets nothing of the bond', async () => {
  const { all, chain } = await ready();
  for (const [n, [mine, theirs, gets]] of [[150, 150, 0n], [150, 50, COIN / 2n], [50, 150, COIN / 2n]].entries()) {
    const before = await balance(all, node);
    const game = await open(all, signed(all, n), TURN.node);
    chain.time += BigInt(mine);
    await game.move(node, TURN.challenger);
    chain.time += BigInt(theirs);
    await game.move(hunter, TURN.node);
    await game.move(node, TURN.nodeWon);
    assert.equal((await balance(all, node)) - before, gets);
  }
});

test('disputes: the payer gets the price back from earnings, then from the stake, never more than it paid', async () => {
  const { all, chain } = await ready();
  const log = new Log(all, node);
  log.add(1);
  await log.post();
  const alice = await client(all, 1);
  await all.escrow.send(alice.address, 'deposit', [node], 9n * COIN);
  await settle(all, node, 1, alice.voucher(node, 2n * COIN));
  const wrong = async (n, price, payer = alice.address) =>
    open(all, signed(all, n, { payer, price }), TURN.challengerWon, { by: person(5) });
  await wrong(1, COIN);
  assert.equal(await all.escrow.read('balances', alice.address), COIN);
  // 0.9 coins are left in the bucket of what was paid, the rest comes from the stake.
  const before = await chain.balance(BURN);
  await wrong(2, 5n * COIN);
  assert.equal(await all.escrow.read('balances', alice.address), 2n * COIN);
  assert.equal(await chain.balance(BURN), before + fraudSlash - bounty(fraudSlash) - COIN / 10n);
  await wrong(3, 5n * COIN);
  assert.equal(await all.escrow.read('balances', alice.address), 2n * COIN);
  await wrong(4, 5n * COIN, person(7));
  assert.equal(await all.escrow.read('balances', person(7)), 0n);
  // What the node already has is compensated from at most half of the rest of the stake.
  await settle(all, node, 1, alice.voucher(node, 9n * COIN));
  pass(all, RULES.escrow.windowSeconds);
  await all.escrow.send(node, 'release', [node, (await all.escrow.read('bucketCount', node)) - 1n]);
  await wrong(5, 7n * COIN);
  const most = (fraudSlash - bounty(fraudSlash)) / 2n;
  assert.equal(await all.escrow.read('balances', alice.address), 2n * COIN + most);
});

test('disputes: leaving does not help, and an empty stake cannot be disputed', async () => {
  const { all } = await ready();
  const game = await open(all, signed(all, 1), TURN.node);
  await all.nodes.send(node, 'requestExit');
  pass(all, 50n);
  await game.move(node, TURN.challenger);
  all.chain.time = (await all.nodes.read('nodeInfo', node)).exitAt;
  // What the game cannot cost goes out; the rest waits for its end.
  const { events } = await all.nodes.send(node, 'withdraw');
  assert.deepEqual(events[0].args, [getAddress(node), 3n * MIN_STAKE - fraudSlash]);
  await reverts(all.nodes.send(node, 'withdraw'), 'Held', [getAddress(node), fraudSlash]);
  await reverts(game.move(hunter, TURN.challengerWon), 'Late');
  await all.disputes.send(hunter, 'timeout', [game.id]);
  const late = await open(all, signed(all, 2), TURN.node);
  pass(all, clockSeconds + 1n);
  await all.disputes.send(hunter, 'timeout', [late.id]);
  assert.equal(await stake(all), fraudSlash - timeoutSlash);
  await all.nodes.send(node, 'withdraw');
  await reverts(open(all, signed(all, 3), TURN.node), 'NotBonded');
});

test('disputes: slashes take at most what is there', async () => {
  const { all } = await ready({ disputes: { fraudSlash: 25n * COIN } });
  await open(all, signed(all, 1), TURN.challengerWon);
  assert.equal(await stake(all), 5n * COIN);
  assert.equal(await all.nodes.read('isActive', node), false);
  const two = await open(all, signed(all, 2), TURN.node);
  const three = await open(all, signed(all, 3), TURN.node);
  await two.move(node, TURN.challenger);
  await two.move(hunter, TURN.challengerWon);
  assert.deepEqual([await stake(all), (await finding(all, 2))[1]], [0n, 5n * COIN]);
  // Nothing is left: the bond comes back, and the next stake is held until the game ends.
  await bond(all, node);
  await all.nodes.send(node, 'requestExit');
  pass(all, clockSeconds);
  assert.equal(await all.nodes.read('holds', node), 25n * COIN);
  await all.disputes.send(hunter, 'timeout', [three.id]);
  assert.equal(await stake(all), MIN_STAKE - timeoutSlash);
});

test('disputes: coins come with a function only; a winner that re-enters gains nothing', async () => {
  const { all, chain } = await ready();
  for (const name of ['disputes', 'jury', 'audits']) {
    await reverts(chain.run({ from: person(3), to: all[name].address, data: '0x', value: 1n }), 'UnexpectedCoins');
  }
  await open(all, signed(all, 9), TURN.node);
  const thief = await chain.deploy('Reentering');
  const c = signed(all, 1);
  const forward = (method, args, value = 0n) =>
    thief.send(person(0), 'forward', [all.disputes.address, all.disputes.encode(method, args)], value);
  const subject = subjects.dispute(node, c.receiptId, step(TURN.challengerWon));
  await forward('announce', [announcement(thief.address, subject, NOTHING)]);
  await forward('open', [c.claim, c.signature, step(TURN.challengerWon), NOTHING], COIN);
  await thief.send(person(0), 'setReentry', [all.disputes.address, all.disputes.encode('withdraw')]);
  await forward('withdraw', []);
  assert.deepEqual([await thief.read('nestedSuccesses'), await thief.read('nestedFailures')], [0n, 1n]);
  assert.equal(await chain.balance(thief.address), COIN + bounty(fraudSlash));
  assert.equal(await chain.balance(all.disputes.address), COIN);
});

test('equivocation: two claims with one receipt id', async () => {
  const { all, chain } = await ready();
  const [a, b] = [signed(all, 1), signed(all, 1, { price: 5n })];
  const report = async (x, y, by = hunter) => {
    const salt = await announce(all, by, subjects.equivocation(x.node, x.receiptId));
    return all.disputes.send(by, 'equivocation', [x.claim, x.signature, y.claim, y.signature, salt]);
  };
  // Who copies a report that it sees has not announced it.
  await reverts(all.disputes.send(person(6), 'equivocation', [a.claim, a.signature, b.claim, b.signature, NOTHING]), 'NotAnnounced');
  await reverts(report(a, a), 'NoContradiction');
  await reverts(report(a, signed(all, 2)), 'NoContradiction');
  await reverts(report(a, signed(all, 1, { node: person(2) })), 'NoContradiction');
  await reverts(report(a, { ...b, signature: `0x${'00'.repeat(65)}` }), undefined);
  await reverts(report(signed(all, 1, { node: person(2) }), signed(all, 1, { node: person(2), price: 1n })), 'NotBonded');
  const { events } = await report(a, b);
  assert.deepEqual(events.map((e) => e.name), ['Equivocated', 'NodeSlashed', 'Punished', 'Fault']);
  assert.equal(await stake(all), 3n * MIN_STAKE - fraudSlash);
  assert.equal(await balance(all, hunter), bounty(fraudSlash));
  assert.equal(await chain.balance(BURN), fraudSlash - bounty(fraudSlash));
  for (const [x, y] of [[a, b], [b, a], [a, signed(all, 1, { price: 6n })]]) await reverts(report(x, y), 'AlreadyPunished');
  await report(signed(all, 2), signed(all, 2, { price: 1n }));
});

test('equivocation: two roots of one size, or another than the posted one', async () => {
  const all = await court();
  const key = new Wallet(toBeHex(0x0de, 32));
  await all.chain.fund(key.address, 100n * COIN);
  await bond(all, key.address, 3n * MIN_STAKE);
  const domain = { name: 'og log', version: '1', chainId: 1, salt: GENESIS };
  const types = { Checkpoint: [{ name: 'node', type: 'address' }, { name: 'size', type: 'uint64' }, { name: 'root', type: 'bytes32' }] };
  const root = (n) => toBeHex(0xab00 + n, 32);
  const sign = (size, r, who = key, of = domain) =>
    who.signingKey.sign(TypedDataEncoder.hash(of, types, { node: key.address, size, root: r })).serialized;
  const digest = TypedDataEncoder.hash(domain, types, { node: key.address, size: 4, root: root(1) });
  assert.equal(await all.disputes.read('checkpointDigest', key.address, 4, root(1)), digest);
  const report = async (size, a, sigA, b, sigB) => {
    const salt = await announce(all, hunter, subjects.fork(key.address, size));
    return all.disputes.send(hunter, 'logEquivocation', [key.address, size, a, sigA, b, sigB, salt]);
  };
  const stranger = new Wallet(toBeHex(0xbad, 32));
  await reverts(report(4, root(1), sign(4, root(1)), root(1), sign(4, root(1))), 'NoContradiction');
  await reverts(report(4, root(1), sign(4, root(1)), root(2), sign(5, root(2))), 'BadCheckpoint', [root(2)]);
  await reverts(report(4, root(1), sign(4, root(1), stranger), root(2), sign(4, root(2))), 'BadCheckpoint', [root(1)]);
  await reverts(report(4, root(1), sign(4, root(1), key, { ...domain, chainId: 2 }), root(2), sign(4, root(2))), 'BadCheckpoint');
  // What the key signed in another network with the same chain id is no contradiction.
  await reverts(report(4, root(1), sign(4, root(1), key, { ...domain, salt: root(9) }), root(2), sign(4, root(2))), 'BadCheckpoint', [root(1)]);
  await reverts(report(4, root(1), sign(4, root(1)), root(2), '0x'), 'BadCheckpoint', [root(2)]);
  await reverts(report(4, root(1), sign(4, root(1)), NOTHING, '0x'), 'BadCheckpoint', [NOTHING]);
  await reverts(report(4, root(1), '0x', root(2), sign(4, root(2))), 'BadCheckpoint', [root(1)]);
  const { events } = await report(4, root(1), sign(4, root(1)), root(2), sign(4, root(2)));
  assert.deepEqual(events.map((e) => e.name), ['LogForked', 'NodeSlashed', 'Punished', 'Fault']);
  await reverts(report(4, root(1), sign(4, root(1)), root(3), sign(4, root(3))), 'AlreadyPunished');
  await all.log.send(key.address, 'append', [0, 7, root(7)]);
  await reverts(report(7, root(7), sign(7, root(7)), root(7), '0x'), 'NoContradiction');
  await report(7, root(8), sign(7, root(8)), root(7), '0x');
  assert.equal(await stake(all, key.address), 3n * MIN_STAKE - 2n * fraudSlash);
});

test('disputes: only the jury marks receipts, only judges record faults', async () => {
  const { all } = await ready();
  for (const who of [hunter, node, person(900)]) {
    await reverts(all.disputes.send(who, 'markLost', [node, receiptId(1)]), 'OnlyJury', [getAddress(who)]);
    await reverts(all.disputes.send(who, 'markDisputed', [node, receiptId(1)]), 'OnlyJury', [getAddress(who)]);
    await reverts(all.disputes.send(who, 'markWithheld', [node, 1]), 'OnlyJury', [getAddress(who)]);
  }
  await all.disputes.send(all.jury.address, 'markWithheld', [node, 1]);
  assert.deepEqual([await all.disputes.read('withheld', node, 1), await all.disputes.read('withheld', node, 2)], [true, false]);
  const at = () => all.disputes.read('disputedAt', node, receiptId(1));
  assert.equal(await at(), 0n);
  await all.disputes.send(all.jury.address, 'markDisputed', [node, receiptId(1)]);
  const first = await at();
  assert.ok(first > 0n);
  // The first block stays: a canary that is planted later protects nobody.
  await all.disputes.send(all.jury.address, 'markDisputed', [node, receiptId(1)]);
  assert.equal(await at(), first);
  await reverts(all.audits.send(hunter, 'onFault', [node]), 'OnlyJudge');
  await reverts(all.audits.send(hunter, 'onNodeLost', [node, receiptId(1), hunter]), 'OnlyJudge');
  await reverts(all.audits.send(hunter, 'beginAccusation', [node, receiptId(1), hunter]), 'OnlyJudge');
  await reverts(all.audits.send(hunter, 'endAccusation', [node, receiptId(1), hunter, true]), 'OnlyJudge');
  await reverts(all.audits.send(hunter, 'onEscalated', [node, 1, `0x${'00'.repeat(32)}`, 1, hunter]), 'OnlyJudge');
});

test('disputes: gas with claims of 1 kB and moves of 32 kB', async (t) => {
  const { all } = await ready();
  const note = `0x${'a7'.repeat(32 * 1024)}`;
  const kilo = (n, fields) => {
    const c = claim({ node, receiptId: receiptId(n), timeMs: all.chain.time * 1000n, ...fields }, 800);
    assert.ok((c.claim.length - 2) / 2 >= 1000);
    return c;
  };
  const gas = {};
  const c = kilo(1);
  const game = await open(all, c, TURN.node, { opening: step(TURN.node, note) });
  gas.open = game.gas;
  const moved = step(TURN.challenger, note);
  gas.move = (await all.disputes.send(node, 'move', [game.id, game.state, moved])).gas;
  pass(all, clockSeconds + 1n);
  gas.timeout = (await all.disputes.send(node, 'timeout', [game.id])).gas;
  gas.lost = (await open(all, kilo(2), TURN.challengerWon, { opening: step(TURN.challengerWon, note) })).gas;
  const [a, b] = [kilo(3), kilo(3, { price: 1n })];
  const salt = await announce(all, hunter, subjects.equivocation(node, receiptId(3)));
  gas.equivocation = (await all.disputes.send(hunter, 'equivocation', [a.claim, a.signature, b.claim, b.signature, salt])).gas;
  gas.withdraw = (await all.disputes.send(hunter, 'withdraw')).gas;
  for (const [name, used] of Object.entries(gas)) {
    t.diagnostic(`${name}: ${used} gas without the referee's`);
    assert.ok(used < TX_GAS_MAX, `${name}: ${used}`);
  }
});
