import { AbiCoder, keccak256, toBeHex } from 'ethers';
import assert from 'node:assert/strict';
import test from 'node:test';
import {
  ARTIFACTS, Chain, COIN, MIN_STAKE, person, reverts, seeded, SYSTEM, SYSTEM_GAS, TX_GAS_MAX, UNBONDING,
} from './evm.mjs';

const POSSESSION = '0x0000000000000000000000000000000000000a01';
const EQUIVOCATION = '0x0000000000000000000000000000000000000a02';
const ZERO = `0x${'00'.repeat(20)}`;
const YES = toBeHex(1, 32);
const JAIL = 600n;
const REWARD = 2n * COIN;

const RULES = {
  minStake: MIN_STAKE, unbondingSeconds: UNBONDING, maxValidators: 4n, rewardPerBlock: REWARD, slashPercent: 20n,
  jailSeconds: JAIL, missPercent: 50n, minTurns: 10n,
};

/** Keys with a number. */
const peerKey = (n) => toBeHex(0xbb00000000n + BigInt(n), 32);
const voteKey = (n) => toBeHex(0xcc00000000n + BigInt(n), 96);
const voteHash = (n) => keccak256(voteKey(n));
const PROOF = `0x${'ab'.repeat(48)}`;
/** Evidence that the mock precompile accepts: what it proves, without any proof. */
const evidence = (n, epoch = 3, view = 9) =>
  AbiCoder.defaultAbiCoder().encode(['bytes32', 'uint64', 'uint64'], [voteHash(n), epoch, view]);

/** What the precompile sees for a registration: vote key, proof, peer key, operator. */
const possessionInput = (operator, peer, vote) => vote + PROOF.slice(2) + peer.slice(2) + operator.slice(2).toLowerCase();

/** Mocks: the right proof is valid for everybody, and evidence is what it says. */
function mocks() {
  return {
    [POSSESSION]: (input) => (input.length === 2 + 2 * 196 && input.slice(2 + 2 * 96, 2 + 2 * 144) === PROOF.slice(2) ? YES : toBeHex(0, 32)),
    [EQUIVOCATION]: (input) => (input.length === 2 + 2 * 96 ? input : '0x'),
  };
}

/** Genesis validators person(1) to person(count), with keys of the same numbers. */
const genesisSet = (count, stake = (n) => MIN_STAKE + BigInt(n)) => Array.from({ length: count }, (_, i) => (
  { operator: person(i + 1), peer: peerKey(i + 1), vote: voteKey(i + 1), possession: PROOF, stake: stake(i + 1) }));

async function deploy(chain, { rules = {}, set = genesisSet(4), funded } = {}) {
  const needed = set.reduce((sum, v) => sum + v.stake, 0n);
  return chain.deploy('Staking', [{ ...RULES, ...rules }, set], { funded: funded ?? needed });
}

/** Five validators: the smallest set in which somebody can be jailed. */
const FIVE = { rules: { maxValidators: 5n }, set: genesisSet(5) };

/** A chain with the contract and mocks that a test can replace. */
async function network(options = {}) {
  const precompiles = mocks();
  const live = Object.fromEntries(Object.keys(precompiles).map((at) => [at, (input) => precompiles[at](input)]));
  const chain = await Chain.create({ precompiles: live });
  const staking = await deploy(chain, options);
  return { chain, staking, precompiles };
}

const register = (staking, n, value = MIN_STAKE, key = n) =>
  staking.send(person(n), 'register', [peerKey(key), voteKey(key), PROOF], value);
/** Ends the epoch some blocks later, so that whoever registered or added stake can be chosen. */
const endEpoch = (staking) => {
  staking.chain.number += 50n;
  return staking.send(SYSTEM, 'endEpoch');
};
const names = (events) => events.map((e) => e.name);
/** Numbers of the active persons. */
const activeOf = (set) => [...set].map((v) => Number(BigInt(v.operator) - 0xa0000000n));
const active = async (staking) => activeOf(await staking.read('active'));
/** `proposed` and `missed` turns of one validator. */
async function turns(staking, index, proposed, missed) {
  for (let i = 0; i < proposed; i++) await staking.send(SYSTEM, 'beginBlock', [index, []]);
  await staking.send(SYSTEM, 'beginBlock', [1n << 255n, Array(missed).fill(index)]);
}

test('genesis: rules, active set, candidates', async () => {
  const { chain, staking } = await network();
  const getters = ['MIN_STAKE', 'UNBONDING_SECONDS', 'MAX_VALIDATORS', 'REWARD_PER_BLOCK', 'SLASH_PERCENT', 'JAIL_SECONDS', 'MISS_PERCENT', 'MIN_TURNS'];
  const values = [];
  for (const getter of getters) values.push(await staking.read(getter));
  assert.deepEqual(values, Object.values(RULES));
  assert.equal(await staking.read('epoch'), 0n);
  assert.equal((await staking.read('SYSTEM')).toLowerCase(), SYSTEM);
  const set = [...(await staking.read('active'))].map((v) => [v.operator.toLowerCase(), v.peer, v.vote]);
  assert.deepEqual(set, [1, 2, 3, 4].map((n) => [person(n), peerKey(n), voteKey(n)]));
  assert.equal(await staking.read('candidateCount'), 4n);
  const [first] = await staking.read('candidates', 0, 10);
  assert.deepEqual([first.operator.toLowerCase(), ...[...first].slice(1)], [person(1), peerKey(1), MIN_STAKE + 1n, true, 0n, 0n, false]);
  const entry = await staking.read('validator', person(4));
  assert.deepEqual([entry.stake, entry.sequence, entry.jailedUntil, entry.active], [MIN_STAKE + 4n, 4n, 0n, true]);
  assert.deepEqual([entry.payout.toLowerCase(), entry.exitAt, entry.exiting, entry.tombstoned], [person(4), 0n, false, false]);
  assert.deepEqual([entry.peer, entry.vote], [peerKey(4), voteKey(4)]);
  assert.equal(await chain.balance(staking.address), 4n * MIN_STAKE + 10n);
});

test('the code fits into a contract', () => {
  const size = (ARTIFACTS.Staking.deployedBytecode.length - 2) / 2;
  assert.ok(size < 24576, `${size} bytes`);
});

test('the constructor rejects useless rules', async () => {
  const chain = await Chain.create();
  const wrong = (rules, name, args) => reverts(deploy(chain, { rules }), name, args);
  await wrong({ minStake: 0n }, 'InvalidMinStake', [0n]);
  await wrong({ minStake: 1n << 128n }, 'InvalidMinStake');
  await wrong({ unbondingSeconds: 365n * 86400n + 1n }, 'InvalidUnbonding');
  await wrong({ maxValidators: 0n }, 'InvalidMaxValidators', [0n]);
  await wrong({ maxValidators: 129n }, 'InvalidMaxValidators', [129n]);
  await wrong({ rewardPerBlock: 1n << 128n }, 'InvalidReward');
  for (const percent of [0n, 101n]) {
    await wrong({ slashPercent: percent }, 'InvalidPercent', [percent]);
    await wrong({ missPercent: percent }, 'InvalidPercent', [percent]);
  }
  await wrong({ jailSeconds: 30n * 86400n + 1n }, 'InvalidJail');
  await wrong({ minTurns: 0n }, 'InvalidMinTurns');
  await deploy(chain, {
    rules: {
      minStake: 1n, unbondingSeconds: 365n * 86400n, maxValidators: 128n, rewardPerBlock: 0n, slashPercent: 100n,
      jailSeconds: 30n * 86400n, missPercent: 100n, minTurns: 1n,
    },
  });
});

