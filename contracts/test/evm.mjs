// A small in-process chain for tests: one block per call, same EVM rules as the ledger.
import { Common, Hardfork, Mainnet } from '@ethereumjs/common';
import { createEVM, EVMError } from '@ethereumjs/evm';
import { SimpleStateManager } from '@ethereumjs/statemanager';
import { Account, Address, bytesToHex, createAddressFromString, hexToBytes } from '@ethereumjs/util';
import { getCreateAddress, Interface, keccak256, toBeHex } from 'ethers';
import assert from 'node:assert/strict';
import { compile } from '../compile.mjs';

/** All artefacts: system contracts and the attackers. */
export const ARTIFACTS = compile(['src', 'test/solidity']);
/** One coin in wei. */
export const COIN = 10n ** 18n;
/** Most gas of one transaction (EIP-7825). */
export const TX_GAS_MAX = 1n << 24n;
/** Sender of the chain's own calls, and the gas that they get. */
export const SYSTEM = '0xfffffffffffffffffffffffffffffffffffffffe';
export const SYSTEM_GAS = 30_000_000n;

const KNOWN = new Interface(Object.values(ARTIFACTS).flatMap((a) => a.abi.filter((e) => e.type === 'error')));
// Events of other contracts that a call causes.
const EVENTS = new Interface(Object.values(ARTIFACTS).flatMap((a) => a.abi.filter((e) => e.type === 'event')));

/** `prevrandao` of a block in tests. */
export const randomness = (number) => keccak256(toBeHex(number, 32));

/** Hash of block 0 in tests. */
export const GENESIS = keccak256(toBeHex(0x6e, 1));
// Blocks of which a contract can ask for the hash.
const blocks = (genesis) => ({
  getBlock: async (number) => ({ hash: () => hexToBytes(BigInt(number) === 0n ? genesis : keccak256(toBeHex(number, 32))) }),
  putBlock: async () => {},
  shallowCopy() { return this; },
});

/** What the chain of a single validator tells the beacon. */
export const RECORD = [toBeHex(1, 32), 1, 0];

/** A deterministic test address. */
export const person = (n) => toBeHex(0xa0000000n + BigInt(n), 20);

/** Gas of a transaction before execution: base cost and call data (EIP-2028), and the floor (EIP-7623). */
export function transactionGas(data, executionGas) {
  const bytes = hexToBytes(data);
  const tokens = bytes.reduce((sum, byte) => sum + (byte === 0 ? 1n : 4n), 0n);
  const usual = 21000n + 4n * tokens + executionGas;
  const floor = 21000n + 10n * tokens;
  return usual > floor ? usual : floor;
}

/** What a call that reverted threw: `name` of the custom error and its `args`. */
export class Reverted extends Error {
  constructor(data) {
    // A failed call without data is a precompile's, or a decoder's.
    const parsed = data.length >= 10 ? KNOWN.parseError(data) : null;
    super(`reverted with ${parsed ? `${parsed.name}(${parsed.args.join(', ')})` : data}`);
    this.revert = parsed?.name;
    this.args = parsed?.args;
  }
}

/** Asserts that a call reverts with the custom error `name`, and with `args` where given. */
export async function reverts(promise, name, args) {
  await assert.rejects(promise, (error) => {
    assert.equal(error.revert, name, error.message);
    if (args) assert.deepEqual([...error.args], args);
    return true;
  });
}

// A precompile that answers with `answer(input)`, both hex; `undefined` makes the call fail with all of its gas, `null`
// makes it revert.
function precompile([address, answer]) {
  const call = ({ data, gasLimit }) => {
    const output = answer(bytesToHex(data));
    if (typeof output === 'string') return { executionGasUsed: 0n, returnValue: hexToBytes(output) };
    const { OUT_OF_GAS, REVERT } = EVMError.errorMessages;
    const exceptionError = new EVMError(output === null ? REVERT : OUT_OF_GAS);
    return { executionGasUsed: output === null ? 0n : gasLimit, returnValue: new Uint8Array(0), exceptionError };
  };
  return { address: createAddressFromString(address), function: call };
}

export class Chain {
  /** `precompiles` maps addresses to functions from input to output; `genesis` is the hash of block 0. */
  static async create({ precompiles = {}, genesis = GENESIS } = {}) {
    const chain = new Chain();
    const common = new Common({ chain: Mainnet, hardfork: Hardfork.Osaka });
    chain.state = new SimpleStateManager({ common });
    chain.evm = await createEVM({
      common, stateManager: chain.state, blockchain: blocks(genesis), customPrecompiles: Object.entries(precompiles).map(precompile),
    });
    chain.time = 1_800_000_000n;
    chain.number = 1n;
    for (let n = 0; n < 10; n++) await chain.fund(person(n), 1000n * COIN);
    return chain;
  }

  async fund(address, wei) {
    await this.state.putAccount(createAddressFromString(address), new Account(0n, wei));
  }

  async balance(address) {
    return (await this.state.getAccount(createAddressFromString(address)))?.balance ?? 0n;
  }

