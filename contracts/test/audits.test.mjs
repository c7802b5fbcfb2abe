import assert from 'node:assert/strict';
import test from 'node:test';

import {
  audit, bond, commit, commitment, court, dispute, drawnOf, hash, join, Log, NOBODY, NOTHING, pass, reveal, RULES, step, TURN,
} from './court.mjs';
import { Chain, COIN, MIN_STAKE, person, randomness, RECORD, reverts, SYSTEM, TX_GAS_MAX } from './evm.mjs';

const node = person(1);
const [ann, ben, cid] = [person(3), person(4), person(5)];
const { commitSeconds, revealSeconds, backSeconds, fee, missPenalty, lazySlash } = RULES.audits;

/** A bonded node, auditors, coins in the pool, and a log. */
async function ready({ auditors = [ann], rules } = {}) {
  const all = await court(rules);
  await bond(all, node, 5n * MIN_STAKE);
  await join(all, auditors);
  await all.audits.send(person(0), 'fund', [], 10n * COIN);
  all.receipts = new Log(all, node);
  return { ...all, all };
}
/** Adds and posts `count` receipts. */
async function post(all, count, options) {
  all.receipts.add(count);
  return all.receipts.post(options);
}
const MARK = ['None', 'Right', 'WrongComputation', 'WrongText', 'Withheld', 'Missed', 'Backed', 'Lazy', 'Unfounded', 'CanaryPaid'];
const mark = async (all, index, who) => MARK[Number(await all.audits.read('markOf', node, index, who))];
const stakeOf = async (all, who) => (await all.auditors.read('auditorInfo', who)).stake;
const right = (...indices) => indices.map((i) => [i, 0]);

test('auditors: the constructors reject useless rules', async () => {
  const chain = await Chain.create();
  for (const rules of [[0n, 1n], [1n << 120n, 1n], [1n, 366n * 86400n]]) {
    await reverts(chain.deploy('Auditors', [...rules, NOBODY, NOBODY]), 'InvalidParams');
  }
  const deploy = (change) => chain.deploy('Audits', [...Array(5).fill(NOBODY), { ...RULES.audits, ...change }]);
  for (const change of [
    { commitSeconds: 0n }, { commitSeconds: 31n * 86400n }, { revealSeconds: 0n }, { revealSeconds: 31n * 86400n },
    { backSeconds: 366n * 86400n }, { canarySeconds: 366n * 86400n }, { rateMax: 1_000_000_001n }, { rateMin: 1_000_001n },
    { canaryBond: 1n << 96n },
  ]) await reverts(deploy(change), 'InvalidParams');
  await deploy({});
});

test('auditors: join, top up, leave, withdraw', async () => {
  const { all, chain } = await ready();
  const send = (method, value = 0n, who = ben) => all.auditors.send(who, method, [], value);
  for (const method of ['topUp', 'requestExit']) await reverts(send(method), 'NotAuditor');
  await reverts(send('withdraw'), 'NothingToWithdraw');
  await reverts(send('join', RULES.auditors.minStake - 1n), 'StakeTooLow');
  await send('join', 6n * COIN);
  await reverts(send('join', 6n * COIN), 'AlreadyJoined');
  const joined = chain.number - 1n;
  await send('topUp', COIN);
  const topped = chain.number;
  await reverts(send('withdraw'), 'NothingToWithdraw');
  await send('requestExit');
  const left = chain.number;
  await reverts(send('topUp', COIN), 'NotAuditor');
  await reverts(send('requestExit'), 'NotAuditor');
  await reverts(send('join', 6n * COIN), 'AlreadyJoined');
  await reverts(send('withdraw'), 'StillUnbonding');
  const at = async (block) => [...(await all.auditors.read('weights', ben, block))];
  assert.deepEqual(await at(joined - 1n), [0n, 10n * COIN]);
  assert.deepEqual(await at(joined), [6n * COIN, 16n * COIN]);
  assert.deepEqual(await at(topped - 1n), [6n * COIN, 16n * COIN]);
  assert.deepEqual(await at(topped), [7n * COIN, 17n * COIN]);
  assert.deepEqual(await at(left), [0n, 10n * COIN]);
  pass(all, RULES.auditors.unbondingSeconds);
  const before = await chain.balance(ben);
  await send('withdraw');
  assert.equal(await chain.balance(ben), before + 7n * COIN);
  await send('join', 5n * COIN);
  for (const method of ['take', 'hold', 'unhold']) {
    await reverts(all.auditors.send(ann, method, method === 'take' ? [ben, 1n] : [ben]), 'OnlySlasher');
  }
  await chain.fund(cid, 1n << 130n);
  await reverts(send('join', 1n << 120n, cid), 'StakeTooHigh');
});