test('the constructor rejects a bad genesis set', async () => {
  const chain = await Chain.create();
  const wrong = (change, name, args) => {
    const set = genesisSet(4);
    return reverts(deploy(chain, { set: change(set) ?? set }), name, args);
  };
  await wrong(() => [], 'InvalidGenesisCount', [0n]);
  await wrong(() => genesisSet(5), 'InvalidGenesisCount', [5n]);
  await wrong((set) => set.reverse(), 'GenesisNotSorted', [1n]);
  await wrong((set) => { set[2].peer = set[1].peer; }, 'GenesisNotSorted', [2n]);
  await wrong((set) => { set[0].peer = toBeHex(0, 32); }, 'GenesisNotSorted', [0n]);
  await wrong((set) => { set[1].operator = ZERO; }, 'ZeroAddress');
  await wrong((set) => { set[1].operator = set[0].operator; }, 'AlreadyRegistered');
  await wrong((set) => { set[3].vote = set[0].vote; }, 'VoteUsed', [voteHash(1)]);
  await wrong((set) => { set[3].vote = '0x01'; }, 'InvalidVoteLength', [1n]);
  await wrong((set) => { set[3].stake = MIN_STAKE - 1n; }, 'StakeTooLow');
  await wrong((set) => { set[3].stake = 1n << 128n; }, 'StakeTooHigh');
  const needed = 4n * MIN_STAKE + 10n;
  await reverts(deploy(chain, { funded: needed - 1n }), 'GenesisNotFunded', [needed - 1n, needed]);
  await deploy(chain, { funded: needed + 1n });
});

test('register: the precompile sees keys, proof and sender, the stake is locked, the next epoch has the validator', async () => {
  const { chain, staking, precompiles } = await network();
  const seen = [];
  precompiles[POSSESSION] = (input) => { seen.push(input); return YES; };
  const { events } = await register(staking, 5, 3n * MIN_STAKE);
  assert.deepEqual(seen, [possessionInput(person(5), peerKey(5), voteKey(5))]);
  assert.equal(seen[0].length, 2 + 2 * 196);
  assert.equal(events[0].name, 'Registered');
  assert.deepEqual(events[0].args.slice(1), [peerKey(5), voteKey(5), 3n * MIN_STAKE]);
  assert.equal(await staking.read('candidateCount'), 5n);
  assert.deepEqual(await active(staking), [1, 2, 3, 4]);
  assert.equal(await chain.balance(staking.address), 7n * MIN_STAKE + 10n);
  const ended = await endEpoch(staking);
  assert.deepEqual(activeOf(ended.values.next), [2, 3, 4, 5]);
  assert.deepEqual(await active(staking), [2, 3, 4, 5]);
  assert.deepEqual(ended.events.at(-1), { address: staking.address, name: 'EpochEnded', args: [0n, 4n] });
  assert.equal(await staking.read('epoch'), 1n);
  assert.equal((await staking.read('validator', person(1))).active, false);
});

test('register: a copied registration fails, and the keys stay usable', async () => {
  const { staking, precompiles } = await network();
  // The proof is good for this sender and peer key only.
  const signed = possessionInput(person(5), peerKey(5), voteKey(5));
  precompiles[POSSESSION] = (input) => (input === signed ? YES : toBeHex(0, 32));
  await reverts(register(staking, 6, MIN_STAKE, 5), 'InvalidPossession');
  await reverts(staking.send(person(5), 'register', [peerKey(6), voteKey(5), PROOF], MIN_STAKE), 'InvalidPossession');
  assert.equal(await staking.read('candidateCount'), 4n);
  await register(staking, 5);
  const { operator, peer } = (await staking.read('candidates', 4, 1))[0];
  assert.deepEqual([operator.toLowerCase(), peer], [person(5), peerKey(5)]);
});

test('register: every error', async () => {
  const { chain, staking, precompiles } = await network();
  const send = (args, value = MIN_STAKE) => staking.send(person(5), 'register', args, value);
  const good = [peerKey(5), voteKey(5), PROOF];
  await reverts(send(good, MIN_STAKE - 1n), 'StakeTooLow', [MIN_STAKE - 1n, MIN_STAKE]);
  await chain.fund(person(5), 1n << 130n);
  await reverts(send(good, 1n << 128n), 'StakeTooHigh', [1n << 128n]);
  await reverts(send([toBeHex(0, 32), good[1], PROOF]), 'InvalidPeer');
  for (const length of [0, 95, 97]) {
    await reverts(send([good[0], `0x${'11'.repeat(length)}`, PROOF]), 'InvalidVoteLength', [BigInt(length)]);
  }
  await reverts(send([peerKey(1), voteKey(5), PROOF]), 'PeerUsed', [peerKey(1)]);
  await reverts(send([peerKey(5), voteKey(1), PROOF]), 'VoteUsed', [voteHash(1)]);
  await reverts(register(staking, 1, MIN_STAKE, 5), 'AlreadyRegistered');
  for (const length of [0, 47, 49]) {
    await reverts(send([good[0], good[1], `0x${'ab'.repeat(length)}`]), 'InvalidPossession');
  }
  const answers = ['0x', toBeHex(0, 32), toBeHex(2, 32), toBeHex((1n << 255n) + 1n, 32), toBeHex(1, 31), toBeHex(1, 64), YES + '00', undefined];
  for (const answer of answers) {
    precompiles[POSSESSION] = () => answer;
    await reverts(send(good), 'InvalidPossession');
  }
  assert.equal(await staking.read('candidateCount'), 4n);
  precompiles[POSSESSION] = () => YES;
  await send(good);
});

test('without precompiles nobody can register or be slashed', async () => {
  const chain = await Chain.create();
  const staking = await deploy(chain);
  await reverts(register(staking, 5), 'InvalidPossession');
  await reverts(staking.send(person(5), 'reportEquivocation', [evidence(1)]), 'InvalidEvidence');
});

test('coins without a call are refused', async () => {
  const { chain, staking } = await network();
  await assert.rejects(chain.run({ from: person(5), to: staking.address, data: '0x', value: 1n }));
});

