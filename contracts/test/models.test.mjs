import assert from 'node:assert/strict';
import test from 'node:test';
import { keccak256 } from 'ethers';
import { person, publish, PUBLISH_FEE, reverts, system, TX_GAS_MAX } from './evm.mjs';

const hex = (length, byte = 0xab) => `0x${byte.toString(16).padStart(2, '0').repeat(length)}`;

test('publish records the first publisher and emits an event', async () => {
  const { models } = await system();
  const manifest = hex(100);
  const id = keccak256(manifest);
  assert.equal(await models.read('exists', id), false);
  const { events } = await models.send(person(3), 'publish', [id, manifest, 'https://example.org/m.gguf'], PUBLISH_FEE);
  assert.deepEqual(events.map((e) => [e.name, e.args[0], e.args[1].toLowerCase(), e.args[2]]), [
    ['ModelPublished', id, person(3), 'https://example.org/m.gguf'],
  ]);
  const model = await models.read('get', id);
  assert.equal(model.publisher.toLowerCase(), person(3));
  assert.equal(model.manifest, manifest);
  assert.equal(model.uri, 'https://example.org/m.gguf');
  assert.ok(model.publishedAt > 0n);
  assert.equal(await models.read('exists', id), true);
});

test('an id that is not the hash of the manifest is rejected', async () => {
  const { models } = await system();
  const manifest = hex(100);
  const wrong = keccak256(hex(101));
  await reverts(models.send(person(1), 'publish', [wrong, manifest, ''], PUBLISH_FEE), 'ModelIdMismatch', [wrong, keccak256(manifest)]);
  assert.equal(await models.read('count'), 0n);
});

test('a model cannot be published again, by anybody', async () => {
  const { models } = await system();
  const id = await publish(models, 'one', person(1));
  const again = [id, `0x${Buffer.from('one').toString('hex')}`, 'https://evil.example'];
  await reverts(models.send(person(2), 'publish', again, PUBLISH_FEE), 'ModelAlreadyPublished', [id]);
  await reverts(models.send(person(1), 'publish', again, PUBLISH_FEE), 'ModelAlreadyPublished', [id]);
  assert.equal((await models.read('get', id)).uri, '');
});

test('bounds on manifest and URI', async () => {
  const { models } = await system();
  const send = (manifest, uri) => models.send(person(1), 'publish', [keccak256(manifest), manifest, uri], PUBLISH_FEE);
  await reverts(send('0x', ''), 'ManifestSize', [0n]);
  await reverts(send(hex(16385), ''), 'ManifestSize', [16385n]);
  await reverts(send(hex(10), 'x'.repeat(513)), 'TextTooLong', [513n, 512n]);
  await reverts(send(hex(10), 'a b'), 'TextNotPrintable', [1n]);
  await reverts(send(hex(10), 'line\n'), 'TextNotPrintable', [4n]);
  await reverts(send(hex(10), 'https://exämple'), 'TextNotPrintable', [10n]);
  await send(hex(10), 'x'.repeat(512));
});

test('the longest manifest fits into one transaction', async (t) => {
  const { models } = await system();
  const manifest = hex(16384, 0xff);
  const { gas } = await models.send(person(1), 'publish', [keccak256(manifest), manifest, 'x'.repeat(512)], PUBLISH_FEE);
  t.diagnostic(`gas of a 16 KiB manifest: ${gas}`);
  assert.ok(gas < TX_GAS_MAX, `${gas} gas`);
  assert.equal((await models.read('get', keccak256(manifest))).manifest, manifest);
});

test('get of an unknown model reverts', async () => {
  const { models } = await system();
  await reverts(models.read('get', hex(32)), 'ModelNotFound', [hex(32)]);
});

test('paging covers every model once, in order', async () => {
  const { models } = await system();
  const ids = [];
  for (let i = 0; i < 105; i++) ids.push(await publish(models, `model ${i}`));
  assert.equal(await models.read('count'), 105n);
  const max = 2n ** 256n - 1n;
  assert.deepEqual([...(await models.read('ids', 0, max))], ids.slice(0, 100));
  assert.deepEqual([...(await models.read('ids', 100, max))], ids.slice(100));
  assert.deepEqual([...(await models.read('ids', 3, 4))], ids.slice(3, 7));
  for (const [offset, limit] of [[105, 1], [max, max], [0, 0]]) {
    assert.deepEqual([...(await models.read('ids', offset, limit))], []);
  }
});

test('an entry costs the fee, which is burnt', async () => {
  const { chain, models } = await system();
  const manifest = hex(100);
  const send = (wei) => models.send(person(3), 'publish', [keccak256(manifest), manifest, ''], wei);
  for (const wei of [0n, PUBLISH_FEE - 1n, PUBLISH_FEE + 1n]) await reverts(send(wei), 'WrongFee', [wei, PUBLISH_FEE]);
  const before = await chain.balance(person(3));
  await send(PUBLISH_FEE);
  assert.equal(await chain.balance(person(3)), before - PUBLISH_FEE);
  assert.equal(await chain.balance(models.address), 0n);
  assert.equal(await chain.balance('0x000000000000000000000000000000000000dead'), PUBLISH_FEE);
});
