import { getAddress } from 'ethers';
import assert from 'node:assert/strict';
import test from 'node:test';
import { Chain, COIN, MIN_STAKE, person, publish, reverts, seeded, SLASHERS, system, TX_GAS_MAX, UNBONDING } from './evm.mjs';

/** Highest price of a token with the stake of the tests. */
const MAX_PRICE = MIN_STAKE / 130n / 131072n;

const node = person(1);
const URL = 'https://n1.example:8443/v1';
const ZERO = `0x${'00'.repeat(20)}`;

async function registered() {
  const all = await system();
  await all.nodes.send(node, 'register', [URL], MIN_STAKE);
  all.model = await publish(all.models, 'a model');
  return all;
}

test('register lists the node and locks its stake', async () => {
  const { chain, nodes } = await system();
  const { events } = await nodes.send(node, 'register', [URL], MIN_STAKE);
  assert.deepEqual([events[0].name, ...events[0].args.slice(1)], ['NodeRegistered', URL, MIN_STAKE]);
  assert.equal(await nodes.read('isActive', node), true);
  assert.equal(await nodes.read('nodeCount'), 1n);
  assert.deepEqual([...(await nodes.read('nodes', 0, 10))].map((a) => a.toLowerCase()), [node]);
  assert.deepEqual([...(await nodes.read('nodeInfo', node))], [URL, MIN_STAKE, true, 0n]);
  assert.equal(await chain.balance(nodes.address), MIN_STAKE);
});

test('registration needs the stake and a clean endpoint', async () => {
  const { chain, nodes } = await system();
  const register = (url, value = MIN_STAKE) => nodes.send(node, 'register', [url], value);
  await reverts(register(URL, MIN_STAKE - 1n), 'StakeTooLow', [MIN_STAKE - 1n, MIN_STAKE]);
  await reverts(register(URL, 0n), 'StakeTooLow');
  await reverts(register(''), 'EmptyEndpoint');
  await reverts(register('x'.repeat(257)), 'TextTooLong', [257n, 256n]);
  await reverts(register('http://a b'), 'TextNotPrintable', [8n]);
  await reverts(register('http://a\u0000'), 'TextNotPrintable', [8n]);
  await reverts(register('http://a\u007f'), 'TextNotPrintable', [8n]);
  assert.equal(await nodes.read('nodeCount'), 0n);
  assert.equal(await chain.balance(nodes.address), 0n);
  await register('x'.repeat(256));
  await reverts(register(URL), 'AlreadyRegistered');
});

test('a stake above 128 bits is rejected', async () => {
  const { chain, nodes } = await system();
  await chain.fund(node, 1n << 130n);
  await reverts(nodes.send(node, 'register', [URL], 1n << 128n), 'StakeTooHigh', [1n << 128n]);
  await nodes.send(node, 'register', [URL], (1n << 128n) - 1n);
  await reverts(nodes.send(node, 'topUp', [], 1n), 'StakeTooHigh', [1n << 128n]);
});

test('coins without a call are refused', async () => {
  const { chain, nodes } = await system();
  await assert.rejects(chain.run({ from: node, to: nodes.address, data: '0x', value: 1n }));
});

test('updateEndpoint and topUp', async () => {
  const { nodes } = await registered();
  const update = await nodes.send(node, 'updateEndpoint', ['https://new.example']);
  assert.deepEqual([update.events[0].name, update.events[0].args[1]], ['EndpointUpdated', 'https://new.example']);
  const added = await nodes.send(node, 'topUp', [], COIN);
  assert.deepEqual([added.events[0].name, ...added.events[0].args.slice(1)], ['StakeAdded', COIN, MIN_STAKE + COIN]);
  assert.deepEqual([...(await nodes.read('nodeInfo', node))], ['https://new.example', MIN_STAKE + COIN, true, 0n]);
  await reverts(nodes.send(node, 'updateEndpoint', ['']), 'EmptyEndpoint');
  await reverts(nodes.send(node, 'updateEndpoint', ['y'.repeat(257)]), 'TextTooLong');
  await reverts(nodes.send(node, 'topUp', [], 0n), 'NoValue');
});