test('addStake counts from the next epoch on', async () => {
  const { chain, staking } = await network();
  await register(staking, 5);
  assert.deepEqual(activeOf((await endEpoch(staking)).values.next), [1, 2, 3, 4]);
  const { events } = await staking.send(person(5), 'addStake', [], COIN);
  assert.deepEqual([events[0].name, ...events[0].args.slice(1)], ['StakeAdded', COIN, MIN_STAKE + COIN]);
  assert.deepEqual(activeOf((await endEpoch(staking)).values.next), [2, 3, 4, 5]);
  await reverts(staking.send(person(5), 'addStake', [], 0n), 'NoValue');
  await reverts(staking.send(person(6), 'addStake', [], 1n), 'NotCandidate');
  await chain.fund(person(5), 1n << 130n);
  await reverts(staking.send(person(5), 'addStake', [], 1n << 128n), 'StakeTooHigh');
  await staking.send(person(5), 'requestExit');
  await reverts(staking.send(person(5), 'addStake', [], 1n), 'NotCandidate');
});

test('the highest stakes are chosen, ties by registration, sorted by peer, one at a time', async () => {
  const { staking } = await network({ rules: { maxValidators: 3n }, set: genesisSet(3, () => MIN_STAKE) });
  const next = async () => activeOf((await endEpoch(staking)).values.next);
  // The keys are in another order than the registrations.
  for (const [n, stake, key] of [[9, 2n, 50], [5, 2n, 40], [7, 3n, 30], [6, 2n, 20], [8, 1n, 10]]) {
    await register(staking, n, MIN_STAKE + stake, key);
  }
  for (const set of [[1, 2, 7], [1, 7, 9], [7, 5, 9], [7, 5, 9]]) assert.deepEqual(await next(), set);
  await staking.send(person(6), 'addStake', [], 1n);
  assert.deepEqual(await next(), [6, 7, 9]);
  await staking.send(person(9), 'requestExit');
  await staking.send(person(7), 'requestExit');
  assert.deepEqual(await active(staking), [6, 7, 9]);
  for (const set of [[6, 7, 5], [8, 6, 5]]) assert.deepEqual(await next(), set);
});

test('few may leave at once: jailed, then exiting, then outranked ones, the lowest stake first', async () => {
  // Of equal stakes, the later registration leaves first.
  const stakes = [0, 5, 7, 2, 2, 9, 1, 8, 4];
  const set = genesisSet(8, (n) => MIN_STAKE + BigInt(stakes[n]));
  const { chain, staking } = await network({ rules: { maxValidators: 8n }, set });
  for (const n of [21, 22, 23]) {
    await chain.fund(person(n), 100n * COIN);
    await register(staking, n, 2n * MIN_STAKE + BigInt(n));
  }
  const next = async () => {
    const { values, events } = await endEpoch(staking);
    const left = events.filter((e) => e.name === 'UnbondingStarted').map((e) => Number(BigInt(e.args[0]) - 0xa0000000n));
    return [activeOf(values.next), left];
  };
  // 5 is jailed; 1, 2 and 7 exit; 6 and 3 would be outranked. Two may leave: 5 and 1.
  for (const n of [7, 2, 1]) await staking.send(person(n), 'requestExit');
  await turns(staking, 4, 0, 10);
  assert.deepEqual(await next(), [[2, 3, 4, 6, 7, 8, 22, 23], [1]]);
  const exitAt = chain.time + UNBONDING;
  for (const n of [2, 7]) {
    await reverts(staking.send(person(n), 'withdraw'), 'StillActive');
    assert.equal((await staking.read('validator', person(n))).exitAt, 0n);
  }
  await staking.send(person(23), 'requestExit');
  assert.deepEqual(await next(), [[3, 4, 6, 8, 21, 22, 23], [2, 7]]);
  assert.deepEqual(await next(), [[3, 4, 6, 8, 21, 22], [23]]);
  // Later epochs did not move the first clock.
  assert.equal((await staking.read('validator', person(1))).exitAt, exitAt);
  chain.time += UNBONDING;
  for (const n of [1, 2, 7, 23]) await staking.send(person(n), 'withdraw');
});

test('few may be outranked at once, ties by registration', async () => {
  const { chain, staking } = await network({ rules: { maxValidators: 8n }, set: genesisSet(8, () => MIN_STAKE) });
  for (let n = 21; n <= 28; n++) {
    await chain.fund(person(n), 100n * COIN);
    await register(staking, n, MIN_STAKE + BigInt(n));
  }
  for (const left of [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4], [1, 2], []]) {
    const joined = [28, 27, 26, 25, 24, 23, 22, 21].slice(0, 8 - left.length).reverse();
    assert.deepEqual(activeOf((await endEpoch(staking)).values.next), [...left, ...joined]);
  }
});

test('slashed members leave at once, and others beside them', async () => {
  const { staking } = await network({ rules: { maxValidators: 8n }, set: genesisSet(8) });
  for (const n of [1, 2, 3]) await staking.send(person(n), 'requestExit');
  for (const n of [3, 5, 6, 7]) await staking.send(person(9), 'reportEquivocation', [evidence(n)]);
  const { values, events } = await endEpoch(staking);
  assert.deepEqual(activeOf(values.next), [4, 8]);
  assert.equal(events.filter((e) => e.name === 'UnbondingStarted').length, 6);
});

test('fewer than a third may join at once, in small sets one', async () => {
  const { staking } = await network({ rules: { maxValidators: 16n }, set: genesisSet(1, () => MIN_STAKE) });
  for (let n = 2; n <= 9; n++) await register(staking, n, MIN_STAKE + BigInt(n));
  for (const joined of [[9], [8], [7], [6], [4, 5], [2, 3]]) {
    const before = await active(staking);
    const set = [...before, ...joined].sort((a, b) => a - b);
    assert.deepEqual(activeOf((await endEpoch(staking)).values.next), set, 'nobody is outranked while there is room');
    assert.ok(joined.length === 1 || 3 * joined.length < set.length);
  }
});

test('exit of an inactive candidate: the delay starts at once', async () => {
  const { chain, staking } = await network();
  await register(staking, 5);
  await reverts(staking.send(person(5), 'withdraw'), 'ExitNotRequested');
  await reverts(staking.send(person(6), 'withdraw'), 'ExitNotRequested');
  const { events } = await staking.send(person(5), 'requestExit');
  const exitAt = chain.time + UNBONDING;
  assert.deepEqual([events[0].name, events[0].args[1]], ['ExitRequested', exitAt]);
  assert.equal(await staking.read('candidateCount'), 4n);
  await reverts(staking.send(person(5), 'requestExit'), 'NotCandidate');
  await reverts(register(staking, 5, MIN_STAKE, 6), 'AlreadyRegistered');
  chain.time = exitAt - 2n;
  await reverts(staking.send(person(5), 'withdraw'), 'StillUnbonding', [exitAt]);
  const before = await chain.balance(person(5));
  chain.time = exitAt - 1n;
  const out = await staking.send(person(5), 'withdraw');
  assert.deepEqual([out.events[0].name, out.events[0].args[1]], ['Withdrawn', MIN_STAKE]);
  assert.equal(await chain.balance(person(5)), before + MIN_STAKE);
  assert.equal(await chain.balance(staking.address), 4n * MIN_STAKE + 10n);
  await reverts(staking.send(person(5), 'withdraw'), 'ExitNotRequested');
  // Back with new keys only, and the old key no longer answers for the new stake.
  await reverts(register(staking, 5), 'PeerUsed');
  await reverts(staking.send(person(5), 'register', [peerKey(55), voteKey(5), PROOF], MIN_STAKE), 'VoteUsed');
  await reverts(staking.send(person(6), 'reportEquivocation', [evidence(5)]), 'UnknownVoteKey', [voteHash(5)]);
  await register(staking, 5, MIN_STAKE, 55);
  await reverts(staking.send(person(6), 'reportEquivocation', [evidence(5)]), 'UnknownVoteKey', [voteHash(5)]);
  await staking.send(person(6), 'reportEquivocation', [evidence(55)]);
});

