import assert from 'node:assert/strict';
import test from 'node:test';
import { sha256, toBeHex } from 'ethers';
import { Chain, person, randomness, RECORD, reverts, seeded, SYSTEM } from './evm.mjs';
import { claim, leafOf, merklePath, merkleRoot } from './court.mjs';

test('beacon: the chain records the randomness and time of each block', async () => {
  const chain = await Chain.create();
  const beacon = await chain.deploy('Beacon');
  await reverts(beacon.send(person(1), 'record', RECORD), 'OnlySystem');
  await beacon.send(SYSTEM, 'record', RECORD);
  const [block, time] = [chain.number, chain.time];
  assert.equal(await beacon.read('randomness', block), randomness(block));
  assert.equal(await beacon.read('timeOf', block), time);
  for (const other of [0n, block - 1n, block + 1n, block + 8192n]) {
    await reverts(beacon.read('randomness', other), 'NotRecorded', [other]);
    await reverts(beacon.read('timeOf', other), 'NotRecorded', [other]);
  }
});

test('beacon: an entry lasts 8192 blocks', async () => {
  const chain = await Chain.create();
  const beacon = await chain.deploy('Beacon');
  await beacon.send(SYSTEM, 'record', RECORD);
  const block = chain.number;
  chain.number = block + 8190n;
  await beacon.send(SYSTEM, 'record', RECORD);
  assert.equal(await beacon.read('randomness', block), randomness(block));
  chain.number = block + 8191n;
  const { gas } = await beacon.send(SYSTEM, 'record', RECORD);
  await reverts(beacon.read('randomness', block), 'NotRecorded', [block]);
  assert.equal(await beacon.read('randomness', block + 8192n), randomness(block + 8192n));
  assert.ok(gas < 200_000n, `${gas}`);
});

// A beacon with blocks by the given proposers; returns what `ask(block)` says about seeds.
async function beaconOf(needed) {
  const chain = await Chain.create();
  const beacon = await chain.deploy('Beacon');
  const propose = async (proposer, set = 0, n = needed) => {
    await beacon.send(SYSTEM, 'record', [toBeHex(proposer + 1, 32), n, set]);
    return chain.number;
  };
  return { chain, beacon, propose };
}

test('beacon: a seed is known only after f+1 different proposers', async () => {
  const { beacon, propose } = await beaconOf(3);
  await propose(0);
  await propose(1);
  const last = await propose(2);
  const committed = await propose(9);
  // One party has seven turns in a row with two keys: it knows all their signatures, but they give no seed.
  await propose(8);
  const end = await propose(7);
  assert.equal(await beacon.read('seedBlock', last), end);
  for (let i = 0; i < 7; i++) await propose(7 + (i % 2));
  for (const block of [committed, end]) {
    await reverts(beacon.read('seed', block), 'SeedNotReady', [block]);
    assert.equal(await beacon.read('seedBlock', block), 0n);
  }
  const third = await propose(0);
  for (const block of [committed, end]) {
    assert.equal(await beacon.read('seedBlock', block), third);
    assert.equal(await beacon.read('seed', block), randomness(third));
  }
  // What was fixed within a round waits for the end of the next one, because the round's first turns are known.
  const within = third - 1n;
  await reverts(beacon.read('seed', third), 'SeedNotReady', [third]);
  await reverts(beacon.read('seed', within), 'NotRecorded', [within]);
});

test('beacon: what changes sides with the set is counted once', async () => {
  const { beacon, propose } = await beaconOf(2);
  await propose(0);
  const committed = await propose(1);
  await propose(5, 0);
  // The set changes, and the same party is back under another key: the count begins again.
  await propose(6, 1);
  await reverts(beacon.read('seed', committed), 'SeedNotReady', [committed]);
  const end = await propose(7, 1);
  assert.equal(await beacon.read('seedBlock', committed), end);
});

test('beacon: seeds come after their block, from enough proposers, whatever the order of turns', async () => {
  for (const seed of [1, 2, 3]) {
    const random = seeded(seed);
    const { beacon, propose } = await beaconOf(0);
    const blocks = [];
    let set = 0;
    let n = 4 + random(7);
    for (let i = 0; i < 150; i++) {
      if (random(25) === 0) [set, n] = [set + 1, 4 + random(7)];
      const proposer = random(n);
      const needed = Math.floor((n - 1) / 3) + 1;
      blocks.push({ number: await propose(proposer, set, needed), proposer, set, needed });
    }
    let known = 0;
    for (const [i, { number }] of blocks.entries()) {
      const at = await beacon.read('seedBlock', number);
      if (at === 0n) {
        await reverts(beacon.read('seed', number), 'SeedNotReady', [number]);
        continue;
      }
      known++;
      assert.equal(await beacon.read('seed', number), randomness(at));
      const end = blocks.findIndex((b) => b.number === at);
      const { set: last, needed } = blocks[end];
      const counted = blocks.slice(i + 1, end + 1).filter((b) => b.set === last).map((b) => b.proposer);
      assert.ok(new Set(counted).size >= needed, `block ${number}: ${counted}`);
    }
    assert.ok(known > 100, `${known}`);
  }
});

