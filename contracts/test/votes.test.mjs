// What votes cost: for every distribution of stakes, a third of the votes costs about a third of the active stake.
import assert from 'node:assert/strict';
import test from 'node:test';
import { toBeHex } from 'ethers';
import { Chain, COIN, person, seeded, SYSTEM } from './evm.mjs';

const POSSESSION = '0x0000000000000000000000000000000000000a01';
/** The rules of public networks. */
const RULES = {
  minStake: 1000n * COIN, unbondingSeconds: 7n * 86400n, maxValidators: 100n, rewardPerBlock: COIN / 100n, slashPercent: 50n,
  jailSeconds: 600n, missPercent: 50n, minTurns: 8n,
};
const key = (n) => [toBeHex(0xbb00000000n + BigInt(n), 32), toBeHex(0xcc00000000n + BigInt(n), 96), `0x${'ab'.repeat(48)}`];
const number = (address) => Number(BigInt(address) - 0xa0000000n);
const sum = (list) => list.reduce((a, b) => a + b, 0n);
const ascending = (list) => [...list].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));

/** A network whose first validators, person(1) and so on, have these stakes. */
async function network(stakes, rules = {}) {
  const chain = await Chain.create({ precompiles: { [POSSESSION]: () => toBeHex(1, 32) } });
  const set = stakes.map((stake, i) => {
    const [peer, vote, possession] = key(i + 1);
    return { operator: person(i + 1), peer, vote, possession, stake };
  });
  const staking = await chain.deploy('Staking', [{ ...RULES, ...rules }, set], { funded: sum(stakes) });
  const register = async (n, stake) => {
    await chain.fund(person(n), stake);
    await staking.send(person(n), 'register', key(n), stake);
  };
  /** Numbers and stakes of the next set. */
  const endEpoch = async () => {
    chain.number += 60n;
    const { values } = await staking.send(SYSTEM, 'endEpoch');
    const numbers = values.next.map((v) => number(v.operator));
    const now = new Map();
    for (const n of numbers) now.set(n, (await staking.read('validator', person(n))).stake);
    return now;
  };
  return { chain, staking, register, endEpoch };
}

/** Asserts that the cheapest k of n votes cost at least 2k / (3n - k) of the stake, for all k. */
function evenlyPriced(stakes) {
  const [sorted, n] = [ascending(stakes), BigInt(stakes.length)];
  const total = sum(sorted);
  let cost = 0n;
  for (const [i, stake] of sorted.entries()) {
    cost += stake;
    const k = BigInt(i + 1);
    assert.ok(cost * (3n * n - k) >= 2n * k * total, `${k} of ${n} votes cost ${cost} of ${total}`);
  }
}

test('twelve validators of the smallest stake do not outvote four with a million coins each', async (t) => {
  const { register, endEpoch } = await network(Array(4).fill(1_000_000n * COIN));
  for (let n = 101; n <= 112; n++) await register(n, 1000n * COIN);
  for (let epoch = 0; epoch < 5; epoch++) assert.deepEqual([...(await endEpoch()).keys()], [1, 2, 3, 4]);
  // With as much stake as the others have, votes come slowly.
  for (let n = 201; n <= 212; n++) await register(n, 800_000n * COIN);
  let control = 0;
  for (let epoch = 1; control === 0; epoch++) {
    const set = await endEpoch();
    evenlyPriced([...set.values()]);
    const evil = [...set].filter(([n]) => n > 200);
    const quorum = set.size - Math.floor((set.size - 1) / 3);
    const share = sum(evil.map(([, stake]) => stake)) * 1000n / sum([...set.values()]);
    t.diagnostic(`epoch ${epoch}: ${evil.length} of ${set.size} votes for ${share} thousandths of the stake`);
    assert.ok(evil.length < quorum || share >= 571n, 'two thirds of the votes cost four sevenths of the stake');
    if (evil.length >= quorum) control = epoch;
    assert.ok(epoch < 20);
  }
  assert.equal(control, 4);
});

test('a whale buys no more than one vote with one registration, and moves nobody out', async () => {
  const { chain, staking, register, endEpoch } = await network(Array(4).fill(1_000_000n * COIN));
  await register(101, 1_000_000_000n * COIN);
  const set = await endEpoch();
  assert.deepEqual([...set.keys()], [1, 2, 3, 4, 101]);
  assert.equal(set.get(101), 1_200_000n * COIN);
  assert.equal(await staking.read('claimable', person(101)), 998_800_000n * COIN);
  await staking.send(person(101), 'claim');
  assert.equal(await chain.balance(person(101)), 998_800_000n * COIN);
  for (let epoch = 0; epoch < 3; epoch++) assert.equal((await endEpoch()).size, 5);
  evenlyPriced([...(await endEpoch()).values()]);
});

