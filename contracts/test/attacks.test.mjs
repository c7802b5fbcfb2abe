// Attacks on auditors and juries under the rules of a network of strangers (`TrustRules::network()`), with moved time.
import assert from 'node:assert/strict';
import test from 'node:test';
import { audit, bond, commit, court, dispute, drawnOf, hash, join, Log, MODEL, NOTHING, pass, reveal, step, TURN } from './court.mjs';
import { COIN, person, reverts } from './evm.mjs';

const [evil, victim] = [person(1), person(2)];
const HOUR = 3600n;
const WEEK = 7n * 24n * HOUR;
/** `TrustRules::network()`, as far as these attacks need it. */
const NETWORK = {
  disputes: {
    bond: COIN / 10n, clockSeconds: 8n * HOUR, openSeconds: HOUR, windowSeconds: 24n * HOUR, fraudSlash: 50n * COIN,
    timeoutSlash: 50n * COIN, bountyPermille: 100n,
  },
  auditors: { minStake: 20n * COIN, unbondingSeconds: WEEK },
  audits: {
    commitSeconds: HOUR, revealSeconds: HOUR, backSeconds: 4n * HOUR, rateMax: 100_000n, rateMin: 20_000n, fee: COIN / 1_000_000n,
    missPenalty: COIN / 1000n, lazySlash: 2n * COIN, periodSeconds: 24n * HOUR, missesFree: 16n, missesMax: 272n,
  },
  canaries: { seconds_: 300_000n, bond: COIN, max: 16n },
  jury: {
    bond: COIN / 5n, commitSeconds: HOUR, revealSeconds: HOUR, rate: 31_000_000n, minJurors: 20n, tenureSeconds: WEEK,
    minStake: 1000n * COIN, textSlash: 50n * COIN, fee: COIN, missPenalty: COIN / 1000n, bountyPermille: 100n,
  },
};
const EMPTY = { claim: '0x', signature: '0x', path: [] };
const PRIVATE = hash(['string'], ['a model that only the attacker has']);
const people = (count, from) => Array.from({ length: count }, (_, i) => person(from + i));
const SALT = hash(['uint256'], [5]);

/** Two nodes with accounts for audits, and honest auditors that have been there for long. */
async function ready(honest, rules = NETWORK) {
  const all = await court(rules);
  for (const node of [evil, victim]) {
    await bond(all, node, 100n * COIN);
    await all.audits.send(person(0), 'fundFor', [node], COIN);
  }
  await join(all, honest, 20n * COIN);
  pass(all, WEEK);
  return all;
}
const outOf = async (all, auditors) => {
  let out = 0;
  for (const who of auditors) if ((await all.auditors.read('auditorInfo', who)).exitAt !== 0n) out++;
  return out;
};
const nodeStake = async (all, node) => (await all.nodes.read('nodeInfo', node)).stake;
/** The first receipt below `size` for which one of these is drawn. */
async function firstDrawn(all, node, size, auditors, model = MODEL) {
  for (const who of auditors) {
    for (let i = 0; i < size; i++) if (await all.audits.read('drawn', node, size, i, model, who)) return [who, i];
  }
  throw new Error('nobody is drawn');
}
/** A whole case: every drawn juror of `jurors` votes guilty. */
async function convict(all, plaintiff, node, size, index, kind, jurors, logged = EMPTY) {
  const { values } = await all.recorded(() => all.jury.send(plaintiff, 'escalate', [node, size, index, kind, logged], COIN / 5n));
  const { id } = values;
  await all.tick(2);
  const voters = [];
  for (const who of jurors) if (who !== plaintiff && (await all.jury.read('isJuror', id, who))) voters.push(who);
  const ballot = (who) => hash(['address', 'bytes32', 'bool', 'bytes32'], [who, id, true, SALT]);
  for (const who of voters) await all.jury.send(who, 'commit', [id, ballot(who)]);
  pass(all, HOUR);
  for (const who of voters) await all.jury.send(who, 'reveal', [id, true, SALT]);
  pass(all, HOUR);
  await all.jury.send(plaintiff, 'resolve', [id]);
  return { id, voters: voters.length, outcome: (await all.jury.read('caseOf', id)).outcome };
}

// Before: 27 of 30 honest auditors out with 27 reports, 13.5 thousandths of a coin for the reporter.
test('attack: receipts of a model that nobody else has eject no auditor', async () => {
  const honest = people(30, 100);
  const all = await ready(honest);
  const log = new Log(all, evil);
  log.add(256, () => ({ model: PRIVATE }));
  const size = await log.post();
  await all.audits.send(evil, 'open', [evil, size]);
  pass(all, 2n * HOUR);
  for (const who of honest) {
    await reverts(all.audits.send(evil, 'reportMissed', [evil, size, 0, who, log.logged(0)]), 'NotDrawn');
  }
  assert.equal(await outOf(all, honest), 0);
});

