import assert from 'node:assert/strict';
import test from 'node:test';
import { audit, bond, BURN, client, court, dispute, hash, join, Log, NOBODY, pass, RULES, settle, step, TURN } from './court.mjs';
import { Chain, COIN, MIN_STAKE, person, reverts, TX_GAS_MAX } from './evm.mjs';

const node = person(1);
const [ann, ben, cid, dan, eve] = [3, 4, 5, 6, 7].map(person);
const { commitSeconds, revealSeconds, textSlash, missPenalty, fee } = RULES.jury;
const SALT = hash(['uint256'], [5]);
const EMPTY = { claim: '0x', signature: '0x', path: [] };
const OUTCOME = ['None', 'Open', 'Guilty', 'NotGuilty', 'NoQuorum'];

/** Four receipts that ann judged 2 (wrong text), 3 (withheld), 1 and 0; `price` was paid by a client. */
async function ready({ rules, stakes = {} } = {}) {
  const all = await court({ audits: { rateMax: 1_000_000_000n, backSeconds: 1000n }, ...rules });
  await bond(all, node, 5n * MIN_STAKE);
  for (const who of [ann, ben, cid, dan, eve]) await join(all, [who], (stakes[who] ?? 10n) * COIN);
  const alice = await client(all, 1);
  await all.escrow.send(alice.address, 'deposit', [node], 9n * COIN);
  all.receipts = new Log(all, node);
  all.receipts.add(4, () => ({ payer: alice.address, price: COIN }));
  await all.receipts.post();
  await settle(all, node, 4, alice.voucher(node, 2n * COIN));
  await audit(all, node, 4, [[ann, [[0, 2], [1, 3], [2, 1], [3, 0]]]]);
  return { ...all, all, alice };
}
const escalate = async (all, index, { by = ann, logged = all.receipts.logged(index), value = COIN, seed = true } = {}) => {
  const { values, events, gas } = await all.jury.send(by, 'escalate', [node, 4, index, logged], value);
  if (seed) await all.tick(2);
  return { id: values.id, events, gas };
};
const ballot = (who, id, guilty, salt = SALT) => hash(['address', 'bytes32', 'bool', 'bytes32'], [who, id, guilty, salt]);
const commit = (all, id, who, guilty) => all.jury.send(who, 'commit', [id, ballot(who, id, guilty)]);
const reveal = (all, id, who, guilty, salt = SALT) => all.jury.send(who, 'reveal', [id, guilty, salt]);
/** Votes and resolves; `votes` are pairs of juror and guilty, `silent` commit only. */
async function vote(all, id, votes, silent = []) {
  for (const [who, guilty] of votes) await commit(all, id, who, guilty);
  for (const who of silent) await commit(all, id, who, true);
  pass(all, commitSeconds);
  for (const [who, guilty] of votes) await reveal(all, id, who, guilty);
  pass(all, revealSeconds);
  return all.jury.send(person(8), 'resolve', [id]);
}
const outcome = async (all, id) => OUTCOME[Number((await all.jury.read('caseOf', id)).outcome)];
const owed = (all, who) => all.jury.read('balances', who);
const stakeOf = async (all, who) => (await all.auditors.read('auditorInfo', who)).stake;
const nodeStake = async (all) => (await all.nodes.read('nodeInfo', node)).stake;

test('jury: the constructor rejects useless rules', async () => {
  const chain = await Chain.create();
  const deploy = (change) => chain.deploy('Jury', [...Array(7).fill(NOBODY), { ...RULES.jury, ...change }]);
  for (const change of [
    { rate: 1_000_000_001n }, { minJurors: 0n }, { commitSeconds: 31n * 86400n }, { revealSeconds: 31n * 86400n },
    { bond: 1n << 96n }, { fee: 1n << 96n }, { bountyPermille: 1001n },
  ]) await reverts(deploy(change), 'InvalidParams');
  await deploy({});
});

