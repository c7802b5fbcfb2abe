// Runs a network for a moment and writes down a proof file, and what a light client needs to follow the chain.
//
//   node record.mjs OG PROOF.json LIGHT.json
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, existsSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [og, proofFile, lightFile] = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), 'og-wasm-'));
const ready = join(folder, 'ready.json');
const ports = ['--rpc-port', '0', '--proxy-port', '0', '--node-port', '0', '--p2p-port', '0'];
const network = spawn(og, ['devnet', '--nodes', '1', '--epoch-blocks', '10', ...ports, '--ready-file', ready]);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
let failed;
try {
  const deadline = Date.now() + 180_000;
  while (!existsSync(ready)) {
    if (Date.now() > deadline || network.exitCode !== null) throw new Error('the network does not start');
    await sleep(100);
  }
  const about = JSON.parse(readFileSync(ready, 'utf8'));
  const rpc = async (method, ...params) => {
    const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method, params });
    const response = await fetch(about.rpc_url, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
    const answer = await response.json();
    if (answer.error) throw new Error(`${method}: ${answer.error.message}`);
    return answer.result;
  };
  const asked = JSON.parse(execFileSync(og, ['chat', '--json', '--proxy', about.proxy_url, 'Hi']));
  const get = ['receipt', 'get', '--proxy', about.proxy_url, '--wait', '30', asked.receipt_id];
  writeFileSync(proofFile, execFileSync(og, get, { maxBuffer: 1 << 26 }));

  const { network: config, genesisHeader } = await rpc('og_network');
  const { header, certificate, number } = await rpc('og_finalized');
  const { handovers } = await rpc('og_handovers');
  const address = about.keys[0].address;
  const account = await rpc('eth_getProof', address, [], `0x${number.toString(16)}`);
  const light = {
    network: config, genesis_header: genesisHeader, name: about.network, handovers, header, certificate,
    account: { address, proof: account.accountProof },
  };
  writeFileSync(lightFile, JSON.stringify(light));
} catch (error) {
  failed = error;
} finally {
  network.kill('SIGINT');
  await Promise.race([once(network, 'exit'), sleep(20_000)]);
  rmSync(folder, { recursive: true, force: true });
}
if (failed) throw failed;