test('beacon: a seed lasts as long as its block, also when every block ends a round', async () => {
  const { chain, beacon, propose } = await beaconOf(1);
  const first = await propose(0);
  const second = await propose(0);
  for (let i = 0; i < 300; i++) await propose(0);
  assert.equal(await beacon.read('seed', first), randomness(second));
  chain.number = first + 8191n;
  await propose(0);
  await reverts(beacon.read('seed', first), 'NotRecorded', [first]);
});

test('merkle log: every leaf of every tree up to 40 leaves', async () => {
  const chain = await Chain.create();
  const harness = await chain.deploy('Harness');
  for (let size = 1; size <= 40; size++) {
    const leaves = Array.from({ length: size }, (_, i) => sha256(`0x00${i.toString(16).padStart(2, '0')}`));
    const expected = merkleRoot(leaves);
    for (let index = 0; index < size; index++) {
      assert.equal(await harness.read('root', leaves[index], index, size, merklePath(leaves, index)), expected);
    }
  }
});

test('merkle log: wrong index, size, path or leaf give no root or another one', async () => {
  const chain = await Chain.create();
  const harness = await chain.deploy('Harness');
  const random = seeded(7);
  let refused = 0;
  for (let round = 0; round < 200; round++) {
    const size = 2 + random(30);
    const leaves = Array.from({ length: size }, (_, i) => sha256(`0x00${i.toString(16).padStart(2, '0')}`));
    const expected = merkleRoot(leaves);
    const index = random(size);
    const path = merklePath(leaves, index);
    // Another size can have the same path shape and even the same root only when the proof says the same.
    const changed = [
      [leaves[index], (index + 1 + random(size - 1)) % size, size, path],
      [leaves[index], index, size, path.slice(1)],
      [leaves[index], index, size, [...path, leaves[0]]],
      [sha256(leaves[index]), index, size, path],
      [leaves[index], index, size, path.map((p, i) => (i === random(path.length) ? sha256(p) : p)).reverse()],
    ][round % 5];
    try {
      const found = await harness.read('root', ...changed);
      assert.ok(found !== expected || (round % 5 === 4 && JSON.stringify(changed[3]) === JSON.stringify(path)));
    } catch (error) {
      assert.equal(error.revert, 'BadPath', error.message);
      refused++;
    }
  }
  assert.ok(refused > 40, `${refused}`);
  await reverts(harness.read('root', sha256('0x'), 0, 0, []), 'BadPath');
  await reverts(harness.read('root', sha256('0x'), 1, 1, []), 'BadPath');
  await reverts(harness.read('root', sha256('0x'), (1n << 64n) - 1n, (1n << 64n) - 1n, []), 'BadPath');
});

test('merkle log: the leaf is SHA-256 of 0, digest and signature', async () => {
  const chain = await Chain.create();
  const harness = await chain.deploy('Harness');
  const signed = claim({ node: person(1), receiptId: sha256('0x'), timeMs: 5n });
  assert.equal(await harness.read('leafHash', signed.digest, signed.signature), leafOf(signed));
});

test('sortition: the share of draws follows stake and rate, and splitting a stake gains nothing', async (t) => {
  const chain = await Chain.create();
  const harness = await chain.deploy('Harness');
  const draws = async (account, rate, stake, total) => Number(await harness.read('draws', randomness(9n), 4000, account, rate, stake, total));
  const near = (count, expected) => {
    const slack = 5 * Math.sqrt(expected) + 1;
    assert.ok(Math.abs(count - expected) <= slack, `${count} of ${expected}`);
  };
  near(await draws(person(1), 1_000_000, 10, 100), 400);
  near(await draws(person(1), 500_000, 10, 100), 200);
  near(await draws(person(1), 50_000, 10, 100), 20);
  assert.equal(await draws(person(1), 1_000_000, 100, 100), 4000);
  assert.equal(await draws(person(1), 1_000_000_000, 1, 100), 4000);
  for (const [rate, stake, total] of [[0, 10, 100], [1_000_000, 0, 100], [1_000_000, 0, 0]]) {
    assert.equal(await draws(person(1), rate, stake, total), 0);
  }
  const most = (1n << 128n) - 1n;
  assert.equal(await draws(person(1), 1_000_000_000, most, most), 4000);
  near(await draws(person(2), 1_000_000, most / 10n, most), 400);
  let parts = 0;
  for (let n = 0; n < 10; n++) parts += await draws(person(100 + n), 1_000_000, 4, 100);
  const whole = await draws(person(3), 1_000_000, 40, 100);
  t.diagnostic(`40 % of the stake: ${whole} draws, in ten parts ${parts}`);
  near(parts, 1600);
  near(whole, 1600);
});