test('jury: who may call it, for what, and once', async () => {
  const { all } = await ready();
  await reverts(escalate(all, 0, { value: 0n }), 'WrongBond', [0n, COIN]);
  await reverts(escalate(all, 0, { by: ben }), 'WrongMark', [0n]);
  await reverts(escalate(all, 2), 'WrongMark', [2n]);
  await reverts(escalate(all, 3), 'WrongMark', [1n]);
  await reverts(escalate(all, 0, { logged: EMPTY }), 'ClaimNeeded');
  await reverts(escalate(all, 0, { logged: all.receipts.logged(1) }), 'NotInLog');
  const { id, events } = await escalate(all, 0);
  assert.equal(id, await all.jury.read('caseId', node, 0));
  assert.deepEqual(events.map((e) => e.name), ['Backed', 'Escalated']);
  assert.deepEqual([await all.jury.read('openCount', node), await all.nodes.read('holds', node)], [1n, RULES.jury.textSlash]);
  await reverts(escalate(all, 0), 'AlreadyJudged');
  await escalate(all, 1, { logged: EMPTY });
  assert.equal(await all.jury.read('isJuror', await all.jury.read('caseId', node, 7), ben), false);
});

test('jury: guilty: slash, refund, bounty, and the guilty voters share the prize by stake', async () => {
  const { all, alice, chain } = await ready({ stakes: { [ben]: 30n } });
  const { id } = await escalate(all, 0);
  const { events } = await vote(all, id, [[ben, true], [cid, true], [dan, false]], [eve]);
  assert.deepEqual(events.map((e) => e.name), ['Fault', 'Refunded', 'NodeSlashed', 'Punished', 'Resolved']);
  assert.equal(await outcome(all, id), 'Guilty');
  assert.equal(await nodeStake(all), 5n * MIN_STAKE - textSlash);
  assert.equal(await all.escrow.read('balances', alice.address), COIN);
  assert.equal(await owed(all, ann), COIN + textSlash / 4n);
  assert.equal(await chain.balance(BURN), textSlash * 3n / 4n - fee);
  assert.deepEqual([await all.jury.read('openCount', node), await all.nodes.read('holds', node)], [0n, 0n]);
  const finding = (await all.disputes.read('lost', node, all.receipts.claims[0].receiptId)).finding;
  assert.equal(finding, 3n);

  const pool = await all.audits.read('pool');
  for (const who of [ben, cid, dan, eve]) {
    await all.jury.send(person(8), 'settle', [id, who]);
    await reverts(all.jury.send(person(8), 'settle', [id, who]), 'NothingToSettle');
  }
  await reverts(all.jury.send(person(8), 'settle', [id, ann]), 'NothingToSettle');
  assert.deepEqual([await owed(all, ben), await owed(all, cid), await owed(all, dan)], [fee * 3n / 4n, fee / 4n, 0n]);
  assert.deepEqual([await stakeOf(all, dan), await stakeOf(all, eve)], [10n * COIN - missPenalty, 10n * COIN - missPenalty]);
  assert.equal(await all.audits.read('pool'), pool + 2n * missPenalty);
  for (const who of [ann, ben, cid]) await all.jury.send(who, 'withdraw');
  assert.equal(await chain.balance(all.jury.address), 0n);
  await reverts(all.jury.send(person(8), 'resolve', [id]), 'WrongOutcome', [2n]);

  // Nobody is punished for it again; who called it right is lazy.
  const c = all.receipts.claims[0];
  await reverts(dispute(all, ben, c, step(TURN.challengerWon)), 'AlreadyLost');
});

test('jury: not guilty: the bond goes to the node and the jurors', async () => {
  const { all, chain } = await ready();
  const { id } = await escalate(all, 0);
  await vote(all, id, [[ben, false], [cid, false], [dan, true]]);
  assert.equal(await outcome(all, id), 'NotGuilty');
  assert.deepEqual([await owed(all, node), await owed(all, ann), await nodeStake(all)], [COIN / 2n, 0n, 5n * MIN_STAKE]);
  for (const who of [ben, cid, dan]) await all.jury.send(ben, 'settle', [id, who]);
  assert.deepEqual([await owed(all, ben), await owed(all, cid)], [COIN / 4n, COIN / 4n]);
  assert.equal(await stakeOf(all, dan), 10n * COIN - missPenalty);
  for (const who of [node, ben, cid]) await all.jury.send(who, 'withdraw');
  assert.equal(await chain.balance(all.jury.address), 0n);
  await reverts(escalate(all, 0), 'AlreadyJudged');
});