test('audits: seed, rate and stakes are those before the batch', async () => {
  const { all, chain } = await ready({ auditors: [ann, ben] });
  await reverts(all.audits.send(ann, 'open', [node, 9]), 'NotPosted');
  const size = await post(all, 20, { seed: false });
  const block = chain.number;
  await reverts(all.audits.send(ann, 'open', [node, size]), 'NotRecorded', [block + 2n]);
  chain.number = block;
  await all.tick(1);
  await reverts(all.audits.read('drawn', node, size, 0, ann), 'NotRecorded');
  chain.number = block + 1n;
  await all.tick(1);
  const time = chain.time;
  const { events } = await all.audits.send(person(7), 'open', [node, size]);
  const [, root] = await all.log.read('latest', node);
  const seed = hash(['bytes32', 'address', 'uint64', 'bytes32'], [randomness(block + 2n), node, size, root]);
  assert.deepEqual([events[0].name, ...events[0].args.slice(1)], ['BatchOpened', 20n, seed, 1_000_000n, time + commitSeconds]);
  assert.equal((await all.audits.send(person(7), 'open', [node, size])).events.length, 0);
  // Sortition, computed here.
  for (let i = 0; i < size; i++) {
    const lot = BigInt(hash(['bytes32', 'uint256', 'address'], [seed, i, ann])) & ((1n << 64n) - 1n);
    assert.equal(await all.audits.read('drawn', node, size, i, ann), lot * 2n < 1n << 64n);
  }
  assert.equal(await all.audits.read('drawn', node, size, 20, ann), false);
  // The seed is kept when the beacon has forgotten it.
  chain.number += 9000n;
  assert.equal((await all.audits.read('batchOf', node, size)).seed, seed);
  // A batch that nobody opened is not audited.
  const late = await post(all, 2);
  chain.number += 8191n;
  await all.tick(1);
  await reverts(all.audits.send(ann, 'open', [node, late]), 'NotRecorded');
});

test('audits: stake that comes with or after the batch does not count', async () => {
  const { all, chain } = await ready();
  const size = await post(all, 40, { seed: false });
  const block = chain.number;
  // In the block of the batch itself, in the next one, and more stake of an old auditor.
  chain.number = block - 1n;
  await join(all, [ben], 500n * COIN);
  chain.number = block;
  await join(all, [cid], 500n * COIN);
  chain.number = block;
  await all.auditors.send(ann, 'topUp', [], 100n * COIN);
  chain.number = block + 1n;
  await all.tick(1);
  for (const late of [ben, cid]) {
    assert.deepEqual(await drawnOf(all, late, node, 0, size), []);
    await reverts(commit(all, late, node, size, []), 'NoStake');
  }
  assert.equal((await drawnOf(all, ann, node, 0, size)).length, size);
  // Who leaves afterwards still has its duty.
  await all.auditors.send(ann, 'requestExit');
  assert.equal(await all.audits.read('drawn', node, size, 0, ann), true);
});

test('audits: commit, reveal, fees, and the rate that follows', async () => {
  const { all, chain } = await ready();
  const size = await post(all, 32);
  const pairs = right(...Array(32).keys());
  await commit(all, ann, node, size, pairs);
  await reverts(commit(all, ann, node, size, pairs), 'AlreadyCommitted');
  await reverts(reveal(all, ann, node, size, pairs), 'TooEarly');
  pass(all, commitSeconds);
  const { events } = await reveal(all, ann, node, size, pairs);
  assert.deepEqual([events[0].name, events[0].args[5]], ['Revealed', 32n * fee]);
  await reverts(reveal(all, ann, node, size, pairs), 'WrongReveal');
  assert.deepEqual([await all.audits.read('okCount', node), await all.audits.read('pool')], [32n, 10n * COIN - 32n * fee]);
  const before = await chain.balance(ann);
  await all.audits.send(ann, 'withdraw');
  assert.equal(await chain.balance(ann), before + 32n * fee);
  await reverts(all.audits.send(ann, 'withdraw'), 'NothingToWithdraw');
  // The next batch has half of the rate; this one keeps its own.
  assert.equal((await all.audits.read('batchOf', node, size)).rate, 1_000_000n);
  const next = await post(all, 8);
  assert.equal((await all.audits.read('batchOf', node, next)).rate, 500_000n);
  assert.equal((await all.audits.read('batchOf', node, next)).first, 32n);
  assert.equal(await all.audits.read('rateAt', node, chain.number), 500_000n);
});

