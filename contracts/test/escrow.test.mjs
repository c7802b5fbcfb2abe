import assert from 'node:assert/strict';
import test from 'node:test';
import { getAddress, toBeHex } from 'ethers';
import { after, bond, claim, client, court, dispute, Log, NOTHING, pass, RULES, settle, step, TURN } from './court.mjs';
import { Chain, COIN, GENESIS, person, RECORD, reverts, SYSTEM, TX_GAS_MAX } from './evm.mjs';

const node = person(1);
const other = person(2);
const { withdrawSeconds, windowSeconds } = RULES.escrow;
const share = (amount) => amount - amount * 50n / 1000n;

/** A bonded node with a posted log of 4, and a client with a pocket of 10 coins. */
async function ready(rules, genesis) {
  const all = await court(rules, genesis);
  await bond(all, node);
  all.log4 = new Log(all, node);
  all.log4.add(4);
  await all.log4.post();
  const alice = await client(all, 1);
  await all.escrow.send(alice.address, 'deposit', [node], 10n * COIN);
  return { ...all, all, alice };
}
const pocket = async (all, who, of = node) => {
  const p = await all.escrow.read('pocketOf', who.address, of);
  return [p.held, p.taken, p.refunded, p.withdrawing];
};
/** Judges are contracts; in tests they have coins and call like accounts. */
async function judge(all, name = 'disputes') {
  await all.chain.fund(all[name].address, 100n * COIN);
  return all[name].address;
}

test('escrow: the constructor rejects useless rules', async () => {
  const chain = await Chain.create();
  const zero = person(0);
  const deploy = (...rules) => chain.deploy('Escrow', [zero, zero, zero, zero, ...rules]);
  const year = 365n * 86400n;
  for (const rules of [[1n, 15n, 0n], [1n, year + 1n, 0n], [year + 1n, 16n, 0n], [1n, 16n, 1001n]]) {
    await reverts(deploy(...rules), 'InvalidParams');
  }
  await deploy(year, year, 1000n);
});

test('escrow: deposit and vouchers; the audit pool gets its share', async () => {
  const { all, alice, chain } = await ready();
  await reverts(all.escrow.send(alice.address, 'deposit', [node], 0n), 'NoValue');
  const { events, values } = await settle(all, node, 4, alice.voucher(node, 4n * COIN));
  assert.deepEqual(events.map((e) => e.name), ['VoucherSettled', 'Settled', 'Funded']);
  assert.equal(values.index, 0n);
  assert.deepEqual(await pocket(all, alice), [6n * COIN, 4n * COIN, 0n, 0n]);
  const bucket = await all.escrow.read('bucketOf', node, 0);
  const [amount, releaseAt, logSize] = [...bucket];
  assert.deepEqual([amount, logSize], [share(4n * COIN), 4n]);
  assert.equal(await all.audits.read('pool'), 4n * COIN * 50n / 1000n);
  await reverts(all.escrow.send(other, 'release', [node, 0]), 'TooEarly', [releaseAt]);
  await reverts(all.escrow.send(other, 'release', [node, 1]), 'NothingToRelease');
  chain.time = releaseAt;
  const before = await chain.balance(node);
  await all.escrow.send(other, 'release', [node, 0]);
  assert.equal(await chain.balance(node), before + share(4n * COIN));
  await reverts(all.escrow.send(other, 'release', [node, 0]), 'NothingToRelease');
  assert.equal(await chain.balance(all.escrow.address), 6n * COIN);
});