test('whoever holds two thirds of the stake sets the price, and the others leave one by one', async () => {
  const { chain, staking, endEpoch } = await network(Array(7).fill(1000n * COIN));
  for (let n = 1; n <= 4; n++) {
    await chain.fund(person(n), 3000n * COIN);
    await staking.send(person(n), 'addStake', [], 3000n * COIN);
  }
  assert.equal(await staking.read('price'), 4000n * COIN);
  assert.deepEqual([...(await endEpoch()).keys()], [1, 2, 3, 4, 5]);
  assert.deepEqual([...(await endEpoch()).keys()], [1, 2, 3, 4]);
});

test('who has less than two thirds of the stake gets back what it adds', async () => {
  const { chain, staking, endEpoch } = await network(Array(7).fill(1000n * COIN));
  await chain.fund(person(1), 9000n * COIN);
  await staking.send(person(1), 'addStake', [], 9000n * COIN);
  const set = await endEpoch();
  assert.equal(set.size, 7);
  assert.equal(set.get(1), 1200n * COIN);
});

test('who registers in the last blocks of an epoch waits for the next one', async () => {
  const { chain, staking, register } = await network(Array(7).fill(1000n * COIN));
  const end = async () => (await staking.send(SYSTEM, 'endEpoch')).values.next.length;
  chain.number += 50n;
  // f = 2: the randomness of three blocks after the registration must go into the order of turns.
  await register(101, 1000n * COIN);
  chain.number += 1n;
  assert.equal(await end(), 7);
  assert.equal(await end(), 8);
  // The same for who adds stake at the last moment to choose which of its keys are in the set.
  await staking.send(person(101), 'requestExit');
  await register(102, 1000n * COIN);
  chain.number += 50n;
  await chain.fund(person(102), COIN);
  await staking.send(person(102), 'addStake', [], COIN);
  assert.equal(await end(), 7);
  assert.equal(await staking.read('turnSeed'), await chain.storage(staking.address, toBeHex(0, 32)));
  assert.notEqual(BigInt(await staking.read('turnSeed')), 0n);
});

test('for any stakes, a third of the votes costs at least a quarter of the active stake, and less than a third joins', async (t) => {
  // Stakes over nine orders of magnitude, a few that are all alike, and whales.
  const kinds = [
    (random) => BigInt(1000 + random(400)),
    (random) => 1000n * 10n ** BigInt(random(7)),
    (random) => 1000n + 10n ** BigInt(random(10)) * BigInt(random(10)),
    (random) => (random(6) === 0 ? 50_000_000n : 1000n + BigInt(random(300))),
    () => 5000n,
  ];
  let [least, epochs, changes] = [1, 0, 0];
  for (let seed = 1; seed <= 15; seed++) {
    const random = seeded(seed);
    const stake = () => kinds[random(2) === 0 ? seed % kinds.length : random(kinds.length)](random) * COIN;
    const { chain, staking, register, endEpoch } = await network(Array.from({ length: 1 + random(13) }, stake), {
      maxValidators: BigInt(13 + random(12)),
    });
    let [next, before] = [101, new Set((await staking.read('active')).map((v) => number(v.operator)))];
    const epoch = async (noise) => {
      for (let i = 0; noise && i < random(5); i++) await register(next++, stake());
      for (const n of before) {
        if (!noise || random(12) > 0) continue;
        const added = stake();
        await chain.fund(person(n), added);
        await (random(2) === 0 ? staking.send(person(n), 'requestExit') : staking.send(person(n), 'addStake', [], added)).catch((e) => assert.equal(e.revert, 'NotCandidate'));
      }
      const set = await endEpoch();
      const joined = [...set.keys()].filter((n) => !before.has(n)).length;
      const left = [...before].filter((n) => !set.has(n)).length;
      assert.ok(joined <= 1 || 3 * joined < set.size, `${joined} of ${set.size} are new`);
      assert.ok(left <= Math.max(1, Math.floor((before.size - 1) / 3)), `${left} of ${before.size} left`);
      before = new Set(set.keys());
      [epochs, changes] = [epochs + 1, changes + joined + left];
      return set;
    };
    for (let i = 0; i < 6; i++) await epoch(true);
    // Those that must leave do so a third at a time.
    let set;
    for (let i = 0; i < 12; i++) set = await epoch(false);
    const stakes = ascending(set.values());
    evenlyPriced(stakes);
    const third = Math.ceil(stakes.length / 3);
    least = Math.min(least, Number(sum(stakes.slice(0, third)) * 1000n / sum(stakes)) / 1000);
  }
  t.diagnostic(`${epochs} epochs, ${changes} changes; the cheapest third of a set had ${least} of its stake`);
  assert.ok(least >= 0.25);
});