test('audits: a rate that changes after the post does not change the draw, whenever the batch is opened', async () => {
  const { all } = await ready();
  const first = await post(all, 64);
  const pairs = right(...Array(64).keys());
  await commit(all, ann, node, first, pairs);
  // Posted before the first batch was found right: the highest rate, opened before or after.
  const [early, late] = [await post(all, 2), await post(all, 2)];
  await all.audits.send(cid, 'open', [node, early]);
  pass(all, commitSeconds);
  await reveal(all, ann, node, first, pairs);
  assert.equal(await all.audits.read('rateAt', node, all.chain.number), 333_333n);
  for (const size of [early, late]) assert.equal((await all.audits.read('batchOf', node, size)).rate, 1_000_000n);
  // Posted before a fault: the lower rate.
  const cheap = await post(all, 2);
  await all.chain.fund(all.disputes.address, COIN);
  await all.audits.send(all.disputes.address, 'onFault', [node]);
  assert.equal((await all.audits.read('batchOf', node, cheap)).rate, 333_333n);
  const after = await post(all, 2);
  await all.audits.send(cid, 'open', [node, cheap]);
  assert.deepEqual(
    [(await all.audits.read('batchOf', node, cheap)).rate, (await all.audits.read('batchOf', node, after)).rate], [333_333n, 1_000_000n]);
});

test('audits: the rate has a floor, and a fault sets it to the highest', async () => {
  const { all } = await ready({ rules: { audits: { rateMin: 400_000n } } });
  const size = await post(all, 64);
  await audit(all, node, size, [[ann, right(...Array(64).keys())]]);
  assert.equal(await all.audits.read('rateAt', node, all.chain.number), 400_000n);
  await all.chain.fund(all.jury.address, COIN);
  await all.audits.send(all.jury.address, 'onNodeLost', [node, NOTHING, ann]);
  assert.deepEqual([await all.audits.read('rateAt', node, all.chain.number), await all.audits.read('okCount', node)], [1_000_000n, 0n]);
});

test('audits: two auditors of one receipt raise the count once', async () => {
  const { all } = await ready({ auditors: [ann, ben], rules: { audits: { rateMax: 1_000_000_000n } } });
  const size = await post(all, 5);
  await audit(all, node, size, [[ann, right(0, 1, 2)], [ben, right(1, 2, 3)]]);
  assert.equal(await all.audits.read('okCount', node), 4n);
  assert.deepEqual([await all.audits.read('balances', ann), await all.audits.read('balances', ben)], [3n * fee, 3n * fee]);
});

test('audits: a copied commitment is useless, and no commitment after the time', async () => {
  const { all } = await ready({ auditors: [ann, ben], rules: { audits: { rateMax: 1_000_000_000n } } });
  const size = await post(all, 3);
  const pairs = right(0, 1, 2);
  const copied = commitment(ann, node, size, [0, 1, 2], [0, 0, 0]);
  await commit(all, ann, node, size, pairs);
  await all.audits.send(ben, 'commit', [node, size, copied]);
  pass(all, commitSeconds);
  await reveal(all, ann, node, size, pairs);
  await reverts(reveal(all, ben, node, size, pairs), 'WrongReveal');
  await reverts(commit(all, cid, node, size, pairs), 'Late');
  for (const bad of [NOTHING, `0x${'00'.repeat(31)}01`]) {
    const other = await post(all, 1);
    await reverts(all.audits.send(ann, 'commit', [node, other, bad]), 'WrongReveal');
  }
  await reverts(reveal(all, cid, node, 99, pairs), 'NotPosted');
});

test('audits: reveals of undrawn, foreign, repeated or unordered receipts fail', async () => {
  const { all } = await ready({ auditors: [ann, ben] });
  await post(all, 10);
  const size = await post(all, 40);
  const mine = await drawnOf(all, ann, node, 10, size);
  const notMine = Array.from({ length: 30 }, (_, i) => i + 10).filter((i) => !mine.includes(i));
  assert.ok(mine.length > 3 && notMine.length > 3);
  const wrong = [
    [right(notMine[0]), 'NotDrawn'], [right(mine[1], mine[0]), 'BadIndex'], [right(mine[0], mine[0]), 'BadIndex'],
    [right(9), 'BadIndex'], [right(50), 'BadIndex'], [[[mine[0], 4]], 'BadVerdicts'],
    [Array.from({ length: 257 }, (_, i) => [i, 0]), 'BadVerdicts'],
  ];
  for (const [pairs, error] of wrong) {
    const copy = await ready({ auditors: [ann, ben] });
    await post(copy.all, 10);
    await post(copy.all, 40);
    assert.deepEqual(await drawnOf(copy.all, ann, node, 10, 50), mine);
    await commit(copy.all, ann, node, 50, pairs);
    pass(copy.all, commitSeconds);
    await reverts(reveal(copy.all, ann, node, 50, pairs), error);
  }
  await all.audits.send(ann, 'commit', [node, size, commitment(ann, node, size, [mine[0]], [])]);
  pass(all, commitSeconds);
  await reverts(all.audits.send(ann, 'reveal', [node, size, [mine[0]], [], `0x${'5e'.repeat(32)}`]), 'BadVerdicts');
});

