import assert from 'node:assert/strict';
import test from 'node:test';
import { AbiCoder, keccak256 } from 'ethers';
import { ARTIFACTS, MIN_STAKE, person, reverts, seeded, system, UNBONDING } from './evm.mjs';

const root = (n) => `0x${n.toString(16).padStart(64, '0')}`;
const encode = (types, values) => AbiCoder.defaultAbiCoder().encode(types, values);
const node = person(1);

async function registered() {
  const all = await system();
  await all.nodes.send(node, 'register', ['https://n1.example'], MIN_STAKE);
  return all;
}

test('a checkpoint is stored at the documented slot and emitted', async () => {
  const { chain, log } = await registered();
  const { events } = await log.send(node, 'append', [0, 7, root(5)]);
  const block = chain.number;
  assert.equal(events.length, 1);
  assert.equal(events[0].name, 'CheckpointPosted');
  assert.deepEqual([events[0].args[0].toLowerCase(), ...events[0].args.slice(1)], [node, 7n, root(5), block]);
  assert.equal(await log.read('roots', node, 7), root(5));
  assert.deepEqual([...(await log.read('latest', node))], [7n, root(5), block]);
  const inner = keccak256(encode(['address', 'uint256'], [node, 0]));
  const slot = keccak256(encode(['uint64', 'bytes32'], [7, inner]));
  assert.equal(await chain.storage(log.address, slot), root(5));
});

test('the storage layout of the artefact is the protocol', () => {
  const [first] = ARTIFACTS.ReceiptLog.storageLayout.storage;
  assert.deepEqual([first.label, first.slot, first.offset], ['roots', '0', 0]);
  assert.equal(first.type, 't_mapping(t_address,t_mapping(t_uint64,t_bytes32))');
});

test('older roots stay when the log grows', async () => {
  const { log } = await registered();
  await log.send(node, 'append', [0, 1, root(1)]);
  await log.send(node, 'append', [1, 5, root(2)]);
  await log.send(node, 'append', [5, 261, root(3)]);
  await reverts(log.send(node, 'append', [261, (1n << 64n) - 1n, root(4)]), 'BatchTooLarge');
  assert.equal(await log.read('roots', node, 1), root(1));
  assert.equal(await log.read('roots', node, 5), root(2));
  assert.equal((await log.read('latest', node)).root, root(3));
  assert.equal(await log.read('roots', node, 2), root(0));
});

test('forks and replays are impossible', async () => {
  const { log } = await registered();
  await log.send(node, 'append', [0, 5, root(1)]);
  await reverts(log.send(node, 'append', [0, 5, root(1)]), 'WrongOldSize', [0n, 5n]);
  await reverts(log.send(node, 'append', [0, 5, root(2)]), 'WrongOldSize', [0n, 5n]);
  await reverts(log.send(node, 'append', [0, 9, root(2)]), 'WrongOldSize', [0n, 5n]);
  await reverts(log.send(node, 'append', [6, 9, root(2)]), 'WrongOldSize', [6n, 5n]);
  await reverts(log.send(node, 'append', [5, 5, root(2)]), 'SizeNotIncreased', [5n, 5n]);
  await reverts(log.send(node, 'append', [5, 4, root(2)]), 'SizeNotIncreased', [5n, 4n]);
  await reverts(log.send(node, 'append', [5, 6, root(0)]), 'ZeroRoot', []);
  assert.deepEqual([...(await log.read('latest', node))].slice(0, 2), [5n, root(1)]);
});

test('an empty log cannot be posted', async () => {
  const { log } = await registered();
  await reverts(log.send(node, 'append', [0, 0, root(1)]), 'SizeNotIncreased', [0n, 0n]);
  assert.deepEqual([...(await log.read('latest', node))], [0n, root(0), 0n]);
});

test('only active nodes post, each to its own log', async () => {
  const { chain, nodes, log } = await registered();
  await reverts(log.send(person(2), 'append', [0, 1, root(1)]), 'NotActiveNode');
  await nodes.send(person(2), 'register', ['https://n2.example'], MIN_STAKE);
  await log.send(person(2), 'append', [0, 1, root(9)]);
  assert.equal((await log.read('latest', node)).size, 0n);
  await log.send(node, 'append', [0, 4, root(1)]);
  await nodes.send(node, 'requestExit');
  await reverts(log.send(node, 'append', [4, 5, root(2)]), 'NotActiveNode');
  chain.time += UNBONDING;
  await nodes.send(node, 'withdraw');
  await reverts(log.send(node, 'append', [4, 5, root(2)]), 'NotActiveNode');
});

test('a node that comes back continues its old log', async () => {
  const { chain, nodes, log } = await registered();
  await log.send(node, 'append', [0, 4, root(1)]);
  await nodes.send(node, 'requestExit');
  chain.time += UNBONDING;
  await nodes.send(node, 'withdraw');
  await nodes.send(node, 'register', ['https://n1.example'], MIN_STAKE);
  await reverts(log.send(node, 'append', [0, 1, root(2)]), 'WrongOldSize', [0n, 4n]);
  await log.send(node, 'append', [4, 5, root(2)]);
});

test('random appends keep one root for each size', async () => {
  const { log } = await registered();
  const model = new Map();
  let size = 0;
  const random = seeded(12345);
  for (let i = 0; i < 150; i++) {
    const [oldSize, newSize, value] = [size + random(3) - 1, size + random(5) - 1, random(4)];
    const valid = oldSize === size && newSize > size && value !== 0;
    if (oldSize < 0 || newSize < 0) continue;
    const call = log.send(node, 'append', [oldSize, newSize, root(value)]);
    if (!valid) {
      await assert.rejects(call);
    } else {
      await call;
      size = newSize;
      model.set(newSize, root(value));
    }
  }
  assert.ok(model.size > 10);
  for (let s = 0; s <= size; s++) assert.equal(await log.read('roots', node, s), model.get(s) ?? root(0));
});

test('a checkpoint knows its block and what it added', async () => {
  const { chain, log } = await registered();
  assert.equal(await log.read('blockOf', node, 4), 0n);
  assert.deepEqual([...(await log.read('batch', node, 4))], [root(0), 0n, 0n]);
  await log.send(node, 'append', [0, 4, root(1)]);
  const first = chain.number;
  await log.send(node, 'append', [4, 9, root(2)]);
  const second = chain.number;
  assert.deepEqual([...(await log.read('batch', node, 4))], [root(1), first, 0n]);
  assert.deepEqual([...(await log.read('batch', node, 9))], [root(2), second, 4n]);
  assert.deepEqual([await log.read('blockOf', node, 9), await log.read('blockOf', node, 5)], [second, 0n]);
});
