// viem over WebSocket, and methods of nodes that its clients have no function for.
import assert from 'node:assert/strict';
import test, { after } from 'node:test';
import {
  ContractFunctionRevertedError, createPublicClient, createWalletClient, defineChain, encodeFunctionData, FeeCapTooLowError, InsufficientFundsError,
  IntrinsicGasTooLowError, keccak256, parseAbi, TipAboveFeeCapError, webSocket,
} from 'viem';
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts';
import { artifact, COIN, key, network, UNKNOWN } from './network.mjs';

const url = network.rpc_url.replace('http', 'ws');
const chain = defineChain({
  id: network.chain_id, name: 'devnet', nativeCurrency: { name: 'Coin', symbol: 'COIN', decimals: 18 }, rpcUrls: { default: { http: [network.rpc_url], webSocket: [url] } },
});
const account = privateKeyToAccount(key);
const transport = webSocket(url, { reconnect: false });
const client = createPublicClient({ chain, transport, pollingInterval: 200 });
const wallet = createWalletClient({ account, chain, transport });
const stranger = () => privateKeyToAccount(generatePrivateKey()).address;
const receiptOf = (hash) => client.waitForTransactionReceipt({ hash, timeout: 60_000 });
const { abi, bytecode } = artifact('WrappedNative');
after(async () => (await client.transport.getRpcClient()).close());

/** The first `count` values that `watch({ push, onError })` pushes. */
function collect(count, watch, begin = async () => {}) {
  return new Promise((resolve, reject) => {
    const seen = [];
    let stop = () => {};
    const timer = setTimeout(() => finish(reject, new Error(`${seen.length} of ${count} within 60 s`)), 60_000);
    const finish = (settle, value) => { clearTimeout(timer); stop(); settle(value); };
    const push = (value) => { seen.push(value); if (seen.length === count) finish(resolve, seen); };
    stop = watch(push, (error) => finish(reject, error));
    // The subscription is made in the background.
    setTimeout(() => begin().catch((error) => finish(reject, error)), 500);
  });
}

test('new blocks', async () => {
  const blocks = await collect(5, (push, onError) => client.watchBlocks({ onBlock: push, onError }));
  const numbers = blocks.map((b) => b.number);
  assert.deepEqual(numbers, numbers.map((_, i) => numbers[0] + BigInt(i)));
  assert.ok(blocks.every((b, i) => i === 0 || b.parentHash === blocks[i - 1].hash));
});

test('new transactions', async () => {
  let sent;
  await collect(1, (push, onError) => client.watchPendingTransactions({
    onTransactions: (hashes) => hashes.includes(sent) && push(sent), onError,
    // The answer to sending may come after the notification, so the transaction is chosen beforehand.
  }), async () => {
    const request = await wallet.prepareTransactionRequest({ to: stranger(), value: 1n });
    const raw = await wallet.signTransaction(request);
    sent = keccak256(raw);
    await receiptOf(await wallet.sendRawTransaction({ serializedTransaction: raw }));
  });
});

test('events', async () => {
  const { contractAddress: address } = await receiptOf(await wallet.deployContract({ abi, bytecode }));
  const logs = await collect(2, (push, onError) => client.watchContractEvent({
    address, abi, eventName: 'Deposit', onLogs: (found) => found.forEach(push), onError,
  }), async () => {
    for (const value of [3n, 4n]) await receiptOf(await wallet.writeContract({ address, abi, functionName: 'deposit', value }));
  });
  assert.deepEqual(logs.map((l) => [l.args.account, l.args.amount]), [[account.address, 3n], [account.address, 4n]]);
});

test('state and block overrides', async () => {
  const to = stranger();
  const returnsNumber = '0x4360005260206000f3';
  const call = { to, stateOverride: [{ address: to, code: returnsNumber }] };
  assert.equal(BigInt((await client.call({ ...call, blockOverrides: { number: 77n } })).data), 77n);
  const here = await client.getBlockNumber();
  assert.equal(BigInt((await client.call({ ...call, blockNumber: here })).data), here);
  const poor = stranger();
  const gas = { account: poor, to: stranger(), value: 5n };
  await assert.rejects(client.estimateGas(gas), (e) => e.walk((x) => x instanceof InsufficientFundsError) !== null);
  assert.equal(await client.estimateGas({ ...gas, stateOverride: [{ address: poor, balance: COIN }] }), 21_000n);
});