  /** 32 bytes at a storage slot, as hex. */
  async storage(address, slot) {
    const raw = await this.state.getStorage(createAddressFromString(address), hexToBytes(slot));
    return toBeHex(BigInt(bytesToHex(raw) === '0x' ? 0 : bytesToHex(raw)), 32);
  }

  async run({ from, to, data, value = 0n }) {
    this.number += 1n;
    this.time += 1n;
    const gasLimit = from === SYSTEM ? SYSTEM_GAS : TX_GAS_MAX;
    const header = {
      number: this.number, timestamp: this.time, coinbase: new Address(new Uint8Array(20)), difficulty: 0n,
      prevRandao: hexToBytes(randomness(this.number)), gasLimit, baseFeePerGas: 0n, getBlobGasPrice: () => 1n,
    };
    const result = await this.evm.runCall({
      caller: createAddressFromString(from), origin: createAddressFromString(from),
      to: to && createAddressFromString(to), data: hexToBytes(data), value, gasLimit, block: { header },
    });
    await this.evm.journal.cleanup();
    this.evm.transientStorage.clear();
    // The next call is another transaction: what it writes is priced against what this one left.
    this.state.originalStorageCache.clear();
    const { exceptionError, returnValue, executionGasUsed, logs = [] } = result.execResult;
    if (exceptionError?.error === 'revert') throw new Reverted(bytesToHex(returnValue));
    if (exceptionError) throw exceptionError;
    return { result, output: bytesToHex(returnValue), gas: executionGasUsed, logs };
  }

  /** Has the beacon record block 1, as the chain does. */
  async begin(beacon) {
    const { number } = this;
    this.number = 0n;
    await beacon.send(SYSTEM, 'record', RECORD);
    this.number = number;
  }

  /** Deploys a contract and returns its `Contract`. `funded` coins are on its address before. */
  async deploy(name, args = [], { from = person(0), value = 0n, funded = 0n } = {}) {
    const abi = new Interface(ARTIFACTS[name].abi);
    const { nonce } = await this.state.getAccount(createAddressFromString(from));
    await this.fund(getCreateAddress({ from, nonce }), funded);
    const data = ARTIFACTS[name].bytecode + abi.encodeDeploy(args).slice(2);
    const { result } = await this.run({ from, data, value });
    return new Contract(this, result.createdAddress.toString(), abi);
  }
}

/** A deployed contract. */
export class Contract {
  constructor(chain, address, abi) {
    Object.assign(this, { chain, address, abi });
  }

  /** Sends a transaction; returns its decoded `events`, `gas` of a whole transaction, its `executionGas`, and returned `values`. */
  async send(from, method, args = [], value = 0n) {
    const data = this.abi.encodeFunctionData(method, args);
    const { output, gas, logs } = await this.chain.run({ from, to: this.address, data, value });
    const events = logs.map(([address, topics, body]) => {
      const log = { topics: topics.map(bytesToHex), data: bytesToHex(body) };
      const parsed = this.abi.parseLog(log) ?? EVENTS.parseLog(log);
      return { address: bytesToHex(address), name: parsed?.name, args: parsed && [...parsed.args] };
    });
    const values = this.abi.decodeFunctionResult(method, output);
    return { events, gas: transactionGas(data, gas), executionGas: gas, values };
  }

  /** Reads a view; one value is returned bare. */
  async read(method, ...args) {
    const { values } = await this.send(person(0), method, args);
    return values.length === 1 ? values[0] : values;
  }

  /** Call data of a method. */
  encode(method, args = []) {
    return this.abi.encodeFunctionData(method, args);
  }
}

/** Smallest stake and unbonding delay in tests. */
export const MIN_STAKE = 10n * COIN;
export const UNBONDING = 3600n;

/** What publishing a model costs in tests. */
export const PUBLISH_FEE = COIN / 4n;

/** Slashers of the registry that `system` deploys. */
export const SLASHERS = [person(90), person(91)];

/** The contracts of nodes, models and logs, with accounts as slashers. */
export async function system() {
  const chain = await Chain.create();
  const models = await chain.deploy('ModelRegistry', [PUBLISH_FEE]);
  const nodes = await chain.deploy('NodeRegistry', [models.address, MIN_STAKE, UNBONDING, ...SLASHERS]);
  const log = await chain.deploy('ReceiptLog', [nodes.address]);
  const token = await chain.deploy('WrappedNative');
  return { chain, models, nodes, log, token };
}

/** Publishes a model with `text` as manifest; returns its id. */
export async function publish(models, text, from = person(0)) {
  const manifest = `0x${Buffer.from(text).toString('hex')}`;
  const id = keccak256(manifest);
  await models.send(from, 'publish', [id, manifest, ''], PUBLISH_FEE);
  return id;
}

/** A small seeded generator (mulberry32): `random(n)` gives integers in [0, n). */
export function seeded(seed) {
  let state = seed;
  return (n) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % n;
  };
}