test('audits: an empty pool pays what it has', async () => {
  const { all } = await ready({ rules: { audits: { fee: 4n * COIN } } });
  const size = await post(all, 4);
  await audit(all, node, size, [[ann, right(0, 1, 2, 3)]]);
  assert.deepEqual([await all.audits.read('balances', ann), await all.audits.read('pool')], [10n * COIN, 0n]);
  assert.equal(await all.audits.read('okCount', node), 4n);
});

test('audits: who was drawn and did not reveal pays once', async () => {
  const { all } = await ready({ auditors: [ann, ben], rules: { audits: { rateMax: 1_000_000_000n } } });
  const size = await post(all, 4);
  const miss = (index, who = ann) => all.audits.send(cid, 'reportMissed', [node, size, index, who, all.receipts.logged(Math.min(index, 3))]);
  await commit(all, ann, node, size, right(0, 1));
  await commit(all, ben, node, size, right(0));
  await reverts(miss(2), 'TooEarly');
  pass(all, commitSeconds);
  await reveal(all, ann, node, size, right(0, 1));
  pass(all, revealSeconds);
  await reverts(reveal(all, ben, node, size, right(0)), 'Late');
  await reverts(miss(0), 'WrongMark', [1n]);
  await reverts(miss(4), 'NotDrawn', [4n]);
  await reverts(miss(2, cid), 'NotDrawn');
  const pool = await all.audits.read('pool');
  const { events } = await miss(2);
  assert.deepEqual(events.map((e) => e.name), ['AuditorSlashed', 'StakeChanged', 'Penalised']);
  assert.equal(await stakeOf(all, ann), 10n * COIN - missPenalty);
  assert.deepEqual([await all.audits.read('balances', cid), await all.audits.read('pool')], [missPenalty / 2n, pool + missPenalty / 2n]);
  await reverts(miss(2), 'WrongMark', [5n]);
  await miss(0, ben); // committed only
  // Also while it leaves.
  await all.auditors.send(ann, 'requestExit');
  await miss(3);
  assert.equal(await stakeOf(all, ann), 10n * COIN - 2n * missPenalty);
});

test('audits: who stays away altogether is reported after opening the batch', async () => {
  const { all } = await ready();
  const size = await post(all, 1);
  pass(all, commitSeconds + revealSeconds);
  await all.audits.send(cid, 'reportMissed', [node, size, 0, ann, all.receipts.logged(0)]);
  assert.equal(await mark(all, 0, ann), 'Missed');
});

test('audits: nobody must look at what its client keeps to itself', async () => {
  const { all } = await ready();
  all.receipts.add(1, () => ({ rung: 1 }));
  const size = await all.receipts.post();
  pass(all, commitSeconds + revealSeconds);
  const miss = (logged) => all.audits.send(cid, 'reportMissed', [node, size, 0, ann, logged]);
  await reverts(miss(all.receipts.logged(0)), 'NotOpen');
  assert.equal(await mark(all, 0, ann), 'None');
});