test('strangers can do nothing to or like a node', async () => {
  const { nodes, model } = await registered();
  const stranger = person(2);
  await reverts(nodes.send(stranger, 'updateEndpoint', [URL]), 'NotActive');
  await reverts(nodes.send(stranger, 'topUp', [], COIN), 'NotActive');
  await reverts(nodes.send(stranger, 'setOffer', [model, 1, 1]), 'NotActive');
  await reverts(nodes.send(stranger, 'removeOffer', [model]), 'NotActive');
  await reverts(nodes.send(stranger, 'requestExit'), 'NotActive');
  await reverts(nodes.send(stranger, 'withdraw'), 'ExitNotRequested');
  assert.deepEqual([...(await nodes.read('nodeInfo', stranger))], ['', 0n, false, 0n]);
});

test('offers are listed with prices, changed and removed', async () => {
  const { nodes, model } = await registered();
  const { events } = await nodes.send(node, 'setOffer', [model, 3, MAX_PRICE]);
  assert.deepEqual([events[0].name, ...events[0].args.slice(1)], ['OfferSet', model, 3n, MAX_PRICE]);
  const [offer] = await nodes.read('nodesFor', model, 0, 10);
  assert.deepEqual([offer.node.toLowerCase(), ...[...offer].slice(1)], [node, URL, MIN_STAKE, 3n, MAX_PRICE]);
  await nodes.send(node, 'setOffer', [model, 0, 5]);
  assert.deepEqual([...(await nodes.read('offersOf', node))].map((o) => [...o]), [[model, 0n, 5n]]);
  assert.equal(await nodes.read('nodeCountFor', model), 1n);
  assert.deepEqual([...(await nodes.read('models', 0, 10))], [model]);
  const removed = await nodes.send(node, 'removeOffer', [model]);
  assert.equal(removed.events[0].name, 'OfferRemoved');
  await reverts(nodes.send(node, 'removeOffer', [model]), 'OfferNotFound');
  assert.equal(await nodes.read('nodeCountFor', model), 0n);
  assert.equal(await nodes.read('modelCount'), 0n);
  assert.deepEqual([...(await nodes.read('nodesFor', model, 0, 10))], []);
});

test('no price is above what the smallest stake answers for', async () => {
  const { nodes, model } = await registered();
  assert.equal(await nodes.read('MAX_TOKEN_PRICE'), MAX_PRICE);
  // More stake allows no higher price: what a wrong answer costs is the same for all.
  await nodes.send(node, 'topUp', [], 50n * COIN);
  for (const prices of [[MAX_PRICE + 1n, 0n], [0n, MAX_PRICE + 1n], [(1n << 128n) - 1n, 1n]]) {
    const highest = prices[0] > prices[1] ? prices[0] : prices[1];
    await reverts(nodes.send(node, 'setOffer', [model, ...prices]), 'PriceTooHigh', [highest, MAX_PRICE]);
  }
  assert.equal(await nodes.read('offerCount', node), 0n);
  await nodes.send(node, 'setOffer', [model, MAX_PRICE, MAX_PRICE]);
});

test('only published models can be offered, at most 64', async (t) => {
  const { nodes, models, model } = await registered();
  const unknown = `0x${'77'.repeat(32)}`;
  await reverts(nodes.send(node, 'setOffer', [unknown, 1, 1]), 'UnknownModel', [unknown]);
  await nodes.send(node, 'setOffer', [model, 1, 1]);
  for (let i = 1; i < 64; i++) await nodes.send(node, 'setOffer', [await publish(models, `m${i}`), 1, 1]);
  const extra = await publish(models, 'one too many');
  await reverts(nodes.send(node, 'setOffer', [extra, 1, 1]), 'TooManyOffers', [64n]);
  await nodes.send(node, 'setOffer', [model, 2, 2]);
  const { gas, events } = await nodes.send(node, 'requestExit');
  t.diagnostic(`gas of an exit with 64 offers: ${gas}`);
  assert.ok(gas < TX_GAS_MAX);
  assert.equal(events.filter((e) => e.name === 'OfferRemoved').length, 64);
  assert.equal(await nodes.read('modelCount'), 0n);
  assert.equal(await nodes.read('offerCount', node), 0n);
});

