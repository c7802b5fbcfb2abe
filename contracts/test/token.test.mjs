import assert from 'node:assert/strict';
import test from 'node:test';
import { Signature, Wallet } from 'ethers';
import { Chain, COIN, person, reverts, system } from './evm.mjs';

test('deposit, transfer, approve, withdraw', async () => {
  const { chain, token } = await system();
  const before = await chain.balance(person(1));
  const { events } = await token.send(person(1), 'deposit', [], 5n * COIN);
  assert.deepEqual(events.map((e) => e.name), ['Transfer', 'Deposit']);
  assert.equal(await token.read('balanceOf', person(1)), 5n * COIN);
  assert.equal(await token.read('totalSupply'), 5n * COIN);
  await token.send(person(1), 'transfer', [person(2), 2n * COIN]);
  await token.send(person(2), 'approve', [person(3), COIN]);
  await token.send(person(3), 'transferFrom', [person(2), person(4), COIN]);
  await token.send(person(4), 'withdraw', [COIN]);
  assert.equal(await token.read('totalSupply'), 4n * COIN);
  assert.equal(await chain.balance(token.address), 4n * COIN);
  assert.equal(await chain.balance(person(1)), before - 5n * COIN);
  assert.equal(await chain.balance(person(4)), 1001n * COIN);
  assert.deepEqual([await token.read('name'), await token.read('symbol'), await token.read('decimals')], ['Wrapped OG', 'WOG', 18n]);
});

test('coins without call data are wrapped; unknown calls are not', async () => {
  const { chain, token } = await system();
  await chain.run({ from: person(1), to: token.address, data: '0x', value: COIN });
  assert.equal(await token.read('balanceOf', person(1)), COIN);
  await assert.rejects(chain.run({ from: person(1), to: token.address, data: '0xdeadbeef', value: COIN }));
  assert.equal(await token.read('totalSupply'), COIN);
});

test('more than the balance cannot be withdrawn or moved', async () => {
  const { token } = await system();
  await token.send(person(1), 'deposit', [], COIN);
  await reverts(token.send(person(1), 'withdraw', [COIN + 1n]), 'ERC20InsufficientBalance');
  await reverts(token.send(person(1), 'transfer', [person(2), COIN + 1n]), 'ERC20InsufficientBalance');
  await reverts(token.send(person(2), 'transferFrom', [person(1), person(2), 1n]), 'ERC20InsufficientAllowance');
  await token.send(person(1), 'withdraw', [COIN]);
  await reverts(token.send(person(1), 'withdraw', [1n]), 'ERC20InsufficientBalance');
});

test('a holder that withdraws twice gets no more than it has', async () => {
  const { chain, token } = await system();
  await token.send(person(1), 'deposit', [], 10n * COIN);
  const holder = await chain.deploy('ReenteringHolder', [token.address], { value: 2n * COIN });
  await reverts(holder.send(person(0), 'attack', [2n * COIN]), 'ERC20InsufficientBalance');
  assert.equal(await chain.balance(token.address), 12n * COIN);
  await holder.send(person(0), 'attack', [COIN]);
  assert.equal(await chain.balance(holder.address), 2n * COIN);
  assert.equal(await chain.balance(token.address), 10n * COIN);
  assert.equal(await token.read('totalSupply'), 10n * COIN);
});

test('a permit works once, for its owner and before its deadline', async () => {
  const { chain, token } = await system();
  const owner = new Wallet(`0x${'11'.repeat(32)}`);
  const domain = await token.read('eip712Domain');
  const types = { Permit: ['owner:address', 'spender:address', 'value:uint256', 'nonce:uint256', 'deadline:uint256'].map((f) => {
    const [name, type] = f.split(':');
    return { name, type };
  }) };
  const permit = async (deadline, nonce = 0n) => {
    const message = { owner: owner.address, spender: person(2), value: COIN, nonce, deadline };
    const { name, version, chainId, verifyingContract } = domain;
    const signature = Signature.from(await owner.signTypedData({ name, version, chainId, verifyingContract }, types, message));
    return [owner.address, person(2), COIN, deadline, signature.v, signature.r, signature.s];
  };
  const good = await permit(chain.time + 100n);
  await reverts(token.send(person(3), 'permit', [person(4), ...good.slice(1)]), 'ERC2612InvalidSigner');
  await reverts(token.send(person(3), 'permit', await permit(chain.time - 100n)), 'ERC2612ExpiredSignature');
  await token.send(person(3), 'permit', good);
  assert.equal(await token.read('allowance', owner.address, person(2)), COIN);
  await reverts(token.send(person(3), 'permit', good), 'ERC2612InvalidSigner');
});

test('a network without calls has an empty token', async () => {
  const chain = await Chain.create();
  const token = await chain.deploy('WrappedNative');
  assert.equal(await token.read('totalSupply'), 0n);
});
