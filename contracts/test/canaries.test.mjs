import assert from 'node:assert/strict';
import test from 'node:test';
import { after, audit, bond, client, commit, court, dispute, hash, join, Log, pass, reveal, RULES, settle, step, TURN } from './court.mjs';
import { COIN, MIN_STAKE, person, reverts, TX_GAS_MAX } from './evm.mjs';

const node = person(1);
const [ann, ben, cid] = [person(3), person(4), person(5)];
const { commitSeconds, revealSeconds, backSeconds, canarySeconds, canaryBond, lazySlash, fee } = RULES.audits;
const SALT = hash(['uint256'], [777]);
const secret = (index, salt = SALT) => hash(['address', 'uint64', 'bytes32'], [node, index, salt]);

/** A node with canary 1 of 4 posted receipts, and three auditors that are drawn for all. */
async function ready({ plant = true, post = true } = {}) {
  const all = await court({ audits: { rateMax: 1_000_000_000n } });
  await bond(all, node, 5n * MIN_STAKE);
  await join(all, [ann, ben, cid]);
  await all.audits.send(person(0), 'fund', [], 10n * COIN);
  all.receipts = new Log(all, node);
  all.receipts.add(4);
  if (plant) await all.audits.send(node, 'plantCanary', [secret(1)], canaryBond);
  if (post) await all.receipts.post();
  return { ...all, all };
}
const openCanary = (all, index = 1, { salt = SALT, size = 4, logged = all.receipts.logged(index), from = node } = {}) =>
  all.audits.send(from, 'openCanary', [size, index, salt, logged]);
const accuse = (all, auditor, turn = TURN.node, { index = 1, from = node, value = COIN } = {}) => {
  const c = all.receipts.claims[index];
  return all.disputes.send(from, 'accuse', [auditor, c.claim, c.signature, step(turn)], value);
};
const owed = (all, who) => all.audits.read('balances', who);
const stakeOf = async (all, who) => (await all.auditors.read('auditorInfo', who)).stake;
const nodeStake = async (all) => (await all.nodes.read('nodeInfo', node)).stake;

test('canary: the bond, the number, and the time of planting', async () => {
  const { all } = await ready({ plant: false, post: false });
  const plant = (index, value = canaryBond) => all.audits.send(node, 'plantCanary', [secret(index)], value);
  await reverts(plant(1, canaryBond - 1n), 'WrongBond', [canaryBond - 1n, canaryBond]);
  await plant(1);
  await reverts(plant(1), 'CannotPlant');
  await plant(2);
  await reverts(plant(3), 'CannotPlant');
  await all.receipts.post();
  pass(all, commitSeconds);
  await openCanary(all, 1);
  // One that is planted after the batch is none.
  await plant(3);
  await reverts(openCanary(all, 3), 'NoCanary');
  await openCanary(all, 2);
});

test('canary: only with its salt, by its node, in its batch and time', async () => {
  const { all } = await ready();
  await reverts(openCanary(all), 'TooEarly');
  pass(all, commitSeconds);
  await reverts(openCanary(all, 1, { salt: hash(['uint256'], [1]) }), 'NoCanary');
  await reverts(openCanary(all, 1, { from: ann }), 'NotPosted');
  await reverts(openCanary(all, 2), 'NoCanary');
  await reverts(openCanary(all, 4, { logged: all.receipts.logged(1) }), 'BadIndex', [4n]);
  await reverts(openCanary(all, 1, { size: 5 }), 'NotPosted');
  await reverts(openCanary(all, 1, { logged: all.receipts.logged(2) }), 'NotInLog');
  const { events } = await openCanary(all);
  assert.deepEqual([events[0].name, events[0].args[2]], ['CanaryOpened', all.receipts.claims[1].receiptId]);
  await reverts(openCanary(all), 'NoCanary');

  const late = await ready();
  pass(late.all, commitSeconds + revealSeconds + backSeconds);
  await reverts(openCanary(late.all), 'Late');
});

