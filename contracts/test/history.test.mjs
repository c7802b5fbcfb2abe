import assert from 'node:assert/strict';
import test from 'node:test';
import { concat, keccak256, toBeHex } from 'ethers';
import { Chain, person, reverts, SYSTEM } from './evm.mjs';

const hashOf = (block) => keccak256(toBeHex(block, 32));
const leaf = (hash) => keccak256(concat(['0x00', hash]));
const parent = (left, right) => keccak256(concat(['0x01', left, right]));

/** Root of the perfect tree over leaves `start` to `start + 2^height - 1`, computed top down. */
function mountain(start, height) {
  if (height === 0) return leaf(hashOf(start));
  const half = 2 ** (height - 1);
  return parent(mountain(start, height - 1), mountain(start + half, height - 1));
}

test('history: only the chain records', async () => {
  const chain = await Chain.create();
  const history = await chain.deploy('History');
  await reverts(history.send(person(1), 'record', [hashOf(0)]), 'OnlySystem');
});

test('history: after n blocks the peaks are the mountains of n leaves', async () => {
  const chain = await Chain.create();
  const history = await chain.deploy('History');
  let most = 0n;
  for (let n = 1; n <= 70; n++) {
    const { gas } = await history.send(SYSTEM, 'record', [hashOf(n - 1)]);
    most = gas > most ? gas : most;
    assert.equal(await history.read('size'), BigInt(n));
    let start = 0;
    for (let height = 7; height >= 0; height--) {
      if (((n >> height) & 1) === 0) continue;
      assert.equal(await history.read('peaks', height), mountain(start, height), `${n} blocks, height ${height}`);
      start += 2 ** height;
    }
    assert.equal(start, n);
  }
  assert.ok(most < 100_000n, `${most}`);
});