test('exit of an active validator: the delay starts at the endEpoch that removes it', async () => {
  const { chain, staking } = await network();
  const { events } = await staking.send(person(2), 'requestExit');
  assert.deepEqual([events[0].name, events[0].args[1]], ['ExitRequested', 0n]);
  chain.time += 10n * UNBONDING;
  await reverts(staking.send(person(2), 'withdraw'), 'StillActive');
  assert.deepEqual(await active(staking), [1, 2, 3, 4]);
  const ended = await endEpoch(staking);
  const exitAt = chain.time + UNBONDING;
  assert.deepEqual(activeOf(ended.values.next), [1, 3, 4]);
  assert.deepEqual([ended.events[0].name, ended.events[0].args[1]], ['UnbondingStarted', exitAt]);
  chain.time = exitAt - 2n;
  await reverts(staking.send(person(2), 'withdraw'), 'StillUnbonding', [exitAt]);
  // Later epochs do not move the clock.
  chain.time = exitAt - 2n;
  assert.deepEqual(names((await endEpoch(staking)).events), ['EpochEnded']);
  await staking.send(person(2), 'withdraw');
});

test('the last member goes on until somebody joins, and its stake stays locked', async () => {
  const { chain, staking } = await network();
  for (const n of [1, 2, 3, 4]) await staking.send(person(n), 'requestExit');
  for (const set of [[2, 3, 4], [3, 4], [4]]) {
    const { values, events } = await endEpoch(staking);
    assert.deepEqual(activeOf(values.next), set);
    assert.deepEqual(names(events), ['UnbondingStarted', 'EpochEnded']);
  }
  for (let i = 0; i < 2; i++) {
    const { values, events } = await endEpoch(staking);
    assert.deepEqual(activeOf(values.next), [4]);
    assert.deepEqual(names(events), ['EpochEnded']);
    chain.time += 2n * UNBONDING;
    await reverts(staking.send(person(4), 'withdraw'), 'StillActive');
  }
  for (const n of [1, 2, 3]) await staking.send(person(n), 'withdraw');
  await register(staking, 5);
  const { values, events } = await endEpoch(staking);
  assert.deepEqual(activeOf(values.next), [5]);
  assert.deepEqual(names(events), ['UnbondingStarted', 'EpochEnded']);
  chain.time += UNBONDING;
  await staking.send(person(4), 'withdraw');
  assert.equal(await chain.balance(staking.address), MIN_STAKE);
});

test('when all others were slashed, the rest goes on; when all were, all do', async () => {
  const { staking } = await network();
  await staking.send(person(4), 'requestExit');
  for (const n of [1, 2, 3]) await staking.send(person(8), 'reportEquivocation', [evidence(n)]);
  assert.deepEqual(activeOf((await endEpoch(staking)).values.next), [4]);
  await staking.send(person(8), 'reportEquivocation', [evidence(4)]);
  const { values, events } = await endEpoch(staking);
  assert.deepEqual(activeOf(values.next), [4]);
  assert.deepEqual(names(events), ['EpochEnded']);
  await reverts(staking.send(person(4), 'withdraw'), 'StillActive');
  await register(staking, 5);
  assert.deepEqual(activeOf((await endEpoch(staking)).values.next), [5]);
});

test('a full list: a newcomer displaces the lowest stake that is not active', async (t) => {
  // The active one has the lowest stake of all.
  const { chain, staking } = await network({ rules: { maxValidators: 1n }, set: genesisSet(1, () => MIN_STAKE) });
  const stakeOf = (n) => (n === 120 || n === 200 ? MIN_STAKE : MIN_STAKE + MIN_STAKE / 5n);
  for (let n = 101; n <= 355; n++) {
    await chain.fund(person(n), 100n * COIN);
    await register(staking, n, stakeOf(n));
  }
  assert.equal(await staking.read('candidateCount'), 256n);
  assert.equal((await staking.read('candidates', 0, 1000)).length, 100);
  assert.equal((await staking.read('candidates', 200, 100)).length, 56);
  assert.equal((await staking.read('candidates', 256, 100)).length, 0);
  // Equals displace nobody, and a little more is not enough.
  const toBeat = MIN_STAKE + MIN_STAKE / 10n;
  for (const stake of [MIN_STAKE, toBeat]) await reverts(register(staking, 5, stake), 'CandidatesFull', [toBeat]);
  // Of two equal ones, the later registration goes.
  const { events, gas } = await register(staking, 5, toBeat + 1n);
  const exitAt = chain.time;
  t.diagnostic(`gas of a displacement among 256 candidates: ${gas}`);
  assert.ok(gas < TX_GAS_MAX);
  assert.deepEqual(names(events), ['ExitRequested', 'Registered']);
  assert.deepEqual([events[0].args[0].toLowerCase(), events[0].args[1]], [person(200), exitAt]);
  assert.equal(await staking.read('candidateCount'), 256n);
  await reverts(staking.send(person(200), 'addStake', [], COIN), 'NotCandidate');
  // It never voted, so it waits for nothing.
  await staking.send(person(200), 'withdraw');
  await register(staking, 6, toBeat + 1n);
  assert.equal((await staking.read('validator', person(120))).exiting, true);
  const next = (toBeat + 1n) * 11n / 10n;
  await reverts(register(staking, 7, next), 'CandidatesFull', [next]);
  assert.equal((await staking.read('validator', person(1))).exiting, false, 'the active one stays');
  // The displaced one can be slashed, and withdraw.
  await staking.send(person(7), 'reportEquivocation', [evidence(120)]);
  const out = await staking.send(person(120), 'withdraw');
  assert.equal(out.events[0].args[1], MIN_STAKE - MIN_STAKE / 5n);
  // A place that became free needs no displacement.
  await staking.send(person(130), 'requestExit');
  assert.deepEqual(names((await register(staking, 7)).events), ['Registered']);
});