test('jury: two thirds are needed; a split jury punishes nobody', async () => {
  const { all } = await ready();
  const { id } = await escalate(all, 0);
  await vote(all, id, [[ben, true], [cid, true], [dan, false], [eve, false]]);
  assert.equal(await outcome(all, id), 'NotGuilty');
  for (const who of [ben, cid, dan, eve]) {
    await all.jury.send(ben, 'settle', [id, who]);
    assert.equal(await stakeOf(all, who), 10n * COIN);
  }
  // Stake counts, not heads: 20 of 30 coins are enough.
  const more = await ready({ stakes: { [ben]: 20n, [cid]: 5n, [dan]: 5n } });
  const second = await escalate(more.all, 0);
  await vote(more.all, second.id, [[ben, true], [cid, false], [dan, false]]);
  assert.equal(await outcome(more.all, second.id), 'Guilty');
});

test('jury: too few jurors: the bond comes back and nothing happens', async () => {
  const { all, chain } = await ready();
  const { id } = await escalate(all, 0);
  await vote(all, id, [[ben, true], [cid, true]], [dan]);
  assert.equal(await outcome(all, id), 'NoQuorum');
  assert.deepEqual([await owed(all, ann), await nodeStake(all)], [COIN, 5n * MIN_STAKE]);
  for (const who of [ben, cid, dan]) await all.jury.send(ben, 'settle', [id, who]);
  assert.deepEqual([await stakeOf(all, ben), await stakeOf(all, dan)], [10n * COIN, 10n * COIN - missPenalty]);
  await all.jury.send(ann, 'withdraw');
  assert.equal(await chain.balance(all.jury.address), 0n);
});

test('jury: a withheld receipt needs no claim, and refunds nobody', async () => {
  const { all, alice } = await ready();
  const { id } = await escalate(all, 1, { logged: EMPTY });
  await vote(all, id, [[ben, true], [cid, true], [dan, true]]);
  assert.equal(await nodeStake(all), 5n * MIN_STAKE - textSlash);
  assert.equal(await all.escrow.read('balances', alice.address), 0n);
  assert.equal(await owed(all, ann), COIN + textSlash / 4n);
});

test('jury: only drawn auditors vote, secretly, once, in time; not who called it', async () => {
  const { all } = await ready();
  const { id } = await escalate(all, 0, { seed: false });
  await reverts(commit(all, id, ben, true), 'NotRecorded');
  await reverts(commit(all, hash(['uint256'], [1]), ben, true), 'WrongOutcome', [0n]);
  const { id: other } = await escalate(all, 1, { logged: EMPTY });
  await reverts(commit(all, other, ann, true), 'NotJuror');
  await reverts(commit(all, other, person(8), true), 'NotJuror');
  // Stake that comes after the case does not count.
  await all.chain.fund(person(9), 1000n * COIN);
  await join(all, [person(9)], 500n * COIN);
  await reverts(commit(all, other, person(9), true), 'NotJuror');
  await commit(all, other, ben, true);
  await reverts(commit(all, other, ben, false), 'AlreadyCommitted');
  await all.jury.send(cid, 'commit', [other, ballot(ben, other, true)]);
  await commit(all, other, dan, true);
  await reverts(reveal(all, other, ben, true), 'TooEarly');
  await reverts(all.jury.send(ben, 'resolve', [other]), 'TooEarly');
  await reverts(all.jury.send(ben, 'settle', [other, ben]), 'WrongOutcome', [1n]);
  pass(all, commitSeconds);
  await reverts(commit(all, other, eve, true), 'Late');
  await reverts(reveal(all, other, ben, false), 'WrongReveal');
  await reverts(reveal(all, other, cid, true), 'WrongReveal');
  await reveal(all, other, ben, true);
  await reverts(reveal(all, other, ben, true), 'WrongReveal');
  await reverts(all.jury.send(ben, 'resolve', [other]), 'TooEarly');
  pass(all, revealSeconds);
  await reverts(reveal(all, other, dan, true), 'Late');
  await all.jury.send(ben, 'resolve', [other]);
  assert.equal(await outcome(all, other), 'NoQuorum');
  await all.jury.send(ben, 'resolve', [id]);
});