test('escrow: a voucher taken twice, an older one, one above the pocket', async () => {
  const { all, alice } = await ready();
  await settle(all, node, 4, alice.voucher(node, 3n * COIN));
  await reverts(settle(all, node, 4, alice.voucher(node, 3n * COIN)), 'NothingDue');
  await reverts(settle(all, node, 4, alice.voucher(node, 2n * COIN)), 'NothingDue');
  await reverts(settle(all, node, 4, alice.voucher(node, 3n * COIN), alice.voucher(node, 3n * COIN)), 'NothingDue');
  // The same one twice in one call counts once.
  await settle(all, node, 4, alice.voucher(node, 5n * COIN), alice.voucher(node, 5n * COIN));
  assert.deepEqual(await pocket(all, alice), [5n * COIN, 5n * COIN, 0n, 0n]);
  const large = alice.voucher(node, 12n * COIN);
  await settle(all, node, 4, large);
  assert.deepEqual(await pocket(all, alice), [0n, 10n * COIN, 0n, 0n]);
  await reverts(settle(all, node, 4, large), 'NothingDue');
  await all.escrow.send(alice.address, 'deposit', [node], 5n * COIN);
  await settle(all, node, 4, large);
  assert.deepEqual(await pocket(all, alice), [3n * COIN, 12n * COIN, 0n, 0n]);
});

test('escrow: a voucher works for its node, signer and contract only', async () => {
  const { all, alice } = await ready();
  const bob = await client(all, 2);
  await all.escrow.send(bob.address, 'deposit', [other], COIN);
  await bond(all, other);
  const log = new Log(all, other);
  log.add(1);
  await log.post();
  const [voucher, signature] = alice.voucher(node, COIN);
  await reverts(settle(all, other, 1, [voucher, signature]), 'BadVoucher', [0n]);
  await reverts(settle(all, other, 1, [{ ...voucher, node: other }, signature]), 'BadVoucher', [0n]);
  await reverts(settle(all, node, 4, [{ ...voucher, total: 2n * COIN }, signature]), 'BadVoucher', [0n]);
  await reverts(settle(all, node, 4, [{ ...voucher, client: bob.address }, signature]), 'BadVoucher', [0n]);
  await reverts(settle(all, node, 4, [{ ...voucher, client: `0x${'00'.repeat(20)}` }, `0x${'00'.repeat(65)}`]), 'BadVoucher');
  await reverts(settle(all, node, 4, [voucher, '0x']), 'BadVoucher', [0n]);
  await reverts(settle(all, node, 4, alice.voucher(node, COIN), [voucher, bob.voucher(node, COIN)[1]]), 'BadVoucher', [1n]);
  // Another deployment has another domain.
  const second = await ready();
  await reverts(settle(all, node, 4, [voucher, (await client({ ...second.all, escrow: { address: person(77) } }, 1)).voucher(node, COIN)[1]]), 'BadVoucher');
  await settle(all, node, 4, [voucher, signature]);
});

test('escrow: a voucher of one network is worth nothing in another with the same chain id, key and addresses', async () => {
  const here = await ready();
  const there = await ready({}, toBeHex(0xbee, 32));
  assert.equal(here.escrow.address, there.escrow.address);
  const signed = here.alice.voucher(node, COIN);
  await reverts(settle(there.all, node, 4, signed), 'BadVoucher', [0n]);
  await settle(here.all, node, 4, signed);
});

test('escrow: no signature counts before the genesis hash is known', async () => {
  const chain = await Chain.create();
  const beacon = await chain.deploy('Beacon');
  await reverts(beacon.read('genesis'), 'GenesisUnknown');
  // Only block 1 records it.
  await beacon.send(SYSTEM, 'record', RECORD);
  await reverts(beacon.read('genesis'), 'GenesisUnknown');
  await chain.begin(beacon);
  assert.equal(await beacon.read('genesis'), GENESIS);
  await beacon.send(SYSTEM, 'record', RECORD);
  assert.equal(await beacon.read('genesis'), GENESIS);
});

test('escrow: settling needs a posted log, and as many signatures as vouchers', async () => {
  const { all, alice } = await ready();
  await reverts(settle(all, node, 3, alice.voucher(node, COIN)), 'LogNotPosted', [3n]);
  await reverts(all.escrow.send(node, 'settle', [[alice.voucher(node, COIN)[0]], [], 4]), 'WrongCount');
  await reverts(settle(all, node, 4, ...Array(257).fill(alice.voucher(node, COIN))), 'WrongCount');
  await reverts(settle(all, node, 4), 'NothingDue');
});