test('attack: an auditor with the least stake stays, however many audits it misses', async () => {
  const [ann] = people(1, 100);
  const all = await ready([ann], { ...NETWORK, audits: { ...NETWORK.audits, rateMax: 1_000_000n } });
  const log = new Log(all, evil);
  for (let batch = 0; batch < 2; batch++) {
    log.add(256);
    await all.audits.send(evil, 'open', [evil, await log.post()]);
  }
  pass(all, 2n * HOUR);
  const before = await all.audits.read('balances', evil);
  for (let i = 0; i < 300; i++) await all.audits.send(evil, 'reportMissed', [evil, i < 256 ? 256 : 512, i, ann, log.logged(i)]).catch(async (e) => {
    // The path of a receipt of the first batch is one in the larger log by now.
    if (e.revert !== 'NotInLog' && e.revert !== 'BadPath') throw e;
  });
  const [stake, exitAt] = [...(await all.auditors.read('auditorInfo', ann))];
  assert.equal(exitAt, 0n);
  assert.ok(stake >= 20n * COIN - 256n * NETWORK.audits.missPenalty, `${stake}`);
  assert.equal(await all.audits.read('balances', evil), before);
});

// Before: 15 jurors of the attacker, guilty, victim 100 -> 50 coins, 5.2 coins for the plaintiff.
test('attack: who comes to an empty bench convicts nobody', async () => {
  const honest = people(30, 100);
  const all = await ready(honest);
  for (const who of honest) await all.auditors.send(who, 'requestExit');
  const own = people(60, 300);
  await join(all, own, 20n * COIN);
  const log = new Log(all, victim);
  log.add(64);
  const size = await log.post();
  const [plaintiff, index] = await firstDrawn(all, victim, size, own);
  await commit(all, plaintiff, victim, size, [[index, 3]]);
  pass(all, HOUR);
  await reveal(all, plaintiff, victim, size, [[index, 3]]);
  const { voters, outcome } = await convict(all, plaintiff, victim, size, index, 3, own);
  assert.deepEqual([voters, outcome, await nodeStake(all, victim)], [0, 4n, 100n * COIN]);
});

test('attack: an old bench that is too small convicts nobody', async () => {
  const own = people(40, 300);
  const all = await ready(own);
  const log = new Log(all, victim);
  log.add(64);
  const size = await log.post();
  const [plaintiff, index] = await firstDrawn(all, victim, size, own);
  await commit(all, plaintiff, victim, size, [[index, 3]]);
  pass(all, HOUR);
  await reveal(all, plaintiff, victim, size, [[index, 3]]);
  const { voters, outcome } = await convict(all, plaintiff, victim, size, index, 3, own);
  assert.ok(voters >= 20, `${voters}`);
  assert.deepEqual([outcome, await nodeStake(all, victim)], [4n, 100n * COIN]);
});

// Before: 768 fees for three batches of a million receipts that nobody has, rate 0.1 -> 0.02.
test('attack: roots of nothing are paid by their node, and cost who vouches for them', async () => {
  const [own, honest] = people(2, 300);
  const all = await ready([honest]);
  await join(all, [own], 20n * COIN, [PRIVATE]);
  const log = new Log(all, evil);
  log.add(256, () => ({ rung: 1 }));
  const size = await log.post();
  await reverts(all.log.send(evil, 'append', [size, size + 1_000_000, NOTHING]), 'BatchTooLarge');
  const drawn = await drawnOf(all, own, evil, 0, size, PRIVATE);
  assert.ok(drawn.length > 5);
  await audit(all, evil, size, [], NETWORK);
  pass(all, 0n);
  const fresh = await post(all, log);
  const verdicts = (await drawnOf(all, own, evil, size, fresh, PRIVATE)).map((i) => [i, 0, PRIVATE]);
  await commit(all, own, evil, fresh, verdicts);
  pass(all, HOUR);
  const before = (await all.audits.read('accounts', evil)) + (await all.audits.read('batchOf', evil, fresh)).purse;
  await reveal(all, own, evil, fresh, verdicts);
  const paid = await all.audits.read('balances', own);
  const left = (await all.audits.read('accounts', evil)) + (await all.audits.read('batchOf', evil, fresh)).purse;
  assert.equal(before - left, paid);
  // Anybody who has the claim shows that it is of another model and open to nobody.
  for (const [index] of verdicts.slice(0, 3)) {
    await all.audits.send(honest, 'reportBaseless', [evil, fresh, index, own, PRIVATE, log.logged(index)]);
  }
  assert.equal((await all.auditors.read('auditorInfo', own)).stake, 14n * COIN);
  await reverts(
    all.audits.send(honest, 'reportBaseless', [evil, fresh, verdicts[0][0], own, PRIVATE, log.logged(verdicts[0][0])]),
    'WrongMark',
  );
});
async function post(all, log) {
  log.add(256, () => ({ rung: 1 }));
  return log.post();
}