test('a displaced candidate that has voted waits as long as others that leave', async () => {
  const { chain, staking } = await network({ rules: { maxValidators: 2n }, set: genesisSet(2, () => MIN_STAKE) });
  await register(staking, 5, MIN_STAKE + COIN);
  await endEpoch(staking);
  assert.deepEqual(await active(staking), [1, 5]);
  for (let n = 101; n <= 353; n++) {
    await chain.fund(person(n), 100n * COIN);
    await register(staking, n, MIN_STAKE + COIN);
  }
  const { events } = await register(staking, 6, 2n * MIN_STAKE);
  assert.deepEqual([events[0].args[0].toLowerCase(), events[0].args[1]], [person(2), chain.time + UNBONDING]);
  await reverts(staking.send(person(2), 'withdraw'), 'StillUnbonding');
});

test('only the chain itself counts turns and ends epochs', async () => {
  const { staking } = await network();
  for (const who of [person(0), person(1)]) {
    await reverts(staking.send(who, 'beginBlock', [0, []]), 'OnlySystem');
    await reverts(staking.send(who, 'endEpoch'), 'OnlySystem');
  }
  assert.deepEqual([...(await staking.read('stats', 0))], [0n, 0n]);
});

test('beginBlock counts turns and ignores what is not in the set', async () => {
  const { staking } = await network();
  const max = (1n << 256n) - 1n;
  await staking.send(SYSTEM, 'beginBlock', [2, [0, 0, 3, 4, max, 1n << 128n]]);
  await staking.send(SYSTEM, 'beginBlock', [2, []]);
  await staking.send(SYSTEM, 'beginBlock', [4, [3]]);
  await staking.send(SYSTEM, 'beginBlock', [max, [max]]);
  const all = [];
  for (const i of [0, 1, 2, 3, 4, max]) all.push([...(await staking.read('stats', i))]);
  assert.deepEqual(all, [[0n, 2n], [0n, 0n], [2n, 0n], [0n, 2n], [0n, 0n], [0n, 0n]]);
  await staking.send(SYSTEM, 'beginBlock', [0, Array(5000).fill(1)]);
  assert.deepEqual([...(await staking.read('stats', 1))], [0n, 4096n]);
  await endEpoch(staking);
  for (const i of [0, 1, 2, 3]) assert.deepEqual([...(await staking.read('stats', i))], [0n, 0n]);
});

test('rewards go to the payout addresses of the proposers', async () => {
  const { chain, staking } = await network();
  const { events } = await staking.send(person(3), 'setPayout', [person(9)]);
  assert.deepEqual([events[0].name, events[0].args[1].toLowerCase()], ['PayoutSet', person(9)]);
  await reverts(staking.send(person(3), 'setPayout', [ZERO]), 'ZeroAddress');
  await reverts(staking.send(person(5), 'setPayout', [person(9)]), 'NotRegistered');
  await turns(staking, 0, 1, 3);
  await turns(staking, 2, 3, 0);
  const before = await chain.balance(staking.address);
  const { values } = await endEpoch(staking);
  assert.deepEqual(values.rewards.map((r) => [r.to.toLowerCase(), r.amount]), [[person(1), REWARD], [person(9), 3n * REWARD]]);
  assert.equal(await chain.balance(staking.address), before, 'the chain mints, the contract pays nothing');
  assert.equal((await endEpoch(staking)).values.rewards.length, 0);
});

test('jail: needs enough turns and more than the share of missed ones', async () => {
  const { staking } = await network(FIVE);
  await turns(staking, 0, 0, 9);
  assert.deepEqual(names((await endEpoch(staking)).events), ['EpochEnded']);
  await turns(staking, 0, 5, 5);
  assert.deepEqual(names((await endEpoch(staking)).events), ['EpochEnded']);
  await turns(staking, 0, 5, 6);
  const { events, values } = await endEpoch(staking);
  assert.deepEqual(names(events), ['Jailed', 'EpochEnded']);
  assert.deepEqual(events[0].args.slice(2), [5n, 6n]);
  assert.deepEqual(activeOf(values.next), [2, 3, 4, 5]);
  assert.deepEqual(values.rewards.map((r) => r.amount), [5n * REWARD], 'what was earned is paid');
});

test('jail: the stake stays, unjail after the time only', async () => {
  const { chain, staking } = await network(FIVE);
  await reverts(staking.send(person(2), 'unjail'), 'NotJailed');
  await reverts(staking.send(person(9), 'unjail'), 'NotJailed');
  await turns(staking, 1, 0, 10);
  await endEpoch(staking);
  const until = chain.time + JAIL;
  const entry = await staking.read('validator', person(2));
  assert.deepEqual([entry.stake, entry.jailedUntil, entry.active, entry.exiting], [MIN_STAKE + 2n, until, false, false]);
  assert.equal(await staking.read('candidateCount'), 5n);
  chain.time = until - 2n;
  await reverts(staking.send(person(2), 'unjail'), 'StillJailed', [until]);
  // Time alone does not end the jail: the operator says when it is ready.
  chain.time = until + 1000n;
  assert.deepEqual(activeOf((await endEpoch(staking)).values.next), [1, 3, 4, 5]);
  chain.time = until - 1n;
  const { events } = await staking.send(person(2), 'unjail');
  assert.deepEqual(names(events), ['Unjailed']);
  assert.deepEqual(await active(staking), [1, 3, 4, 5]);
  assert.deepEqual(activeOf((await endEpoch(staking)).values.next), [1, 2, 3, 4, 5]);
});

test('jail: fewer than a third, never below four, the worst first, ties by position', async () => {
  const rules = { maxValidators: 10n };
  for (const [i, most] of [0, 0, 0, 0, 1, 1, 2, 2, 2, 3].entries()) {
    const size = i + 1;
    const { staking } = await network({ rules, set: genesisSet(size) });
    const all = Array.from({ length: size }, (_, index) => Array(20).fill(index)).flat();
    await staking.send(SYSTEM, 'beginBlock', [size, all]);
    const { values, events } = await endEpoch(staking);
    assert.equal(events.filter((e) => e.name === 'Jailed').length, most, `${size} validators`);
    const left = Array.from({ length: size }, (_, index) => index + 1).slice(most);
    assert.deepEqual(activeOf(values.next), left, `${size} validators`);
  }
  const { staking } = await network({ rules, set: genesisSet(8) });
  for (const [index, missed] of [[0, 11], [2, 12], [3, 30], [5, 12], [6, 12]]) await turns(staking, index, 0, missed);
  const { events, values } = await endEpoch(staking);
  assert.deepEqual(events.filter((e) => e.name === 'Jailed').map((e) => e.args[3]), [30n, 12n]);
  assert.deepEqual(activeOf(values.next), [1, 2, 5, 6, 7, 8]);
});

test('jail: of four active validators nobody is jailed, also when one is absent', async () => {
  const { staking } = await network();
  assert.equal(await staking.read('JAIL_FLOOR'), 4n);
  for (let epoch = 0; epoch < 3; epoch++) {
    await turns(staking, 3, 0, 100);
    const { events, values } = await endEpoch(staking);
    assert.deepEqual(names(events), ['EpochEnded']);
    assert.deepEqual(activeOf(values.next), [1, 2, 3, 4]);
  }
  assert.equal((await staking.read('validator', person(4))).jailedUntil, 0n);
  await reverts(staking.send(person(4), 'unjail'), 'NotJailed');
});