test('exit: not listed at once, stake only after the delay, then gone', async () => {
  const { chain, nodes, model } = await registered();
  await nodes.send(node, 'setOffer', [model, 1, 1]);
  await reverts(nodes.send(node, 'withdraw'), 'ExitNotRequested');
  const { events } = await nodes.send(node, 'requestExit');
  const exitAt = chain.time + UNBONDING;
  assert.deepEqual(events.map((e) => e.name), ['OfferRemoved', 'ExitRequested']);
  assert.equal(events[1].args[1], exitAt);
  assert.equal(await nodes.read('isActive', node), false);
  assert.equal(await nodes.read('nodeCount'), 0n);
  assert.equal(await nodes.read('nodeCountFor', model), 0n);
  await reverts(nodes.send(node, 'requestExit'), 'NotActive');
  await reverts(nodes.send(node, 'register', [URL], MIN_STAKE), 'AlreadyRegistered');
  await reverts(nodes.send(node, 'setOffer', [model, 1, 1]), 'NotActive');
  chain.time = exitAt - 2n;
  await reverts(nodes.send(node, 'withdraw'), 'StillUnbonding', [exitAt]);
  const before = await chain.balance(node);
  chain.time = exitAt - 1n;
  const out = await nodes.send(node, 'withdraw');
  assert.deepEqual([out.events[0].name, out.events[0].args[1]], ['Withdrawn', MIN_STAKE]);
  assert.equal(await chain.balance(node), before + MIN_STAKE);
  assert.equal(await chain.balance(nodes.address), 0n);
  await reverts(nodes.send(node, 'withdraw'), 'ExitNotRequested');
  await nodes.send(node, 'register', [URL], MIN_STAKE);
  assert.equal(await nodes.read('offerCount', node), 0n);
});

test('a node that re-enters while it is paid gains nothing', async () => {
  for (const reentry of ['withdraw', 'requestExit', 'topUp']) {
    const { chain, nodes } = await registered();
    const attacker = await chain.deploy('ReenteringNode', [nodes.address], { value: MIN_STAKE });
    await attacker.send(person(0), 'forward', [nodes.encode('register', [URL]), MIN_STAKE]);
    await attacker.send(person(0), 'forward', [nodes.encode('requestExit'), 0n]);
    chain.time += UNBONDING;
    await attacker.send(person(0), 'setReentry', [nodes.encode(reentry)]);
    await attacker.send(person(0), 'forward', [nodes.encode('withdraw'), 0n]);
    assert.equal(await attacker.read('nestedSuccesses'), 0n);
    const name = nodes.abi.parseError(await attacker.read('nestedError')).name;
    assert.equal(name, reentry === 'withdraw' ? 'ReentrancyGuardReentrantCall' : 'NotActive');
    assert.equal(await chain.balance(attacker.address), MIN_STAKE);
    assert.equal(await chain.balance(nodes.address), MIN_STAKE, 'the stake of the other node');
    assert.equal(await nodes.read('isActive', attacker.address), false);
  }
});

test('a node that refuses coins keeps its claim', async () => {
  const { chain, nodes } = await system();
  const refusing = await chain.deploy('RefusingNode');
  await refusing.send(person(0), 'forward', [nodes.address, nodes.encode('register', [URL])], MIN_STAKE);
  await refusing.send(person(0), 'forward', [nodes.address, nodes.encode('requestExit')]);
  chain.time += UNBONDING;
  await assert.rejects(refusing.send(person(0), 'forward', [nodes.address, nodes.encode('withdraw')]));
  assert.equal((await nodes.read('nodeInfo', refusing.address)).stake, MIN_STAKE);
});

test('paging over many nodes and leaving nodes', async () => {
  const { chain, nodes, model } = await registered();
  const all = Array.from({ length: 120 }, (_, i) => person(1000 + i));
  for (const address of all) {
    await chain.fund(address, 100n * COIN);
    await nodes.send(address, 'register', [URL], MIN_STAKE);
    await nodes.send(address, 'setOffer', [model, 1, 2]);
  }
  assert.equal(await nodes.read('nodeCount'), 121n);
  const names = (list) => list.map((o) => o.node.toLowerCase());
  const first = await nodes.read('nodesFor', model, 0, 1000);
  const rest = await nodes.read('nodesFor', model, 100, 1000);
  assert.deepEqual([...names([...first]), ...names([...rest])], all);
  assert.equal((await nodes.read('nodes', 0, 1000)).length, 100);
  assert.equal((await nodes.read('nodesFor', model, 500, 10)).length, 0);
  assert.equal((await nodes.read('models', 1, 10)).length, 0);
  await nodes.send(all[5], 'requestExit');
  const left = names([...(await nodes.read('nodesFor', model, 0, 100)), ...(await nodes.read('nodesFor', model, 100, 100))]);
  assert.deepEqual(left.sort(), all.filter((a) => a !== all[5]).sort());
});