test('audits: a fault that goes to a judge is paid, one that does not costs', async () => {
  const { all } = await ready();
  const size = await post(all, 4);
  await audit(all, node, size, [[ann, [[0, 1], [1, 1], [2, 2], [3, 0]]]]);
  assert.equal(await all.audits.read('balances', ann), fee);
  const back = (index, as = index, who = ann) => all.audits.send(who, 'back', [node, size, index, all.receipts.logged(as)]);
  await reverts(back(0), 'NotDisputed');
  const c = all.receipts.claims[0];
  await dispute(all, ann, c, step(TURN.node));
  await reverts(back(1, 0), 'NotInLog');
  await reverts(back(0, 0, ben), 'NotDisputed');
  const { events } = await back(0);
  assert.deepEqual(events.map((e) => e.name), ['Backed']);
  await reverts(back(0), 'WrongMark', [6n]);
  assert.equal(await all.audits.read('balances', ann), 2n * fee);
  const unfounded = (index) => all.audits.send(cid, 'reportUnfounded', [node, size, index, ann]);
  await reverts(unfounded(1), 'TooEarly');
  pass(all, backSeconds);
  await reverts(unfounded(0), 'WrongMark', [6n]);
  await reverts(unfounded(3), 'WrongMark', [1n]);
  await reverts(unfounded(4), 'BadIndex', [4n]);
  await unfounded(1);
  await unfounded(2);
  await reverts(unfounded(1), 'WrongMark', [8n]);
  assert.equal(await stakeOf(all, ann), 10n * COIN - 2n * missPenalty);
  assert.equal(await all.audits.read('balances', cid), missPenalty);
});

test('audits: "right" on a wrong answer', async () => {
  const { all } = await ready({ auditors: [ann, ben], rules: { audits: { rateMax: 1_000_000_000n } } });
  const size = await post(all, 4);
  await audit(all, node, size, [[ann, right(0, 1, 2)], [ben, [[0, 1]]]]);
  const lazy = (index, who = ann, logged = all.receipts.logged(index)) => all.audits.send(cid, 'reportLazy', [node, size, index, who, logged]);
  await reverts(lazy(0), 'NotFoundWrong');
  const game = async (index, by) => {
    const c = all.receipts.claims[index];
    return dispute(all, by, c, step(index === 1 ? TURN.node : TURN.challengerWon));
  };
  await game(0, ben);
  // A time-out says nothing about the answer.
  const { values } = await game(1, ben);
  pass(all, 200n);
  await all.disputes.send(cid, 'timeout', [values.id]);
  await reverts(lazy(1), 'NotFoundWrong');
  await reverts(lazy(0, ben), 'WrongMark', [2n]);
  await reverts(lazy(1, ann, all.receipts.logged(0)), 'NotInLog');
  await reverts(lazy(0, ann, { ...all.receipts.logged(0), path: [] }), 'BadPath');
  const pool = await all.audits.read('pool');
  await lazy(0);
  assert.equal(await stakeOf(all, ann), 10n * COIN - lazySlash);
  assert.deepEqual([await all.audits.read('balances', cid), await all.audits.read('pool')], [missPenalty / 2n, pool + lazySlash - missPenalty / 2n]);
  await reverts(lazy(0), 'WrongMark', [7n]);
  assert.equal(await all.audits.read('okCount', node), 0n);
});

test('audits: an auditor below the minimal stake is drawn no more', async () => {
  const { all, chain } = await ready({ rules: { audits: { missPenalty: 6n * COIN } } });
  const size = await post(all, 2);
  pass(all, commitSeconds + revealSeconds);
  await all.audits.send(cid, 'reportMissed', [node, size, 0, ann, all.receipts.logged(0)]);
  const [stake, exitAt] = [...(await all.auditors.read('auditorInfo', ann))];
  assert.deepEqual([stake, exitAt], [4n * COIN, chain.time - 1n + 5000n]);
  assert.deepEqual([...(await all.auditors.read('weights', ann, chain.number - 1n))], [0n, 0n]);
  await all.audits.send(cid, 'reportMissed', [node, size, 1, ann, all.receipts.logged(1)]);
  assert.equal(await stakeOf(all, ann), 0n);
  const next = await post(all, 3);
  assert.deepEqual(await drawnOf(all, ann, node, 2, next), []);
  await join(all, [ann]);
});

test('audits: gas', async (t) => {
  const { all } = await ready({ rules: { audits: { rateMax: 1_000_000_000n } } });
  const gas = {};
  // Receipts so far apart that each has words of its own.
  const far = Array.from({ length: 256 }, (_, i) => [i * 256, 0]);
  const { receipts } = all;
  receipts.add(2);
  await all.log.send(node, 'append', [0, 65536, hash(['uint256'], [1])]);
  gas.record = (await all.beacon.send(SYSTEM, 'record', RECORD)).gas;
  await all.tick(1);
  gas.commit = (await commit(all, ann, node, 65536, far)).gas;
  pass(all, commitSeconds);
  gas.reveal256 = (await reveal(all, ann, node, 65536, far)).gas;
  pass(all, revealSeconds);
  for (const [name, used] of Object.entries(gas)) {
    t.diagnostic(`${name}: ${used} gas`);
    assert.ok(used < TX_GAS_MAX, `${name}: ${used}`);
  }

});