test('jail: who is jailed leaves before who asked for it', async () => {
  const { chain, staking } = await network(FIVE);
  for (const n of [2, 3, 4, 5]) await staking.send(person(n), 'requestExit');
  await turns(staking, 0, 0, 10);
  const { values, events } = await endEpoch(staking);
  assert.deepEqual(names(events), ['Jailed', 'EpochEnded']);
  assert.deepEqual(activeOf(values.next), [2, 3, 4, 5]);
  for (const set of [[3, 4, 5], [4, 5], [5], [5]]) assert.deepEqual(activeOf((await endEpoch(staking)).values.next), set);
  chain.time += JAIL;
  await staking.send(person(1), 'unjail');
  assert.deepEqual(activeOf((await endEpoch(staking)).values.next), [1]);
});

test('equivocation: slashed once, reporter paid on claim, the rest burned', async () => {
  const { chain, staking, precompiles } = await network();
  const stake = MIN_STAKE + 2n;
  const taken = stake / 5n;
  const seen = [];
  const answer = precompiles[EQUIVOCATION];
  precompiles[EQUIVOCATION] = (input) => { seen.push(input); return answer(input); };
  const [held, burned] = [await chain.balance(staking.address), await chain.balance(ZERO)];
  const { events } = await staking.send(person(8), 'reportEquivocation', [evidence(2, 7, 11)]);
  assert.deepEqual(seen, [evidence(2, 7, 11)]);
  assert.deepEqual(names(events), ['Slashed', 'ExitRequested']);
  assert.deepEqual(events[0].args.slice(0, 2).map((a) => a.toLowerCase()), [person(2), person(8)]);
  assert.deepEqual(events[0].args.slice(2), [7n, 11n, taken, taken / 10n]);
  assert.equal(await chain.balance(ZERO), burned + taken - taken / 10n);
  assert.equal(await chain.balance(staking.address), held - taken + taken / 10n);
  assert.equal(await staking.read('claimable', person(8)), taken / 10n);
  await reverts(staking.send(person(8), 'reportEquivocation', [evidence(2, 8, 12)]), 'AlreadySlashed');

  const before = await chain.balance(person(8));
  const claimed = await staking.send(person(8), 'claim');
  assert.deepEqual([claimed.events[0].name, claimed.events[0].args[1]], ['Claimed', taken / 10n]);
  assert.equal(await chain.balance(person(8)), before + taken / 10n);
  await reverts(staking.send(person(8), 'claim'), 'NothingToClaim');

  // It validates until the epoch ends, then never again, whatever it tries.
  assert.equal(await staking.read('candidateCount'), 3n);
  assert.deepEqual(await active(staking), [1, 2, 3, 4]);
  await reverts(staking.send(person(2), 'withdraw'), 'StillActive');
  assert.deepEqual(activeOf((await endEpoch(staking)).values.next), [1, 3, 4]);
  await reverts(staking.send(person(2), 'addStake', [], COIN), 'NotCandidate');
  await reverts(staking.send(person(2), 'requestExit'), 'NotCandidate');
  await reverts(staking.send(person(2), 'unjail'), 'Tombstoned');
  await reverts(staking.send(person(2), 'withdraw'), 'StillUnbonding');
  chain.time += UNBONDING;
  const out = await staking.send(person(2), 'withdraw');
  assert.equal(out.events[0].args[1], stake - taken);
  await reverts(staking.send(person(2), 'withdraw'), 'ExitNotRequested');
  await reverts(register(staking, 2, MIN_STAKE, 22), 'AlreadyRegistered');
  await reverts(staking.send(person(8), 'reportEquivocation', [evidence(2)]), 'AlreadySlashed');
});

test('equivocation: who is leaving is slashed too, and its clock goes on', async () => {
  const { chain, staking } = await network();
  await staking.send(person(2), 'requestExit');
  await endEpoch(staking);
  const exitAt = chain.time + UNBONDING;
  chain.time = exitAt + 100n;
  const { events } = await staking.send(person(8), 'reportEquivocation', [evidence(2)]);
  assert.deepEqual(names(events), ['Slashed']);
  const entry = await staking.read('validator', person(2));
  assert.deepEqual([entry.stake, entry.exitAt, entry.tombstoned], [MIN_STAKE + 2n - (MIN_STAKE + 2n) / 5n, exitAt, true]);
  await staking.send(person(2), 'withdraw');
  await endEpoch(staking);
});

test('equivocation: all of the stake can be taken, a jailed one is slashed too', async () => {
  const { staking } = await network({ ...FIVE, rules: { ...FIVE.rules, slashPercent: 100n } });
  await turns(staking, 1, 0, 10);
  assert.deepEqual(names((await endEpoch(staking)).events), ['Jailed', 'EpochEnded']);
  await staking.send(person(2), 'reportEquivocation', [evidence(2)]);
  assert.equal((await staking.read('validator', person(2))).stake, 0n);
  await reverts(staking.send(person(2), 'unjail'), 'Tombstoned');
  await reverts(staking.send(person(2), 'withdraw'), 'ExitNotRequested');
  assert.deepEqual(activeOf((await endEpoch(staking)).values.next), [1, 3, 4, 5]);
});

test('equivocation: every error', async () => {
  const { staking, precompiles } = await network();
  const report = (data) => staking.send(person(8), 'reportEquivocation', [data]);
  await reverts(report(`0x${'11'.repeat(4097)}`), 'EvidenceTooLong', [4097n, 4096n]);
  await reverts(report(`0x${'11'.repeat(4096)}`), 'InvalidEvidence');
  await reverts(report('0x'), 'InvalidEvidence');
  await reverts(report(evidence(77)), 'UnknownVoteKey', [voteHash(77)]);
  for (const answer of ['0x', YES, `${evidence(1)}00`, undefined]) {
    precompiles[EQUIVOCATION] = () => answer;
    await reverts(report(evidence(1)), 'InvalidEvidence');
  }
  // The hash of nothing is not the key of an empty record.
  precompiles[EQUIVOCATION] = () => AbiCoder.defaultAbiCoder().encode(['bytes32', 'uint64', 'uint64'], [keccak256('0x'), 1, 1]);
  await reverts(report(evidence(1)), 'UnknownVoteKey');
});

test('a reporter or validator that refuses coins breaks nothing and keeps its claim', async () => {
  const { chain, staking } = await network();
  const refusing = await chain.deploy('RefusingNode');
  const forward = (method, args, value) =>
    refusing.send(person(0), 'forward', [staking.address, staking.encode(method, args)], value);
  await forward('reportEquivocation', [evidence(2)]);
  const reward = await staking.read('claimable', refusing.address);
  assert.ok(reward > 0n);
  await assert.rejects(forward('claim'));
  assert.equal(await staking.read('claimable', refusing.address), reward);
  await forward('register', [peerKey(5), voteKey(5), PROOF], MIN_STAKE);
  await forward('requestExit');
  chain.time += UNBONDING;
  await assert.rejects(forward('withdraw'));
  assert.equal((await staking.read('validator', refusing.address)).stake, MIN_STAKE);
  await endEpoch(staking);
});