test('the constructor rejects useless rules', async () => {
  const chain = await Chain.create();
  const year = 365n * 24n * 3600n;
  await reverts(chain.deploy('NodeRegistry', [ZERO, 0n, 1n, ZERO, ZERO]), 'InvalidMinStake', [0n]);
  await reverts(chain.deploy('NodeRegistry', [ZERO, 1n << 128n, 1n, ZERO, ZERO]), 'InvalidMinStake');
  await reverts(chain.deploy('NodeRegistry', [ZERO, 1n, year + 1n, ZERO, ZERO]), 'InvalidUnbonding', [year + 1n]);
  const nodes = await chain.deploy('NodeRegistry', [ZERO, 1n, year, ZERO, ZERO]);
  assert.deepEqual([await nodes.read('MIN_STAKE'), await nodes.read('UNBONDING_SECONDS')], [1n, year]);
});

test('the registry always holds exactly the bonded stake', async () => {
  const { chain, nodes } = await system();
  const bonded = new Map();
  const random = seeded(99);
  let done = 0;
  const attempt = async (call, effect) => call.then(() => { effect(); done += 1; }, (e) => assert.ok(e.revert, e.message));
  for (let i = 0; i < 200; i++) {
    const who = person(random(5));
    const steps = [
      () => attempt(nodes.send(who, 'register', [URL], MIN_STAKE + 1n), () => bonded.set(who, MIN_STAKE + 1n)),
      () => attempt(nodes.send(who, 'topUp', [], 7n), () => bonded.set(who, bonded.get(who) + 7n)),
      () => attempt(nodes.send(who, 'requestExit'), () => {}),
      () => attempt(nodes.send(who, 'withdraw'), () => bonded.delete(who)),
    ];
    await steps[random(4)]();
    chain.time += BigInt(random(1200));
    const total = [...bonded.values()].reduce((a, b) => a + b, 0n);
    assert.equal(await chain.balance(nodes.address), total);
  }
  assert.ok(done > 30, `${done} calls went through`);
});

test('slash: only slashers, at most the stake, and it goes to them', async () => {
  const { chain, nodes } = await registered();
  for (const method of ['slash', 'hold', 'unhold']) {
    const args = [node, 1n];
    await reverts(nodes.send(node, method, args), 'OnlySlasher');
    await reverts(nodes.send(person(0), method, args), 'OnlySlasher');
  }
  await nodes.send(node, 'topUp', [], 5n * COIN);
  for (const slasher of SLASHERS) {
    const { events, values } = await nodes.send(slasher, 'slash', [node, 2n * COIN]);
    assert.deepEqual([values[0], events.map((e) => e.name)], [2n * COIN, ['NodeSlashed']]);
    assert.equal(await chain.balance(slasher), 2n * COIN);
  }
  assert.deepEqual([...(await nodes.read('nodeInfo', node))].slice(1), [MIN_STAKE + COIN, true, 0n]);
  assert.equal((await nodes.send(SLASHERS[0], 'slash', [person(5), COIN])).values[0], 0n);
  assert.equal((await nodes.send(SLASHERS[0], 'slash', [node, 0n])).values[0], 0n);
});