test('jury: a rate below one draws some', async () => {
  const { all } = await ready({ rules: { jury: { rate: 2_000_000n } } });
  let drawn = 0;
  for (const index of [0, 1]) {
    const { id } = await escalate(all, index);
    for (const who of [ann, ben, cid, dan, eve]) if (await all.jury.read('isJuror', id, who)) drawn++;
  }
  assert.ok(drawn > 0 && drawn < 8, `${drawn}`);
});

test('jury: what a dispute settled meanwhile, or a canary, is not punished again', async () => {
  const { all } = await ready();
  const { id } = await escalate(all, 0);
  const c = all.receipts.claims[0];
  await dispute(all, eve, c, step(TURN.challengerWon));
  const stake = await nodeStake(all);
  await vote(all, id, [[ben, true], [cid, true], [dan, true]]);
  assert.deepEqual([await outcome(all, id), await nodeStake(all), await owed(all, ann)], ['Guilty', stake, COIN]);
  const third = await ready();
  const lost = third.all.receipts.claims[0];
  await dispute(third.all, eve, lost, step(TURN.challengerWon));
  await reverts(escalate(third.all, 0), 'AlreadyJudged');
});

test('jury: a canary costs its bond', async () => {
  const all = await court({ audits: { rateMax: 1_000_000_000n } });
  await bond(all, node, 5n * MIN_STAKE);
  await join(all, [ann, ben, cid, dan]);
  all.receipts = new Log(all, node);
  all.receipts.add(2);
  await all.audits.send(node, 'plantCanary', [hash(['address', 'uint64', 'bytes32'], [node, 0, SALT])], COIN);
  await all.receipts.post();
  await audit(all, node, 2, [[ann, [[0, 2]]]]);
  await all.audits.send(node, 'openCanary', [2, 0, SALT, all.receipts.logged(0)]);
  const { values } = await all.jury.send(ann, 'escalate', [node, 2, 0, all.receipts.logged(0)], COIN);
  await all.tick(2);
  await vote(all, values.id, [[ben, true], [cid, true], [dan, true]]);
  assert.equal(await nodeStake(all), 5n * MIN_STAKE);
  assert.deepEqual([await owed(all, ann), await all.audits.read('balances', ann)], [COIN, COIN]);
});

test('jury: an open case holds what it can cost, and the rest goes out', async () => {
  const { all } = await ready();
  await all.nodes.send(node, 'requestExit');
  pass(all, 3600n);
  const { id } = await escalate(all, 0);
  const stake = (await all.nodes.read('nodeInfo', node)).stake;
  const held = async () => [(await all.nodes.read('nodeInfo', node)).stake, await all.escrow.read('reserves', node)];
  await all.nodes.send(node, 'withdraw');
  await all.escrow.send(ben, 'release', [node, 0]);
  const price = (await all.jury.read('caseOf', id)).price;
  assert.ok(stake > RULES.jury.textSlash && price > 0n);
  assert.deepEqual(await held(), [RULES.jury.textSlash, price]);
  await reverts(all.nodes.send(node, 'withdraw'), 'Held');
  await reverts(all.escrow.send(ben, 'releaseReserve', [node]), 'NothingToRelease');
  await vote(all, id, [[ben, false], [cid, false], [dan, false]]);
  await all.escrow.send(ben, 'releaseReserve', [node]);
  await all.nodes.send(node, 'withdraw');
  assert.deepEqual(await held(), [0n, 0n]);
  await reverts(escalate(all, 1), 'NotBonded');
});

test('jury: gas', async (t) => {
  const { all } = await ready();
  const gas = {};
  const { id, gas: used } = await escalate(all, 0);
  gas.escalate = used;
  gas.commit = (await commit(all, id, ben, true)).gas;
  for (const who of [cid, dan]) await commit(all, id, who, true);
  pass(all, commitSeconds);
  gas.reveal = (await reveal(all, id, ben, true)).gas;
  for (const who of [cid, dan]) await reveal(all, id, who, true);
  pass(all, revealSeconds);
  gas.resolve = (await all.jury.send(ben, 'resolve', [id])).gas;
  gas.settle = (await all.jury.send(ben, 'settle', [id, ben])).gas;
  for (const [name, amount] of Object.entries(gas)) {
    t.diagnostic(`${name}: ${amount} gas`);
    assert.ok(amount < TX_GAS_MAX, `${name}: ${amount}`);
  }
});
