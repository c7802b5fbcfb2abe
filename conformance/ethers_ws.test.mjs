// ethers v6 over WebSocket, and methods of nodes that its providers have no function for.
import assert from 'node:assert/strict';
import test, { after } from 'node:test';
import { Contract, ContractFactory, isError, JsonRpcProvider, Transaction, Wallet, WebSocketProvider } from 'ethers';
import { artifact, COIN, key, network, rejects, UNKNOWN } from './network.mjs';

const provider = new WebSocketProvider(network.rpc_url.replace('http', 'ws'), network.chain_id, { staticNetwork: true, cacheTimeout: -1 });
const plain = new JsonRpcProvider(network.rpc_url, network.chain_id, { staticNetwork: true, batchMaxCount: 50, cacheTimeout: -1 });
const wallet = new Wallet(key, provider);
const stranger = () => Wallet.createRandom().address;
const { abi, bytecode } = artifact('WrappedNative');
after(async () => { await provider.destroy(); plain.destroy(); });

function within(promise, what) {
  return Promise.race([promise, new Promise((_, reject) => { setTimeout(() => reject(new Error(`no ${what} within 60 s`)), 60_000).unref(); })]);
}

async function deploy() {
  const token = await new ContractFactory(abi, bytecode, wallet).deploy();
  await token.waitForDeployment();
  return token;
}

test('new blocks', async () => {
  const numbers = [];
  await within(new Promise((resolve) => {
    provider.on('block', (n) => { numbers.push(n); if (numbers.length === 5) resolve(); });
  }), 'blocks');
  await provider.off('block');
  assert.deepEqual(numbers.slice(0, 5), [0, 1, 2, 3, 4].map((i) => numbers[0] + i));
});

test('new transactions', async () => {
  let sent;
  const seen = new Set();
  const found = within(new Promise((resolve) => {
    provider.on('pending', (hash) => { seen.add(hash); if (hash === sent) resolve(); });
    setTimeout(async () => { sent = (await wallet.sendTransaction({ to: stranger(), value: 1n })).hash; if (seen.has(sent)) resolve(); }, 500);
  }), 'transaction');
  await found;
  await provider.off('pending');
  assert.equal((await provider.waitForTransaction(sent, 1, 60_000)).status, 1);
});

test('events by subscription', async () => {
  const token = await deploy();
  const seen = [];
  const done = within(new Promise((resolve) => {
    token.on(token.filters.Deposit(wallet.address), (event) => { seen.push([...event.args]); if (seen.length === 2) resolve(); });
  }), 'events');
  await new Promise((resolve) => setTimeout(resolve, 500));
  for (const value of [9n, 10n]) await (await token.deposit({ value })).wait();
  await done;
  await token.removeAllListeners();
  assert.deepEqual(seen, [[wallet.address, 9n], [wallet.address, 10n]]);
});

test('transfers and receipts over a socket', async () => {
  const to = stranger();
  const receipt = await (await wallet.sendTransaction({ to, value: COIN / 100n })).wait(1, 60_000);
  assert.equal(receipt.status, 1);
  assert.equal(await provider.getBalance(to), COIN / 100n);
  const block = await provider.getBlock(receipt.blockNumber, true);
  assert.ok(block.prefetchedTransactions.some((tx) => tx.hash === receipt.hash));
  assert.notEqual(BigInt(block.prevRandao), 0n);
  assert.ok((await provider.getLogs({ fromBlock: receipt.blockNumber, toBlock: receipt.blockNumber })).length >= 0);
});

test('requests in batches', async () => {
  const numbers = await Promise.all(Array.from({ length: 120 }, (_, i) => plain.getBlock(i % 3)));
  assert.deepEqual(numbers.map((b) => b.number), Array.from({ length: 120 }, (_, i) => i % 3));
});

test('overrides and simulations', async () => {
  const here = stranger().toLowerCase();
  const state = { [here]: { code: '0x4360005260206000f3', balance: '0x7' } };
  assert.equal(BigInt(await provider.send('eth_call', [{ to: here }, 'latest', state, { number: '0x4d' }])), 77n);
  const blockStateCalls = [{ stateOverrides: state, calls: [{ from: here, to: wallet.address, value: '0x7' }] }];
  const [block] = await provider.send('eth_simulateV1', [{ blockStateCalls, traceTransfers: true }, 'latest']);
  assert.equal(block.calls[0].status, '0x1');
  assert.equal(BigInt(block.calls[0].logs[0].data), 7n);
});

test('traces and raw bytes', async () => {
  const token = await deploy();
  const sent = await token.deposit({ value: 1n });
  const receipt = await sent.wait();
  const call = await provider.send('debug_traceTransaction', [sent.hash, { tracer: 'callTracer', tracerConfig: { withLog: true } }]);
  assert.equal(call.logs.length, receipt.logs.length);
  const traces = await provider.send('debug_traceBlockByNumber', [`0x${receipt.blockNumber.toString(16)}`, { tracer: '4byteTracer' }]);
  assert.equal(traces[receipt.index].txHash, sent.hash);
  const raw = await provider.send('eth_getRawTransactionByHash', [sent.hash]);
  assert.equal(raw, Transaction.from(await provider.getTransaction(sent.hash)).serialized);
  await rejects(provider.send('debug_traceTransaction', [UNKNOWN, {}]), /transaction not found/);
});

test('an account with code (EIP-7702)', async () => {
  const token = await deploy();
  const authority = Wallet.createRandom(provider);
  const authorization = await authority.authorize({ address: await token.getAddress(), nonce: 0, chainId: network.chain_id });
  const sent = await wallet.sendTransaction({ type: 4, to: authority.address, data: '0xd0e30db0', value: 3n, gasLimit: 300_000n, authorizationList: [authorization] });
  assert.equal((await sent.wait()).type, 4);
  assert.equal(await provider.getCode(authority.address), `0xef0100${(await token.getAddress()).slice(2).toLowerCase()}`);
  assert.equal(await new Contract(authority.address, abi, provider).balanceOf(wallet.address), 3n);
});

test('errors over a socket', async () => {
  const models = new Contract(network.contracts.ModelRegistry, artifact('ModelRegistry').abi, provider);
  await assert.rejects(models.getFunction('get')(UNKNOWN), (e) => isError(e, 'CALL_EXCEPTION') && e.revert?.name === 'ModelNotFound');
  await assert.rejects(wallet.sendTransaction({ to: stranger(), value: 10n ** 30n }), (e) => isError(e, 'INSUFFICIENT_FUNDS'));
  await assert.rejects(wallet.sendTransaction({ to: stranger(), value: 1n, nonce: 0, gasLimit: 21_000n }), (e) => isError(e, 'NONCE_EXPIRED'));
  await rejects(provider.send('eth_makeMeRich', []), /not found|unsupported|does not exist/i);
});