test('escrow: withdrawals wait, and vouchers come first', async () => {
  const { all, alice, chain } = await ready();
  const ask = (amount) => all.escrow.send(alice.address, 'requestWithdraw', [node, amount]);
  const take = () => all.escrow.send(alice.address, 'withdraw', [node]);
  await reverts(take(), 'NothingToWithdraw');
  await reverts(ask(11n * COIN), 'PocketTooSmall', [10n * COIN]);
  await ask(10n * COIN);
  await reverts(take(), 'TooEarly');
  await settle(all, node, 4, alice.voucher(node, 7n * COIN));
  pass(all, withdrawSeconds);
  const before = await chain.balance(alice.address);
  await take();
  assert.equal(await chain.balance(alice.address), before + 3n * COIN);
  await reverts(take(), 'NothingToWithdraw');
  assert.deepEqual(await pocket(all, alice), [0n, 7n * COIN, 0n, 0n]);
  // Asking again starts again, and zero takes it back.
  await all.escrow.send(alice.address, 'deposit', [node], 4n * COIN);
  await ask(COIN);
  pass(all, withdrawSeconds - 10n);
  await ask(4n * COIN);
  pass(all, 20n);
  await reverts(take(), 'TooEarly');
  await ask(0n);
  pass(all, withdrawSeconds);
  await reverts(take(), 'NothingToWithdraw');
  // What came after the request stays.
  await ask(COIN);
  await all.escrow.send(alice.address, 'deposit', [node], COIN);
  pass(all, withdrawSeconds);
  await take();
  assert.equal((await pocket(all, alice))[0], 4n * COIN);
});

test('escrow: an old request for money back is not locked money', async () => {
  const { all, alice } = await ready();
  const locked = () => all.escrow.read('lockedFor', alice.address, node);
  assert.equal(await locked(), 10n * COIN);
  await all.escrow.send(alice.address, 'requestWithdraw', [node, 4n * COIN]);
  assert.equal(await locked(), 6n * COIN);
  await settle(all, node, 4, alice.voucher(node, 9n * COIN));
  assert.equal(await locked(), 0n);
  pass(all, withdrawSeconds);
  await all.escrow.send(alice.address, 'deposit', [node], 5n * COIN);
  assert.equal(await locked(), 2n * COIN);
  await all.escrow.send(alice.address, 'withdraw', [node]);
  assert.equal(await locked(), 2n * COIN);
});

test('escrow: settlements of one period share a bucket, so few are not yet due', async () => {
  const { all, alice, chain } = await ready();
  const period = windowSeconds / 16n;
  chain.time = (chain.time / period + 1n) * period;
  const first = await settle(all, node, 4, alice.voucher(node, 1n));
  const second = await settle(all, node, 4, alice.voucher(node, 2n));
  assert.deepEqual([first.values[0], second.values[0]], [0n, 0n]);
  const start = chain.time;
  let total = 3n;
  for (; chain.time < start + windowSeconds; chain.time += 20n) await settle(all, node, 4, alice.voucher(node, total++));
  const count = await all.escrow.read('bucketCount', node);
  assert.ok(count >= 16n && count <= 18n, `${count}`);
  let waiting = 0;
  for (let i = 0n; i < count; i++) if ((await all.escrow.read('bucketOf', node, i)).releaseAt > chain.time) waiting++;
  assert.ok(waiting <= 17, `${waiting}`);
  pass(all, period);
  await all.escrow.send(other, 'release', [node, 0]);
});