test('simulations', async () => {
  const [a, b] = [stranger(), stranger()];
  const [first, second] = await client.simulateBlocks({
    blocks: [
      { stateOverrides: [{ address: a, balance: COIN }], calls: [{ account: a, to: b, value: 5n }] },
      { blockOverrides: { baseFeePerGas: 0n }, calls: [{ account: b, to: a, value: 5n }, { account: b, to: a, value: 0n }] },
    ],
    traceTransfers: true,
  });
  assert.deepEqual([first, second].map((x) => x.calls.map((c) => c.status)), [['success'], ['success', 'success']]);
  assert.equal(second.number, first.number + 1n);
  assert.equal(BigInt(first.calls[0].logs[0].data), 5n);
  const { results } = await client.simulateCalls({
    account: a, stateOverrides: [{ address: a, balance: COIN }],
    calls: [
      { to: b, value: 1n },
      { to: network.contracts.ModelRegistry, abi: artifact('ModelRegistry').abi, functionName: 'get', args: [UNKNOWN] },
    ],
  });
  assert.deepEqual(results.map((r) => r.status), ['success', 'failure']);
});

test('access lists', async () => {
  const address = network.contracts.WrappedNative;
  const data = encodeFunctionData({ abi, functionName: 'balanceOf', args: [account.address] });
  const { accessList, gasUsed } = await client.createAccessList({ account, to: address, data });
  assert.equal(accessList.length, 1);
  assert.equal(accessList[0].address.toLowerCase(), address.toLowerCase());
  assert.equal(accessList[0].storageKeys.length, 1);
  assert.ok(gasUsed > 21_000n);
  const receipt = await receiptOf(await wallet.sendTransaction({ to: address, data, accessList, type: 'eip2930', gasPrice: 10n ** 10n }));
  assert.equal(receipt.type, 'eip2930');
});

test('an account with code (EIP-7702)', async () => {
  const { contractAddress } = await receiptOf(await wallet.deployContract({ abi, bytecode }));
  const authority = privateKeyToAccount(generatePrivateKey());
  const authorization = await wallet.signAuthorization({ account: authority, contractAddress });
  const hash = await wallet.sendTransaction({ authorizationList: [authorization], to: authority.address, data: '0xd0e30db0', value: 2n });
  const receipt = await receiptOf(hash);
  assert.deepEqual([receipt.status, receipt.type], ['success', 'eip7702']);
  assert.equal((await client.getDelegation({ address: authority.address })).toLowerCase(), contractAddress.toLowerCase());
  assert.equal(await client.readContract({ address: authority.address, abi, functionName: 'balanceOf', args: [account.address] }), 2n);
  const tx = await client.getTransaction({ hash });
  assert.equal(tx.authorizationList[0].address.toLowerCase(), contractAddress.toLowerCase());
});

test('traces and the pool', async () => {
  const { contractAddress: to } = await receiptOf(await wallet.deployContract({ abi, bytecode }));
  const hash = await wallet.writeContract({ address: to, abi, functionName: 'deposit', value: 1n });
  const receipt = await receiptOf(hash);
  const call = await client.request({ method: 'debug_traceTransaction', params: [hash, { tracer: 'callTracer' }] });
  assert.deepEqual([call.type, call.to, BigInt(call.gasUsed)], ['CALL', to.toLowerCase(), receipt.gasUsed]);
  const options = { tracer: 'prestateTracer', tracerConfig: { diffMode: true } };
  const diff = await client.request({ method: 'debug_traceTransaction', params: [hash, options] });
  assert.equal(BigInt(diff.post[to.toLowerCase()].balance), 1n);
  const { structLogs } = await client.request({ method: 'debug_traceTransaction', params: [hash] });
  assert.ok(structLogs.length > 10);
  const status = await client.request({ method: 'txpool_status' });
  assert.ok(BigInt(status.pending) >= 0n && BigInt(status.queued) >= 0n);
  assert.ok((await client.request({ method: 'rpc_modules' })).debug);
});

test('errors have their types', async () => {
  const poor = stranger();
  const is = (type) => (e) => { assert.ok(e.walk((x) => x instanceof type), e.message); return true; };
  await assert.rejects(client.call({ account: poor, to: account.address, value: 1n }), is(InsufficientFundsError));
  const get = { address: network.contracts.ModelRegistry, abi: artifact('ModelRegistry').abi, functionName: 'get', args: [UNKNOWN] };
  await assert.rejects(client.simulateContract(get), is(ContractFunctionRevertedError));
  const missing = { address: account.address, abi: parseAbi(['function no() view returns (uint256)']), functionName: 'no' };
  await assert.rejects(client.readContract(missing), /returned no data/);
});

// viem looks for the words of Ethereum's clients.
test('errors of gas and fees have their types', async () => {
  const is = (type) => (e) => { assert.ok(e.walk((x) => x instanceof type), e.message); return true; };
  const call = { account, to: account.address };
  await assert.rejects(client.call({ ...call, gas: 20_000n }), is(IntrinsicGasTooLowError));
  await assert.rejects(client.call({ ...call, maxFeePerGas: 1n, maxPriorityFeePerGas: 0n }), is(FeeCapTooLowError));
  const tip = { method: 'eth_call', params: [{ from: account.address, to: account.address, maxFeePerGas: '0x3b9aca00', maxPriorityFeePerGas: '0x77359400' }, 'latest'] };
  await assert.rejects(client.request(tip), TipAboveFeeCapError.nodeMessage);
});
