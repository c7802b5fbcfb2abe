// viem: transfer, read, write, events, proof, receipts and errors.
import assert from 'node:assert/strict';
import test from 'node:test';
import { BaseError, ContractFunctionRevertedError, createPublicClient, createWalletClient, defineChain, http, keccak256 } from 'viem';
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts';
import { artifact, COIN, key, network, rejects, UNKNOWN } from './network.mjs';

const chain = defineChain({
  id: network.chain_id, name: 'devnet', nativeCurrency: { name: 'Coin', symbol: 'COIN', decimals: 18 },
  rpcUrls: { default: { http: [network.rpc_url] } },
});
const account = privateKeyToAccount(key);
const client = createPublicClient({ chain, transport: http(), pollingInterval: 200 });
const wallet = createWalletClient({ account, chain, transport: http() });
const stranger = () => privateKeyToAccount(generatePrivateKey()).address;
const receiptOf = (hash) => client.waitForTransactionReceipt({ hash, timeout: 60_000 });

test('identity and blocks', async () => {
  assert.equal(await client.getChainId(), network.chain_id);
  const block = await client.getBlock();
  assert.equal((await client.getBlock({ blockHash: block.hash })).number, block.number);
  assert.equal((await client.getBlock({ blockNumber: 0n })).number, 0n);
});

test('transfer and receipt', async () => {
  const to = stranger();
  const receipt = await receiptOf(await wallet.sendTransaction({ to, value: COIN / 10n }));
  assert.equal(receipt.status, 'success');
  assert.equal(receipt.type, 'eip1559');
  assert.equal(await client.getBalance({ address: to }), COIN / 10n);
  const full = await client.getBlock({ blockHash: receipt.blockHash, includeTransactions: true });
  assert.ok(full.transactions.some((tx) => tx.hash === receipt.transactionHash && tx.from === account.address.toLowerCase()));
});

test('deploy, write, read and events', async () => {
  const { abi, bytecode } = artifact('WrappedNative');
  const deployed = await receiptOf(await wallet.deployContract({ abi, bytecode }));
  const address = deployed.contractAddress;
  const write = async (functionName, args, value) => {
    const { request } = await client.simulateContract({ account, address, abi, functionName, args, value });
    return receiptOf(await wallet.writeContract(request));
  };
  await write('deposit', [], 1000n);
  const to = stranger();
  const moved = await write('transfer', [to, 400n]);
  assert.equal(await client.readContract({ address, abi, functionName: 'balanceOf', args: [to] }), 400n);
  const logs = await client.getContractEvents({ address, abi, eventName: 'Transfer', args: { to }, fromBlock: deployed.blockNumber });
  assert.deepEqual(logs.map((l) => [l.args.from, l.args.to, l.args.value, l.transactionHash]), [
    [account.address, to, 400n, moved.transactionHash],
  ]);
  await assert.rejects(write('transfer', [to, COIN]), (error) => {
    const revert = error instanceof BaseError && error.walk((e) => e instanceof ContractFunctionRevertedError);
    assert.equal(revert?.data?.errorName, 'ERC20InsufficientBalance');
    return true;
  });
});

test('system contracts', async () => {
  const { abi } = artifact('NodeRegistry');
  const address = network.contracts.NodeRegistry;
  const read = (functionName, args) => client.readContract({ address, abi, functionName, args });
  assert.ok((await read('nodeCount')) >= 1n);
  const [model] = await read('models', [0n, 10n]);
  const [offer] = await read('nodesFor', [model, 0n, 10n]);
  assert.ok(offer.stake >= (await read('MIN_STAKE')));
  const get = { address: network.contracts.ModelRegistry, abi: artifact('ModelRegistry').abi, functionName: 'get' };
  const { manifest } = await client.readContract({ ...get, args: [model] });
  assert.equal(keccak256(manifest), model);
  await rejects(client.readContract({ ...get, args: [UNKNOWN] }), /ModelNotFound/);
});

test('proof', async () => {
  const proof = await client.getProof({ address: account.address, storageKeys: [UNKNOWN] });
  assert.ok(proof.accountProof.length > 0);
  assert.equal(proof.balance, await client.getBalance({ address: account.address }));
  assert.equal(proof.storageProof[0].value, 0n);
});

test('fees and estimates', async () => {
  const fees = await client.estimateFeesPerGas();
  assert.ok(fees.maxFeePerGas > 0n);
  assert.equal(await client.estimateGas({ account, to: stranger(), value: 1n }), 21_000n);
  assert.ok((await client.getFeeHistory({ blockCount: 2, rewardPercentiles: [50] })).baseFeePerGas.length >= 2);
});

test('errors', async () => {
  const tx = { to: stranger(), value: 1n, gas: 21_000n, maxFeePerGas: 10n ** 11n, maxPriorityFeePerGas: 1n };
  await rejects(wallet.sendTransaction({ ...tx, nonce: 0 }), /nonce/i);
  await rejects(wallet.sendTransaction({ ...tx, value: 10n ** 30n }), /insufficient funds|exceeds the balance/i);
});