test('canary: one that is not opened goes to the pool', async () => {
  const { all } = await ready();
  const expire = () => all.audits.send(ann, 'expireCanary', [node, secret(1)]);
  await reverts(expire(), 'TooEarly');
  pass(all, canarySeconds);
  await expire();
  await reverts(expire(), 'NoCanary');
  assert.deepEqual([await all.audits.read('pool'), await all.audits.read('plantedCount', node)], [11n * COIN, 0n]);
});

test('canary: who found it shares the bond, who passed it without looking is slashed', async () => {
  const { all } = await ready();
  await audit(all, node, 4, [[ann, [[0, 0], [1, 1]]], [ben, [[1, 3]]], [cid, [[1, 0]]]]);
  await reverts(accuse(all, cid), 'NoCanary');
  await openCanary(all);
  for (const who of [ann, ben]) {
    await all.audits.send(who, 'claimCanary', [node, 1]);
    await reverts(all.audits.send(who, 'claimCanary', [node, 1]), 'WrongMark', [9n]);
  }
  assert.deepEqual([await owed(all, ann), await owed(all, ben)], [fee + canaryBond / 2n, canaryBond / 2n]);
  await reverts(all.audits.send(cid, 'claimCanary', [node, 1]), 'WrongMark', [1n]);
  await reverts(all.audits.send(cid, 'claimCanary', [node, 2]), 'NoCanary');

  await reverts(accuse(all, cid, TURN.node, { value: COIN - 1n }), 'WrongBond');
  await reverts(accuse(all, cid, TURN.node, { from: person(6) }), 'OnlyNode');
  await reverts(accuse(all, ann), 'WrongMark', [9n]);
  await reverts(accuse(all, person(6)), 'NotDrawn');
  const { values } = await accuse(all, cid);
  await reverts(accuse(all, cid), 'WrongMark', [7n]);
  assert.equal((await all.auditors.read('auditorInfo', cid)).holds, 1n);
  // It cannot leave meanwhile, and does not defend itself.
  await all.auditors.send(cid, 'requestExit');
  pass(all, RULES.auditors.unbondingSeconds);
  await reverts(all.auditors.send(cid, 'withdraw'), 'Held');
  const pool = await all.audits.read('pool');
  await all.disputes.send(ann, 'timeout', [values.id]);
  assert.equal(await stakeOf(all, cid), 10n * COIN - lazySlash);
  // The node gets at most the bond of it, the pool the rest.
  assert.deepEqual([await owed(all, node), await all.audits.read('pool')], [canaryBond, pool + lazySlash - canaryBond]);
  assert.equal(await all.disputes.read('balances', node), COIN);
  await all.auditors.send(cid, 'withdraw');
  assert.equal(await nodeStake(all), 5n * MIN_STAKE);
});

test('canary: a right answer is none: the auditor defends it and gets the bond', async () => {
  const { all } = await ready();
  await audit(all, node, 4, [[ann, [[1, 0]]], [ben, [[1, 0]]]]);
  await openCanary(all);
  const c = all.receipts.claims[1];
  const { values } = await accuse(all, ann);
  const moves = [[ann, TURN.challenger], [node, TURN.node], [ann, TURN.nodeWon]];
  let state = after(c.digest, step(TURN.node));
  await reverts(all.disputes.send(node, 'move', [values.id, state, step(TURN.challenger)]), 'NotYourTurn');
  for (const [who, turn] of moves) {
    await all.disputes.send(who, 'move', [values.id, state, step(turn)]);
    state = after(state, step(turn));
  }
  assert.deepEqual([await stakeOf(all, ann), await owed(all, ann)], [10n * COIN, fee + canaryBond]);
  assert.equal(await all.disputes.read('balances', ann), COIN / 2n);
  assert.equal((await all.auditors.read('auditorInfo', ann)).holds, 0n);
  // It protects the node no longer, and accuses nobody else.
  await reverts(accuse(all, ben), 'NoCanary');
  await dispute(all, cid, c, step(TURN.challengerWon));
  assert.equal(await nodeStake(all), 5n * MIN_STAKE - RULES.disputes.fraudSlash);
});

