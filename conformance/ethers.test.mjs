// ethers v6: transfer, read, write, events, proof, receipts and errors.
import assert from 'node:assert/strict';
import test, { after } from 'node:test';
import { Contract, ContractFactory, isError, JsonRpcProvider, keccak256, toBeHex, Wallet } from 'ethers';
import { artifact, COIN, key, network, rejects, UNKNOWN } from './network.mjs';

const provider = new JsonRpcProvider(network.rpc_url, network.chain_id, { staticNetwork: true, pollingInterval: 200, cacheTimeout: -1 });
const wallet = new Wallet(key, provider);
const stranger = () => Wallet.createRandom().address;
after(() => provider.destroy());

test('identity and blocks', async () => {
  assert.equal(BigInt(await provider.send('eth_chainId', [])), BigInt(network.chain_id));
  const block = await provider.getBlock('latest', true);
  assert.equal((await provider.getBlock(block.hash)).number, block.number);
  assert.equal((await provider.getBlock(0)).number, 0);
  assert.equal(await provider.getBlock(UNKNOWN), null);
});

test('transfer and receipt', async () => {
  const to = stranger();
  const sent = await wallet.sendTransaction({ to, value: COIN / 10n });
  const receipt = await sent.wait(1, 60_000);
  assert.equal(receipt.status, 1);
  assert.equal(await provider.getBalance(to), COIN / 10n);
  const found = await provider.getTransaction(sent.hash);
  assert.deepEqual([found.from, found.to, found.blockHash], [wallet.address, to, receipt.blockHash]);
});

test('deploy, write, read and events', async () => {
  const { abi, bytecode } = artifact('WrappedNative');
  const token = await new ContractFactory(abi, bytecode, wallet).deploy();
  await token.waitForDeployment();
  const start = (await token.deploymentTransaction().wait()).blockNumber;
  await (await token.deposit({ value: 1000n })).wait();
  const to = stranger();
  const receipt = await (await token.transfer(to, 400n)).wait();
  assert.equal(await token.balanceOf(to), 400n);
  assert.equal(receipt.logs[0].fragment.name, 'Transfer');
  const events = await token.queryFilter(token.filters.Transfer(null, to), start);
  assert.deepEqual(events.map((e) => [...e.args]), [[wallet.address, to, 400n]]);
  await assert.rejects(token.transfer(to, COIN), (error) => {
    assert.ok(isError(error, 'CALL_EXCEPTION'));
    assert.equal(error.revert?.name ?? token.interface.parseError(error.data).name, 'ERC20InsufficientBalance');
    return true;
  });
});

test('events arrive by polling', async () => {
  const { abi, bytecode } = artifact('WrappedNative');
  const token = await new ContractFactory(abi, bytecode, wallet).deploy();
  await token.waitForDeployment();
  const seen = new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error('no event within 60 s')), 60_000).unref();
    token.once('Deposit', (account, amount) => resolve([account, amount]));
  });
  await (await token.deposit({ value: 9n })).wait();
  assert.deepEqual(await seen, [wallet.address, 9n]);
});

test('system contracts', async () => {
  const nodes = new Contract(network.contracts.NodeRegistry, artifact('NodeRegistry').abi, provider);
  const models = new Contract(network.contracts.ModelRegistry, artifact('ModelRegistry').abi, provider);
  assert.ok((await nodes.nodeCount()) >= 1n);
  const [model] = await nodes.models(0, 10);
  assert.ok((await nodes.nodesFor(model, 0, 10)).length >= 1);
  // `get` is also a method of ethers' results, so it is called by its full name.
  assert.equal(keccak256((await models.getFunction('get')(model)).manifest), model);
  await assert.rejects(models.getFunction('get')(UNKNOWN), (error) => error.revert?.name === 'ModelNotFound');
});

test('proof', async () => {
  const proof = await provider.send('eth_getProof', [wallet.address, [toBeHex(0, 32)], 'latest']);
  assert.ok(proof.accountProof.length > 0);
  assert.equal(BigInt(proof.balance), await provider.getBalance(wallet.address));
});

test('fees and estimates', async () => {
  const fees = await provider.getFeeData();
  assert.ok(fees.gasPrice > 0n && fees.maxFeePerGas > 0n);
  assert.equal(await wallet.estimateGas({ to: stranger(), value: 1n }), 21_000n);
});

test('errors', async () => {
  await rejects(wallet.sendTransaction({ to: stranger(), value: 1n, nonce: 0 }), /nonce/i);
  await rejects(wallet.sendTransaction({ to: stranger(), value: 10n ** 30n }), /insufficient funds/i);
});