// Before: AlreadyJudged, AlreadyLost, NotBonded; then MISS_PENALTY.
test('attack: truth that somebody else brought first is not punished', async () => {
  const rules = { ...NETWORK, audits: { ...NETWORK.audits, rateMax: 1_000_000_000n, fee: 1000n } };
  const [ann, ben, cid] = people(3, 100);
  const all = await ready([ann, ben, cid], rules);
  const log = new Log(all, victim);
  log.add(3);
  const size = await log.post();
  const found = [[0, 1], [1, 2], [2, 3]];
  for (const who of [ann, ben, cid]) await commit(all, who, victim, size, found);
  pass(all, HOUR);
  for (const who of [ann, ben, cid]) await reveal(all, who, victim, size, found);
  pass(all, HOUR);
  // Ann is first everywhere.
  const c = log.claims[0];
  await dispute(all, ann, c, step(TURN.challengerWon), COIN / 10n);
  await all.jury.send(ann, 'escalate', [victim, size, 1, 2, log.logged(1)], COIN / 5n);
  await all.jury.send(ann, 'escalate', [victim, size, 2, 3, EMPTY], COIN / 5n);
  await reverts(dispute(all, ben, c, step(TURN.challengerWon), COIN / 10n), 'AlreadyLost');
  await reverts(all.jury.send(ben, 'escalate', [victim, size, 1, 2, log.logged(1)], COIN / 5n), 'AlreadyJudged');
  const claims = [log.logged(0), log.logged(1), EMPTY];
  for (const [index, logged] of claims.entries()) await all.audits.send(ben, 'back', [victim, size, index, logged]);
  pass(all, 4n * HOUR);
  for (const who of [ben, cid]) {
    for (const [index, logged] of claims.entries()) {
      await assert.rejects(all.audits.send(evil, 'reportUnfounded', [victim, size, index, who, logged]));
    }
  }
  for (const who of [ann, ben, cid]) assert.equal((await all.auditors.read('auditorInfo', who)).stake, 20n * COIN);
});

// Before: one case for a receipt for ever.
test('attack: a case without a verdict, or of another kind, is no immunity', async () => {
  const rules = { ...NETWORK, audits: { ...NETWORK.audits, rateMax: 1_000_000_000n } };
  const [ann, ben, ...bench] = people(60, 100);
  const all = await ready([ann, ben, ...bench], rules);
  const log = new Log(all, victim);
  log.add(1);
  const size = await log.post();
  for (const [who, verdict] of [[ann, 3], [ben, 2]]) await commit(all, who, victim, size, [[0, verdict]]);
  pass(all, HOUR);
  for (const [who, verdict] of [[ann, 3], [ben, 2]]) await reveal(all, who, victim, size, [[0, verdict]]);
  // The accomplice's case: nobody votes.
  const first = await convict(all, ann, victim, size, 0, 3, []);
  assert.equal(first.outcome, 4n);
  // Of another kind.
  const text = await convict(all, ben, victim, size, 0, 2, [], log.logged(0));
  assert.equal(text.outcome, 4n);
  // Again, by who called in vain.
  const second = await convict(all, ann, victim, size, 0, 3, bench);
  assert.deepEqual([second.outcome, await nodeStake(all, victim)], [2n, 50n * COIN]);
  // The conviction is on the receipt, and no second slash follows.
  assert.equal(await all.disputes.read('withheld', victim, 0), true);
  await reverts(all.jury.send(ben, 'escalate', [victim, size, 0, 2, log.logged(0)], COIN / 5n), 'AlreadyJudged');
});

test('attack: nobody is convicted of silence without a word: the node answers on the ledger', async () => {
  const rules = { ...NETWORK, audits: { ...NETWORK.audits, rateMax: 1_000_000_000n } };
  const [ann] = people(1, 100);
  const all = await ready([ann], rules);
  const log = new Log(all, victim);
  log.add(1);
  const size = await log.post();
  await commit(all, ann, victim, size, [[0, 3]]);
  pass(all, HOUR);
  await reveal(all, ann, victim, size, [[0, 3]]);
  const { values } = await all.recorded(() => all.jury.send(ann, 'escalate', [victim, size, 0, 3, EMPTY], COIN / 5n));
  const answer = (who, data) => all.jury.send(who, 'answer', [values.id, data]);
  await reverts(answer(evil, '0x01'), 'OnlyNode');
  await reverts(answer(victim, `0x${'00'.repeat(65_537)}`), 'AnswerTooLong');
  const { events } = await answer(victim, '0x0102');
  assert.deepEqual([events[0].name, events[0].args[1], events[0].args[2]], ['Answered', 0n, '0x0102']);
  for (let part = 1; part < 32; part++) await answer(victim, '0x');
  await reverts(answer(victim, '0x'), 'AnswerTooLong');
  pass(all, HOUR);
  await reverts(answer(victim, '0x'), 'Late');
});