test('canary: two accusations, of which the second ends after the canary', async () => {
  const { all } = await ready();
  await audit(all, node, 4, [[ann, [[1, 0]]], [ben, [[1, 0]]]]);
  await openCanary(all);
  const c = all.receipts.claims[1];
  const one = await accuse(all, ann);
  const two = await accuse(all, ben);
  await all.disputes.send(ann, 'move', [one.values.id, after(c.digest, step(TURN.node)), step(TURN.nodeWon)]);
  const pool = await all.audits.read('pool');
  pass(all, 200n);
  await all.disputes.send(cid, 'timeout', [two.values.id]);
  assert.deepEqual([await owed(all, node), await all.audits.read('pool')], [0n, pool + lazySlash]);
});

test('canary: committing and then not revealing does not help', async () => {
  const { all } = await ready();
  await commit(all, ann, node, 4, [[1, 0]]);
  await commit(all, ben, node, 4, [[0, 0]]);
  pass(all, commitSeconds);
  await openCanary(all);
  await reverts(accuse(all, ann), 'TooEarly');
  await reveal(all, ben, node, 4, [[0, 0]]);
  pass(all, revealSeconds);
  await accuse(all, ann, TURN.challengerWon);
  await accuse(all, ben, TURN.challengerWon);
  await reverts(accuse(all, cid), 'NotDrawn'); // did not commit: `reportMissed`
  for (const who of [ann, ben]) assert.equal(await stakeOf(all, who), 10n * COIN - lazySlash);
  assert.equal(await owed(all, node), canaryBond);
  await reverts(all.audits.send(cid, 'reportMissed', [node, 4, 1, ann, all.receipts.logged(1)]), 'WrongMark', [7n]);
});

test('canary: accusations have an end', async () => {
  const { all } = await ready();
  await audit(all, node, 4, [[ann, [[1, 0]]]]);
  await openCanary(all);
  pass(all, canarySeconds);
  await reverts(accuse(all, ann), 'Late');
});

test('canary: it is not lost, but costs its bond', async () => {
  const { all } = await ready();
  await audit(all, node, 4, [[ann, [[1, 1]]], [ben, [[1, 0]]]]);
  const alice = await client(all, 1);
  await all.escrow.send(alice.address, 'deposit', [node], 5n * COIN);
  await settle(all, node, 4, alice.voucher(node, COIN));
  await openCanary(all);
  const c = all.receipts.claims[1];
  const { events } = await dispute(all, ann, c, step(TURN.challengerWon));
  assert.deepEqual(events.map((e) => e.name), ['Opened', 'Ended', 'CanaryPaidOut', 'Punished']);
  assert.equal(await nodeStake(all), 5n * MIN_STAKE);
  assert.equal(await owed(all, ann), canaryBond);
  assert.equal(await all.disputes.read('balances', ann), COIN);
  // Not a proof against an auditor: for that the node accuses it, and it may answer.
  await reverts(all.audits.send(cid, 'reportLazy', [node, 4, 1, ben, all.receipts.logged(1)]), 'NotFoundWrong');
  await all.audits.send(ann, 'claimCanary', [node, 1]);
  assert.equal(await owed(all, ann), canaryBond);
  await reverts(all.audits.send(cid, 'reportUnfounded', [node, 4, 1, ben]), 'TooEarly');
  pass(all, backSeconds);
  await reverts(all.audits.send(cid, 'reportUnfounded', [node, 4, 1, ben]), 'IsCanary');
});