test('slash: a node below the minimal stake leaves the lists', async () => {
  const { chain, nodes, model } = await registered();
  await nodes.send(node, 'setOffer', [model, 1, 2]);
  const { events } = await nodes.send(SLASHERS[0], 'slash', [node, 1n]);
  assert.deepEqual(events.map((e) => e.name), ['NodeSlashed', 'OfferRemoved', 'ExitRequested']);
  assert.deepEqual([...(await nodes.read('nodeInfo', node))].slice(1), [MIN_STAKE - 1n, false, chain.time - 1n + UNBONDING]);
  assert.deepEqual([await nodes.read('nodeCount'), await nodes.read('nodeCountFor', model)], [0n, 0n]);
  const exitAt = (await nodes.read('nodeInfo', node)).exitAt;
  chain.time += 50n;
  await nodes.send(SLASHERS[0], 'slash', [node, 1n]);
  assert.equal((await nodes.read('nodeInfo', node)).exitAt, exitAt);
  await reverts(nodes.send(node, 'withdraw'), 'StillUnbonding');
  chain.time += UNBONDING;
  const { events: out } = await nodes.send(node, 'withdraw');
  assert.equal(out[0].args[1], MIN_STAKE - 2n);
  assert.equal((await nodes.send(SLASHERS[0], 'slash', [node, 1n])).values[0], 0n);
});

test('slash: who lost all, active or unbonding, may register again', async () => {
  const { chain, nodes } = await registered();
  assert.equal((await nodes.send(SLASHERS[1], 'slash', [node, 1n << 200n])).values[0], MIN_STAKE);
  assert.deepEqual([...(await nodes.read('nodeInfo', node))], ['', 0n, false, 0n]);
  await reverts(nodes.send(node, 'withdraw'), 'ExitNotRequested');
  await nodes.send(node, 'register', [URL], MIN_STAKE);
  await nodes.send(node, 'requestExit');
  await nodes.send(SLASHERS[1], 'slash', [node, MIN_STAKE]);
  await nodes.send(node, 'register', [URL], MIN_STAKE);
  assert.equal(await nodes.read('isActive', node), true);
  assert.equal(await chain.balance(nodes.address), MIN_STAKE);
});

test('hold: that much of the stake stays, and the rest is paid', async () => {
  const { chain, nodes } = await registered();
  await nodes.send(SLASHERS[0], 'hold', [node, 2n * COIN]);
  await nodes.send(SLASHERS[1], 'hold', [node, COIN]);
  await nodes.send(node, 'requestExit');
  chain.time += UNBONDING;
  const { events } = await nodes.send(node, 'withdraw');
  assert.equal(events[0].args[1], MIN_STAKE - 3n * COIN);
  const stake = async () => (await nodes.read('nodeInfo', node)).stake;
  assert.deepEqual([await stake(), await chain.balance(nodes.address)], [3n * COIN, 3n * COIN]);
  await reverts(nodes.send(node, 'withdraw'), 'Held', [getAddress(node), 3n * COIN]);
  // It is still the node's stake: it can be slashed, and the node cannot register again.
  await reverts(nodes.send(node, 'register', [URL], MIN_STAKE), 'AlreadyRegistered');
  await nodes.send(SLASHERS[0], 'slash', [node, COIN]);
  await nodes.send(SLASHERS[0], 'unhold', [node, 2n * COIN]);
  assert.equal((await nodes.send(node, 'withdraw')).events[0].args[1], COIN);
  await reverts(nodes.send(node, 'withdraw'), 'Held', [getAddress(node), COIN]);
  await nodes.send(SLASHERS[1], 'unhold', [node, COIN]);
  await assert.rejects(nodes.send(SLASHERS[1], 'unhold', [node, 1n]));
  await nodes.send(node, 'withdraw');
  assert.equal(await chain.balance(nodes.address), 0n);
  await nodes.send(node, 'register', [URL], MIN_STAKE);
});

test('hold: more than the stake holds all of it', async () => {
  const { chain, nodes } = await registered();
  await nodes.send(SLASHERS[0], 'hold', [node, 2n * MIN_STAKE]);
  await nodes.send(node, 'requestExit');
  chain.time += UNBONDING;
  await reverts(nodes.send(node, 'withdraw'), 'Held', [getAddress(node), MIN_STAKE]);
});

test('slash of a node with all offers fits into a transaction', async (t) => {
  const { models, nodes } = await registered();
  for (let i = 0; i < 64; i++) await nodes.send(node, 'setOffer', [await publish(models, `m${i}`), 1, 1]);
  const { gas } = await nodes.send(SLASHERS[0], 'slash', [node, 1n]);
  t.diagnostic(`slash with 64 offers: ${gas} gas`);
  assert.ok(gas < TX_GAS_MAX / 2n, `${gas}`);
});