test('escrow: refunds come from the newest earnings, at most what the client paid', async () => {
  const { all, alice, chain } = await ready();
  const bob = await client(all, 2);
  await all.escrow.send(bob.address, 'deposit', [node], 10n * COIN);
  await settle(all, node, 4, alice.voucher(node, 4n * COIN));
  pass(all, 200n);
  await settle(all, node, 4, bob.voucher(node, 2n * COIN));
  const from = await judge(all);
  const refund = async (payer, amount, by = from) => (await all.escrow.send(by, 'refund', [node, payer, amount])).values[0];
  await reverts(refund(alice.address, 1n, person(3)), 'OnlyJudge');
  await reverts(refund(alice.address, 1n, all.audits.address), 'OnlyJudge');
  await reverts(all.escrow.send(person(3), 'compensate', [node, alice.address], 1n), 'OnlyJudge');
  assert.equal(await refund(alice.address, 3n * COIN), 3n * COIN);
  const amounts = async () => [(await all.escrow.read('bucketOf', node, 0)).amount, (await all.escrow.read('bucketOf', node, 1)).amount];
  assert.deepEqual(await amounts(), [share(4n * COIN) - (3n * COIN - share(2n * COIN)), 0n]);
  // Never more than was paid, by whichever judge.
  assert.equal(await all.escrow.read('paidBy', alice.address, node), COIN);
  assert.equal(await refund(alice.address, 9n * COIN, await judge(all, 'jury')), COIN);
  assert.equal(await refund(alice.address, 9n * COIN), 0n);
  assert.equal(await refund(person(5), COIN), 0n);
  // What was refunded cannot be taken again with the old voucher.
  await reverts(settle(all, node, 4, alice.voucher(node, 4n * COIN)), 'NothingDue');
  const left = (await amounts())[0];
  assert.equal(await refund(bob.address, 2n * COIN), left);
  await reverts(all.escrow.send(from, 'compensate', [node, bob.address], 2n * COIN - left + 1n), 'TooMuch');
  await all.escrow.send(from, 'compensate', [node, bob.address], 2n * COIN - left);
  const before = await chain.balance(alice.address);
  await all.escrow.send(alice.address, 'collect');
  assert.equal(await chain.balance(alice.address), before + 4n * COIN);
  await reverts(all.escrow.send(alice.address, 'collect'), 'NothingToWithdraw');
  await all.escrow.send(bob.address, 'collect');
  assert.equal(await chain.balance(all.escrow.address), 14n * COIN);
});

test('escrow: an open dispute holds the price of its claim and nothing else', async () => {
  const { all, alice, chain } = await ready();
  const price = COIN / 2n;
  await settle(all, node, 4, alice.voucher(node, 4n * COIN));
  const earned = (await all.escrow.read('bucketOf', node, 0)).amount;
  pass(all, windowSeconds - 50n);
  const c = claim({ node, receiptId: NOTHING, payer: alice.address, price, timeMs: all.chain.time * 1000n });
  await dispute(all, person(5), c, step(TURN.node));
  // A second game about the same receipt can cost no second price.
  await dispute(all, person(6), c, step(TURN.node));
  assert.equal(await all.escrow.read('holds', node), price);
  pass(all, 60n);
  const { events } = await all.escrow.send(other, 'release', [node, 0]);
  assert.deepEqual(events.map((e) => [e.name, e.args[2]]), [['Released', earned - price]]);
  assert.equal(await all.escrow.read('reserves', node), price);
  await reverts(all.escrow.send(other, 'releaseReserve', [node]), 'NothingToRelease');
  await all.disputes.send(node, 'move', [1, firstState(c), step(TURN.nodeWon)]);
  await reverts(all.escrow.send(other, 'releaseReserve', [node]), 'NothingToRelease');
  await all.disputes.send(node, 'move', [2, firstState(c), step(TURN.nodeWon)]);
  const before = await chain.balance(node);
  await all.escrow.send(other, 'releaseReserve', [node]);
  assert.equal(await chain.balance(node), before + price);
  assert.equal((await all.escrow.send(await judge(all), 'refund', [node, alice.address, COIN])).values[0], 0n);
});

test('escrow: a refund comes from the reserve first', async () => {
  const { all, alice } = await ready();
  const price = COIN / 2n;
  await settle(all, node, 4, alice.voucher(node, 4n * COIN));
  const c = claim({ node, receiptId: NOTHING, payer: alice.address, price, timeMs: (all.chain.time + windowSeconds - 50n) * 1000n });
  pass(all, windowSeconds - 50n);
  await dispute(all, person(5), c, step(TURN.node));
  pass(all, 60n);
  await all.escrow.send(other, 'release', [node, 0]);
  await all.disputes.send(node, 'move', [1, firstState(c), step(TURN.challengerWon)]);
  assert.deepEqual([await all.escrow.read('reserves', node), await all.escrow.read('holds', node)], [0n, 0n]);
  assert.equal(await all.escrow.read('balances', alice.address), price);
});
const firstState = (c) => after(c.digest, step(TURN.node));

