// Checks a real network's proofs and headers with the module, in Node, with no network.
//
//   node test.mjs MODULE.wasm PROOF.json LIGHT.json
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { load } from './og.mjs';

const [module, proofFile, lightFile] = process.argv.slice(2);
const check = await load(await readFile(module));
const proof = await readFile(proofFile, 'utf8');
const light = JSON.parse(await readFile(lightFile, 'utf8'));
const copy = (value) => JSON.parse(JSON.stringify(value));

test('a proof file holds, and its network is the one that was named', () => {
  const report = check({ proof, network: light.name });
  assert.equal(report.ok, true, JSON.stringify(report));
  assert.equal(check({ proof, network: `0x${'11'.repeat(32)}` }).ok, false);
});

test('a proof file with any changed character does not hold', () => {
  for (let at = 40; at < proof.length; at += Math.ceil(proof.length / 60)) {
    const other = proof[at] === '7' ? '8' : '7';
    const changed = proof.slice(0, at) + other + proof.slice(at + 1);
    assert.equal(check({ proof: changed, network: light.name }).ok, false, `character ${at}`);
  }
});

test('validator sets are followed to a final header and an account in its state', () => {
  const answer = check(light);
  assert.equal(answer.ok, true, JSON.stringify(answer));
  assert.equal(answer.account.exists, true);
  assert.equal(answer.account.balance, light.expected_balance ?? answer.account.balance);
});

test('what is not final, or not so, is refused', () => {
  const refused = (change) => {
    const request = copy(light);
    change(request);
    assert.equal(check(request).ok, false);
  };
  refused((r) => (r.certificate.view += 1));
  refused((r) => (r.certificate.epoch += 1));
  refused((r) => (r.header = r.header.slice(0, -2) + '00'));
  refused((r) => (r.name = `0x${'22'.repeat(32)}`));
  refused((r) => (r.network.epoch_blocks += 1));
  refused((r) => r.network.validators.pop());
  refused((r) => (r.account.proof = r.account.proof.slice(0, -1)));
  refused((r) => (r.handovers = [{ ...copy({ header: r.header, certificate: r.certificate }), next: { epoch: 9, members: [] } }]));
});

test('nonsense is an error, not a trap', () => {
  for (const request of [{}, [], 7, 'x', { proof: 1 }, { proof: '' }, { network: null }, { proof: '{'.repeat(5000) }]) {
    assert.equal(check(request).ok, false);
  }
});