test('a validator that re-enters while it is paid gains nothing', async () => {
  const reentries = [['withdraw', []], ['claim', []], ['reportEquivocation', [evidence(1)]], ['requestExit', []]];
  for (const [method, args] of reentries) {
    const { chain, staking } = await network();
    const attacker = await chain.deploy('ReenteringNode', [staking.address], { value: MIN_STAKE });
    const forward = (name, list = [], value = 0n) => attacker.send(person(0), 'forward', [staking.encode(name, list), value]);
    await forward('register', [peerKey(5), voteKey(5), PROOF], MIN_STAKE);
    await forward('reportEquivocation', [evidence(3)]);
    await forward('requestExit');
    chain.time += UNBONDING;
    await attacker.send(person(0), 'setReentry', [staking.encode(method, args)]);
    await forward('withdraw');
    await forward('claim');
    assert.equal(await attacker.read('nestedSuccesses'), 0n);
    const name = staking.abi.parseError(await attacker.read('nestedError')).name;
    assert.equal(name, method === 'requestExit' ? 'NotCandidate' : 'ReentrancyGuardReentrantCall');
    const taken = (MIN_STAKE + 3n) / 5n;
    assert.equal(await chain.balance(attacker.address), MIN_STAKE + taken / 10n);
    assert.equal(await chain.balance(staking.address), 4n * MIN_STAKE + 10n - taken);
  }
});

test('gas of the chain’s own calls in the worst case', async (t) => {
  // A set of 128, grown from one; then all of it and 256 others want to leave and join.
  const run = async ({ stake, leave, missed }) => {
    const { chain, staking } = await network({ rules: { maxValidators: 128n }, set: genesisSet(1, stake) });
    let register = 0n;
    const join = async (n, value, key = n) => {
      await chain.fund(person(n), 100n * COIN);
      const { gas } = await staking.send(person(n), 'register', [peerKey(key), voteKey(key), PROOF], value);
      if (gas > register) register = gas;
    };
    for (let n = 2; n <= 128; n++) await join(n, stake(n));
    let growing = 0n;
    for (let size = 1; size < 128; ) {
      const { executionGas, values } = await endEpoch(staking);
      assert.ok(values.next.length > size);
      size = values.next.length;
      if (executionGas > growing) growing = executionGas;
    }
    // Stake comes back to as many as can be: those above the cap have less than two thirds.
    for (let n = 1; n <= 60; n++) await staking.send(person(n), 'addStake', [], MIN_STAKE * 35n / 100n);
    for (let n = 128; n >= 1; n--) await leave(staking, n);
    // Stakes in the worst order for the sort: its pivot is always the largest entry, and every other one is moved.
    // The peer keys of those that are chosen are in the same order.
    for (let i = 0; i < 256; i++) await join(1000 + i, 3n * MIN_STAKE + (i === 0 ? 0n : 1000n - BigInt(i)), i === 1 ? 9000 : 1000 + i);
    assert.equal(await staking.read('candidateCount'), 256n);
    const turns = Array.from({ length: 4096 }, (_, i) => i % 128);
    const begin = (await staking.send(SYSTEM, 'beginBlock', [0, turns])).executionGas;
    for (let i = 0; i < 128; i++) await staking.send(SYSTEM, 'beginBlock', [i, Array(missed(i)).fill(i)]);
    const usual = (await staking.send(SYSTEM, 'beginBlock', [5, [6]])).executionGas;
    const { executionGas: end, values, events } = await endEpoch(staking);
    assert.deepEqual([values.next.length, values.rewards.length], [128, 128]);
    assert.equal(events.filter((e) => e.name === 'Jailed').length, 42);
    const left = events.filter((e) => e.name === 'UnbondingStarted').length;
    const joined = activeOf(values.next).filter((n) => n >= 1000).length;
    for (const gas of [begin, growing, end]) assert.ok(gas < 20_000_000n && gas < SYSTEM_GAS, `${gas}`);
    const returned = events.filter((e) => e.name === 'StakeReturned').length;
    return { register, growing, begin, usual, end, left, joined, returned };
  };

  // Everybody was slashed: 128 leave, and 128 join.
  const slashed = await run({
    stake: (n) => MIN_STAKE + BigInt(n),
    leave: (staking, n) => staking.send(person(0), 'reportEquivocation', [evidence(n)]),
    // In the worst order for the jail's sort.
    missed: (i) => (i === 0 ? 1 : 200 - i),
  });
  assert.deepEqual([slashed.left, slashed.joined], [128, 128]);
  t.diagnostic(`endEpoch ${slashed.end} when all were slashed, growing to 128: ${slashed.growing}`);
  t.diagnostic(`beginBlock ${slashed.begin} with 4096 missed turns, ${slashed.usual} with one; register ${slashed.register}`);

  // Everybody wants to leave, and 42 may: the jailed ones.
  const exiting = await run({
    stake: (n) => MIN_STAKE + (n === 1 ? 0n : 1000n - BigInt(n)),
    leave: (staking, n) => staking.send(person(n), 'requestExit'),
    missed: (i) => (i === 0 || i > 86 ? 20 + i : 1),
  });
  assert.deepEqual([exiting.left, exiting.joined, exiting.returned], [42, 42, 101]);
  t.diagnostic(`endEpoch ${exiting.end} when all want to leave`);
});