test('escrow: a client or node that re-enters while it is paid gains nothing', async () => {
  const { all, chain } = await ready();
  const thief = await chain.deploy('Reentering');
  const forward = (method, args, value = 0n) =>
    thief.send(person(0), 'forward', [all.escrow.address, all.escrow.encode(method, args)], value);
  await forward('deposit', [node], 4n * COIN);
  await forward('requestWithdraw', [node, COIN]);
  pass(all, withdrawSeconds);
  for (const [method, args] of [['withdraw', [node]], ['collect', []], ['release', [node, 0]]]) {
    await thief.send(person(0), 'setReentry', [all.escrow.address, all.escrow.encode(method, args)]);
    await forward('withdraw', [node]);
    assert.equal(await thief.read('nestedSuccesses'), 0n);
    await forward('requestWithdraw', [node, COIN]);
    pass(all, withdrawSeconds);
  }
  assert.equal(await thief.read('nestedFailures'), 3n);
  assert.equal(await chain.balance(thief.address), 3n * COIN);
  assert.equal(await chain.balance(all.escrow.address), 11n * COIN);
  // One that refuses coins keeps its claim.
  const refusing = await chain.deploy('RefusingNode');
  const call = (method, args, value) => refusing.send(person(0), 'forward', [all.escrow.address, all.escrow.encode(method, args)], value);
  await call('deposit', [node], COIN);
  await call('requestWithdraw', [node, COIN]);
  pass(all, withdrawSeconds);
  await assert.rejects(call('withdraw', [node]));
  assert.equal((await all.escrow.read('pocketOf', refusing.address, node)).held, COIN);
});

test('escrow: the voucher digest and type are what wallets sign', async () => {
  const { all, alice } = await ready();
  const [voucher, signature] = alice.voucher(node, 5n);
  const types = { Voucher: [{ name: 'client', type: 'address' }, { name: 'node', type: 'address' }, { name: 'total', type: 'uint256' }] };
  const domain = { name: 'og escrow', version: '1', chainId: 1, verifyingContract: all.escrow.address, salt: GENESIS };
  assert.equal(await alice.wallet.signTypedData(domain, types, voucher), signature);
  const [fields, name, version, chainId, at, salt] = await all.escrow.read('eip712Domain');
  assert.deepEqual([fields, name, version, chainId, at, salt], ['0x1f', 'og escrow', '1', 1n, getAddress(all.escrow.address), GENESIS]);
});

test('escrow: gas', async (t) => {
  const { all, alice } = await ready();
  const gas = {};
  gas.deposit = (await all.escrow.send(alice.address, 'deposit', [other], COIN)).gas;
  const people = [];
  for (let n = 0; n < 256; n++) {
    const c = await client(all, 1000 + n);
    await all.escrow.send(c.address, 'deposit', [node], COIN);
    people.push(c);
  }
  gas.settle1 = (await settle(all, node, 4, alice.voucher(node, COIN))).gas;
  gas.settle256 = (await settle(all, node, 4, ...people.map((c) => c.voucher(node, COIN)))).gas;
  // Forty buckets with one wei, so that a refund looks at all that it may.
  for (let i = 0n; i < 40n; i++) {
    pass(all, 101n);
    await settle(all, node, 4, alice.voucher(node, COIN + 20n * (i + 1n)));
  }
  gas.refund = (await all.escrow.send(await judge(all), 'refund', [node, alice.address, 2n * COIN])).gas;
  gas.requestWithdraw = (await all.escrow.send(alice.address, 'requestWithdraw', [node, 1n])).gas;
  gas.collect = (await all.escrow.send(alice.address, 'collect')).gas;
  pass(all, windowSeconds);
  gas.release = (await all.escrow.send(other, 'release', [node, 0])).gas;
  for (const [name, used] of Object.entries(gas)) {
    t.diagnostic(`${name}: ${used} gas`);
    assert.ok(used < TX_GAS_MAX, `${name}: ${used}`);
  }
});