test('canary: no shield for a cheated client: planted after the dispute it is none, and the price comes back', async () => {
  const { all } = await ready({ plant: false, post: false });
  const alice = await client(all, 1);
  await all.escrow.send(alice.address, 'deposit', [node], 5n * COIN);
  const { receipts } = all;
  receipts.add(2, () => ({ payer: alice.address, price: COIN }));
  // The client disputes receipt 4 before the log is posted; then the node plants a canary for it, and one for 5.
  const [four, five] = receipts.claims.slice(4);
  const { values } = await dispute(all, cid, four, step(TURN.node));
  for (const index of [4, 5]) await all.audits.send(node, 'plantCanary', [secret(index)], canaryBond);
  await receipts.post();
  await settle(all, node, 6, alice.voucher(node, 2n * COIN));
  pass(all, commitSeconds);
  await reverts(openCanary(all, 4, { size: 6 }), 'NoCanary');
  await openCanary(all, 5, { size: 6 });
  pass(all, RULES.disputes.clockSeconds);
  await all.disputes.send(cid, 'timeout', [values.id]);
  assert.equal(await nodeStake(all), 5n * MIN_STAKE - RULES.disputes.timeoutSlash);
  assert.equal(await all.escrow.read('balances', alice.address), COIN);
  // The opened one is lost to anybody who disputes, and the price too (0.9 coins are left of the earnings).
  await dispute(all, cid, five, step(TURN.challengerWon));
  assert.equal(await nodeStake(all), 5n * MIN_STAKE - RULES.disputes.timeoutSlash);
  assert.equal(await owed(all, cid), canaryBond);
  assert.equal(await all.escrow.read('balances', alice.address), 2n * COIN - COIN / 10n);
});

test('canary: a bond that nobody earned comes back, one that nobody claimed goes to the pool', async () => {
  for (const [verdict, home] of [[0, true], [1, false]]) {
    const { all } = await ready();
    await audit(all, node, 4, [[ann, [[1, verdict]]]]);
    await openCanary(all);
    const reclaim = () => all.audits.send(node, 'reclaimCanary', [1]);
    await reverts(reclaim(), 'TooEarly');
    pass(all, canarySeconds);
    const pool = await all.audits.read('pool');
    await reclaim();
    assert.deepEqual([await owed(all, node), (await all.audits.read('pool')) - pool], home ? [canaryBond, 0n] : [0n, canaryBond]);
    await reverts(reclaim(), 'NoCanary');
    await reverts(all.audits.send(ann, 'claimCanary', [node, 1]), 'NoCanary');
  }
});

test('canary: a node that is its own auditor cannot end another’s proceedings by accusing itself', async () => {
  const { all } = await ready({ plant: false, post: false });
  await all.chain.fund(node, 1000n * COIN);
  await join(all, [node]);
  await all.audits.send(node, 'plantCanary', [secret(1)], canaryBond);
  await all.receipts.post();
  await audit(all, node, 4, [[node, [[1, 0]]]]);
  await openCanary(all);
  const c = all.receipts.claims[0];
  await dispute(all, cid, c, step(TURN.node));
  await accuse(all, node, TURN.challengerWon);
  assert.deepEqual([await all.disputes.read('openCount', node), await all.nodes.read('holds', node)], [1n, RULES.disputes.fraudSlash]);
});

test('canary: gas', async (t) => {
  const { all } = await ready({ plant: false, post: false });
  const { receipts } = all;
  receipts.add(2000);
  const gas = { plantCanary: (await all.audits.send(node, 'plantCanary', [secret(1)], canaryBond)).gas };
  const size = await receipts.post();
  await audit(all, node, size, [[ann, [[1, 1], [2, 1]]], [ben, [[1, 0]]]]);
  gas.openCanary = (await openCanary(all, 1, { size })).gas;
  gas.claimCanary = (await all.audits.send(ann, 'claimCanary', [node, 1])).gas;
  gas.accuse = (await accuse(all, ben)).gas;
  const c = receipts.claims[2];
  await dispute(all, ann, c, step(TURN.node));
  gas.back = (await all.audits.send(ann, 'back', [node, size, 2, receipts.logged(2)])).gas;
  pass(all, canarySeconds);
  gas.reclaimCanary = (await all.audits.send(node, 'reclaimCanary', [1])).gas;
  for (const [name, used] of Object.entries(gas)) {
    t.diagnostic(`${name}: ${used} gas`);
    assert.ok(used < TX_GAS_MAX, `${name}: ${used}`);
  }
});