test('400 random operations keep the invariants', async (t) => {
  const people = Array.from({ length: 20 }, (_, i) => i + 1);
  const { chain, staking } = await network({ rules: { maxValidators: 8n, minTurns: 3n, unbondingSeconds: 300n, jailSeconds: 60n } });
  for (const n of people) await chain.fund(person(n), 10_000n * COIN);
  const random = seeded(2024);
  let list = [];
  // Anybody, or as often somebody for whom the call may go through.
  const pick = (fits = () => false) => {
    const some = list.filter(fits);
    return some.length > 0 && random(2) === 0 ? some[random(some.length)].n : people[random(people.length)];
  };
  let keys = 100;
  const used = new Set([1, 2, 3, 4]);
  const done = {};
  const attempt = (name, call) => call.then(() => { done[name] = (done[name] ?? 0) + 1; }, (e) => assert.ok(e.revert, e.message));
  const records = async () => {
    const all = [];
    for (const n of people) {
      const claimable = await staking.read('claimable', person(n));
      all.push({ n, claimable, ...(await staking.read('validator', person(n))).toObject() });
    }
    return all;
  };

  const end = async () => {
    const before = await records();
    const old = await active(staking);
    const stats = [];
    for (const i of old.keys()) stats.push(await staking.read('stats', i));
    const { values } = await endEpoch(staking);
    // The same choice, made here.
    const jailed = [...old.keys()]
      .filter((i) => stats[i].proposed + stats[i].missed >= 3n && stats[i].missed * 100n > (stats[i].proposed + stats[i].missed) * 50n)
      .sort((a, b) => Number(stats[b].missed - stats[a].missed) || a - b)
      .slice(0, Math.min(Math.max(0, old.length - 4), Math.floor((old.length - 1) / 3))).map((i) => old[i]);
    const isJailed = (v) => v.jailedUntil > 0n || jailed.includes(v.n);
    const byRank = (a, b) => (a.stake === b.stake ? Number(a.sequence - b.sequence) : a.stake > b.stake ? -1 : 1);
    const kind = (v) => (isJailed(v) ? 2 : v.exiting ? 1 : 0);
    const members = before.filter((v) => old.includes(v.n) && !v.tombstoned).sort((a, b) => kind(a) - kind(b) || byRank(a, b));
    const faults = Math.floor((old.length - 1) / 3);
    const most = Math.max(1, faults);
    // The price: what two thirds of the stake have.
    const sum = (list) => list.reduce((total, v) => total + v.stake, 0n);
    const sound = members.filter((v) => kind(v) === 0);
    const pricing = sound.length > 0 ? sound : members;
    const price = pricing.find((v, i) => 3n * sum(pricing.slice(0, i + 1)) >= 2n * sum(pricing))?.stake ?? 0n;
    const [smallest, largest] = [(price * 80n + 99n) / 100n, price > 0n ? price * 120n / 100n : 1n << 128n];
    const counts = (v) => (v.stake < largest ? v.stake : largest);
    // All members but the last ones stay; of those, some must go, and the others compete with the newcomers.
    const safe = members.slice(0, Math.max(0, members.length - most));
    const rivals = members.slice(safe.length).filter((v) => kind(v) === 0 && v.stake >= smallest);
    const newcomers = before.filter((v) => v.sequence > 0n && !v.exiting && !v.active && !isJailed(v) && v.stake >= smallest).sort(byRank);
    let joined = 0;
    for (const v of newcomers) {
      const full = safe.length + rivals.length + joined === 8;
      const size = safe.length + rivals.length + joined + (full ? 0 : 1);
      if (joined > 0 && members.length > 0 && 3 * (joined + 1) >= size) break;
      if (full && (rivals.length === 0 || counts(v) <= rivals.at(-1).stake)) break;
      if (full) rivals.pop();
      joined++;
    }
    let chosen = [...safe, ...rivals, ...newcomers.slice(0, joined)];
    if (chosen.length === 0) chosen = members.length > 0 ? members : before.filter((v) => v.active);
    chosen = chosen.sort((a, b) => (a.peer < b.peer ? -1 : 1)).map((v) => v.n);
    const next = activeOf(values.next);
    assert.deepEqual(next, chosen);
    assert.ok(members.filter((v) => !next.includes(v.n)).length <= most, 'few leave');
    const joining = next.filter((n) => !old.includes(n)).length;
    assert.ok(joining <= 1 || 3 * joining < next.length || members.length === 0, 'not too many join');
    let [returned, waiting] = [0, 0];
    for (const v of await records()) {
      if (!next.includes(v.n)) continue;
      const was = before.find((w) => w.n === v.n);
      if (!was.tombstoned) assert.equal(v.stake, counts(was));
      assert.equal(v.claimable - was.claimable, was.stake - v.stake);
      if (v.stake < was.stake) returned++;
      if (v.stake < smallest) waiting++;
    }
    assert.ok(waiting <= members.filter((v) => v.stake < smallest).length);
    done.returned = (done.returned ?? 0) + returned;
    const slashed = before.filter((v) => v.active && v.tombstoned).map((v) => v.n);
    assert.ok(slashed.length === old.length || !slashed.some((n) => next.includes(n)), 'slashed ones leave');
    done.delayed = (done.delayed ?? 0) + before.filter((v) => v.exiting && !v.tombstoned && next.includes(v.n)).length;
    assert.deepEqual([...values.rewards].map((r) => r.amount), stats.filter((s) => s.proposed > 0n).map((s) => s.proposed * REWARD));
    done.endEpoch = (done.endEpoch ?? 0) + 1;
    done.jailed = (done.jailed ?? 0) + jailed.length;
  };

  const steps = [
    async () => {
      const n = pick((v) => v.sequence === 0n);
      const key = random(5) === 0 ? keys : ++keys;
      await attempt('register', register(staking, n, MIN_STAKE + BigInt(random(4)) * COIN, key).then(() => used.add(key)));
    },
    () => attempt('addStake', staking.send(person(pick()), 'addStake', [], BigInt(random(3)) * COIN)),
    () => attempt('requestExit', staking.send(person(pick()), 'requestExit')),
    () => attempt('withdraw', staking.send(person(pick((v) => v.exiting)), 'withdraw')),
    () => attempt('unjail', staking.send(person(pick((v) => v.jailedUntil > 0n)), 'unjail')),
    () => attempt('setPayout', staking.send(person(pick()), 'setPayout', [person(pick())])),
    async () => {
      if (random(4) > 0) return;
      const key = [...used][random(used.size)];
      await attempt('report', staking.send(person(pick()), 'reportEquivocation', [evidence(key)]));
    },
    () => attempt('claim', staking.send(person(pick((v) => v.claimable > 0n)), 'claim')),
    () => staking.send(SYSTEM, 'beginBlock', [random(9), Array.from({ length: random(12) }, () => random(9))]),
    () => staking.send(SYSTEM, 'beginBlock', [random(9), Array(random(6)).fill(random(9))]),
    end,
  ];
  for (let i = 0; i < 400; i++) {
    await steps[random(steps.length)]();
    chain.time += BigInt(random(60));

    list = await records();
    const set = [...(await staking.read('active'))];
    let owed = 0n;
    for (const v of list) {
      owed += v.stake + v.claimable;
      assert.ok(v.sequence === 0n || v.exiting || v.stake >= MIN_STAKE, 'a candidate has the minimal stake');
      assert.ok(!v.tombstoned || v.exiting, 'a slashed one is no candidate');
      assert.equal(v.active, activeOf(set).includes(v.n));
      assert.ok(!v.active || v.exitAt === 0n, 'the clock of an active one does not run');
    }
    assert.equal(await chain.balance(staking.address), owed);
    assert.ok(set.length >= 1 && set.length <= 8);
    assert.ok(set.every((v, k) => k === 0 || v.peer > set[k - 1].peer), 'sorted and distinct');
    const candidates = [...(await staking.read('candidates', 0, 100))].map((c) => c.operator.toLowerCase()).sort();
    assert.deepEqual(candidates, list.filter((v) => v.sequence > 0n && !v.exiting).map((v) => person(v.n)).sort());
  }
  t.diagnostic(JSON.stringify(done));
  for (const name of ['register', 'addStake', 'requestExit', 'withdraw', 'unjail', 'setPayout', 'report', 'claim', 'endEpoch', 'jailed', 'delayed', 'returned']) {
    assert.ok(done[name] >= 2, `${name}: ${done[name] ?? 0}`);
  }
});
