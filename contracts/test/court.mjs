// All contracts of escrow, audits and disputes, deployed as in genesis, with a mock of the referee.
import { AbiCoder, getCreateAddress, keccak256, sha256, toBeHex, TypedDataEncoder, Wallet } from 'ethers';
import { Chain, COIN, GENESIS, MIN_STAKE, person, PUBLISH_FEE, RECORD, SYSTEM } from './evm.mjs';

const coder = AbiCoder.defaultAbiCoder();
const REFEREE = '0x0000000000000000000000000000000000000a03';
/** The zero address and word. */
export const NOBODY = `0x${'00'.repeat(20)}`;
export const NOTHING = `0x${'00'.repeat(32)}`;
/** Where burnt coins go. */
export const BURN = '0x000000000000000000000000000000000000dead';
/** A salt that is no secret. */
const SALT = `0x${'5e'.repeat(32)}`;
/** `keccak256(abi.encode(...))`. */
export const hash = (types, values) => keccak256(coder.encode(types, values));

// ---- referee ----

const CLAIM = 'tuple(address node,bytes32 receiptId,address payer,uint128 price,uint64 timeMs,uint8 rung,bytes pad)';
const INFO = 'tuple(address node,bytes32 digest,bytes32 receiptId,address payer,uint128 price,uint64 timeMs,bytes32 model,uint8 rung)';
const id4 = (signature) => keccak256(Buffer.from(signature)).slice(2, 10);
const START = id4('start(bytes,bytes,bytes)');
const PLAY = id4('play(bytes,bytes)');
const READ = id4('claim(bytes,bytes)');

/** Who moves next or has won. */
export const TURN = { challenger: 0, node: 1, challengerWon: 2, nodeWon: 3 };
/** A move, or an opening, of the mock game: who is on turn afterwards, and anything else. `null` is a forbidden one. */
export const step = (turn, note = '0x') => (turn === null ? '0xff' : toBeHex(turn, 1) + note.slice(2));
/** State of the mock game after a move: a hash of all moves, and the last move's note. */
export const after = (state, move) => keccak256(state + move.slice(2)) + move.slice(4);

/** A claim as the mock reads it; `signature` is the mock's signature of its node. */
export function claim(fields, padding = 0) {
  const bytes = coder.encode([CLAIM], [{ payer: NOBODY, price: 0n, rung: 4, ...fields, pad: `0x${'5a'.repeat(padding)}` }]);
  return { claim: bytes, signature: signature(fields.node), digest: keccak256(bytes), ...fields };
}
const signature = (node) => `${node.toLowerCase()}${'11'.repeat(45)}`;

function read(bytes, signed) {
  const [c] = coder.decode([CLAIM], bytes);
  if (signed !== signature(c.node)) return null;
  return {
    node: c.node, digest: keccak256(bytes), receiptId: c.receiptId, payer: c.payer, price: c.price, timeMs: c.timeMs,
    model: NOTHING, rung: Number(c.rung),
  };
}

function answer(state, move) {
  const turn = Number(move.slice(0, 4));
  return turn === 255 ? null : { state: after(state, move), turn };
}

function referee(input) {
  const [selector, body] = [input.slice(2, 10), `0x${input.slice(10)}`];
  if (selector === PLAY) {
    const next = answer(...coder.decode(['bytes', 'bytes'], body));
    return next && coder.encode(['bytes', 'uint8'], [next.state, next.turn]);
  }
  const [bytes, signed, opening] = coder.decode(selector === START ? ['bytes', 'bytes', 'bytes'] : ['bytes', 'bytes'], body);
  const info = read(bytes, signed);
  if (info === null) return null;
  if (selector === READ) return coder.encode([INFO], [info]);
  const first = answer(info.digest, opening);
  return first && coder.encode([INFO, 'bytes', 'uint8'], [info, first.state, first.turn]);
}

// ---- deployment ----

/** Rules of the tests. */
export const RULES = {
  escrow: { withdrawSeconds: 1000n, windowSeconds: 1600n, auditPermille: 50n },
  disputes: {
    bond: COIN, clockSeconds: 200n, openSeconds: 100n, windowSeconds: 1000n, fraudSlash: 4n * COIN,
    timeoutSlash: 3n * COIN, bountyPermille: 250n,
  },
  auditors: { minStake: 5n * COIN, unbondingSeconds: 5000n },
  audits: {
    commitSeconds: 100n, revealSeconds: 100n, backSeconds: 100n, canarySeconds: 2000n, rateMax: 1_000_000n, rateMin: 50_000n,
    fee: COIN / 100n, missPenalty: COIN / 10n, lazySlash: 2n * COIN, canaryBond: COIN, maxCanaries: 2n,
  },
  jury: {
    bond: COIN, commitSeconds: 100n, revealSeconds: 100n, rate: 1_000_000_000n, minJurors: 3n, textSlash: 4n * COIN,
    fee: COIN / 2n, missPenalty: COIN / 10n, bountyPermille: 250n,
  },
};
const NAMES = {
  models: 'ModelRegistry', nodes: 'NodeRegistry', log: 'ReceiptLog', beacon: 'Beacon', escrow: 'Escrow', disputes: 'Disputes',
  auditors: 'Auditors', audits: 'Audits', jury: 'Jury',
};

/** Deploys everything; every contract knows the others' addresses beforehand. `rules` replaces some of `RULES`. */
export async function court(rules = {}, genesis = GENESIS) {
  const chain = await Chain.create({ precompiles: { [REFEREE]: referee }, genesis });
  const from = person(900);
  await chain.fund(from, COIN);
  const at = Object.fromEntries(Object.keys(NAMES).map((name, nonce) => [name, getCreateAddress({ from, nonce })]));
  const of = (name) => ({ ...RULES[name], ...rules[name] });
  const [escrow, auditors] = [of('escrow'), of('auditors')];
  const args = {
    models: [PUBLISH_FEE],
    nodes: [at.models, MIN_STAKE, 3600n, at.disputes, at.jury],
    log: [at.nodes],
    beacon: [],
    escrow: [at.log, at.disputes, at.jury, at.audits, escrow.withdrawSeconds, escrow.windowSeconds, escrow.auditPermille],
    disputes: [at.nodes, at.log, at.escrow, at.audits, at.jury, of('disputes')],
    auditors: [auditors.minStake, auditors.unbondingSeconds, at.audits, at.jury],
    audits: [at.log, at.beacon, at.auditors, at.disputes, at.jury, of('audits')],
    jury: [at.nodes, at.log, at.escrow, at.beacon, at.auditors, at.audits, at.disputes, of('jury')],
  };
  const all = { chain, genesis };
  for (const [name, contract] of Object.entries(NAMES)) {
    all[name] = await chain.deploy(contract, args[name], { from });
    if (all[name].address.toLowerCase() !== at[name].toLowerCase()) throw new Error(`${name} is at another address`);
  }
  await chain.begin(all.beacon);
  // Events of any of them are decoded with all ABIs.
  // One validator that proposes all blocks: the seed for a block is the randomness of the next one.
  all.tick = async (blocks = 1) => {
    for (let i = 0; i < blocks; i++) await all.beacon.send(SYSTEM, 'record', RECORD);
  };
  return all;
}

/** Registers a node. */
export const bond = (all, node, stake = MIN_STAKE) => all.nodes.send(node, 'register', ['https://n.example'], stake);

/** A client with a key that signs vouchers. */
export async function client(all, n, wei = 1000n * COIN) {
  const wallet = new Wallet(toBeHex(0xc11e0000 + n, 32));
  await all.chain.fund(wallet.address, wei);
  const domain = { name: 'og escrow', version: '1', chainId: 1, verifyingContract: all.escrow.address, salt: all.genesis };
  const types = { Voucher: [{ name: 'client', type: 'address' }, { name: 'node', type: 'address' }, { name: 'total', type: 'uint256' }] };
  return {
    address: wallet.address, wallet,
    /** Voucher and signature. */
    voucher: (node, total) => {
      const voucher = { client: wallet.address, node, total };
      return [voucher, wallet.signingKey.sign(TypedDataEncoder.hash(domain, types, voucher)).serialized];
    },
  };
}

/** Settles pairs of `client.voucher`. */
export const settle = (all, node, size, ...pairs) =>
  all.escrow.send(node, 'settle', [pairs.map((p) => p[0]), pairs.map((p) => p[1]), size]);

// ---- disputes ----

/** What announcements are about. */
export const subjects = {
  dispute: (node, receiptId, opening) =>
    hash(['string', 'address', 'bytes32', 'bytes32'], ['dispute', node, receiptId, keccak256(opening)]),
  equivocation: (node, receiptId) => hash(['string', 'address', 'bytes32'], ['equivocation', node, receiptId]),
  fork: (node, size) => hash(['string', 'address', 'uint64'], ['fork', node, size]),
};
/** What to announce. */
export const announcement = (by, subject, salt = SALT) => hash(['address', 'bytes32', 'bytes32'], [by, subject, salt]);
/** Announces something; returns the salt. */
export async function announce(all, by, subject) {
  await all.disputes.send(by, 'announce', [announcement(by, subject)]);
  return SALT;
}
/** Announces a dispute about a claim and opens it. */
export async function dispute(all, by, c, opening, value = COIN) {
  const salt = await announce(all, by, subjects.dispute(c.node, c.receiptId, opening));
  return all.disputes.send(by, 'open', [c.claim, c.signature, opening, salt], value);
}

// ---- logs ----

const concat = (...parts) => `0x${parts.map((p) => p.slice(2)).join('')}`;
/** Leaf of a signed claim. */
export const leafOf = (signed) => sha256(concat('0x00', signed.digest, signed.signature));
/** Largest power of two below n. */
const split = (n) => 2 ** Math.floor(Math.log2(n - 1));

/** Root over leaf hashes, straight from the definition (RFC 9162, 2.1.1). */
export function merkleRoot(leaves) {
  if (leaves.length === 1) return leaves[0];
  const k = split(leaves.length);
  return sha256(concat('0x01', merkleRoot(leaves.slice(0, k)), merkleRoot(leaves.slice(k))));
}

/** Audit path, straight from the definition (RFC 9162, 2.1.3.1). */
export function merklePath(leaves, index) {
  if (leaves.length === 1) return [];
  const k = split(leaves.length);
  return index < k
    ? [...merklePath(leaves.slice(0, k), index), merkleRoot(leaves.slice(k))]
    : [...merklePath(leaves.slice(k), index - k), merkleRoot(leaves.slice(0, k))];
}

/** A node's log: appends `count` claims and posts the root. `logged(i)` is claim i with its path. */
export class Log {
  constructor(all, node) {
    Object.assign(this, { all, node, claims: [], posted: 0 });
  }

  /** Adds claims without posting; `fields(i)` changes some. */
  add(count, fields = () => ({})) {
    for (let n = 0; n < count; n++) {
      const i = this.claims.length;
      const timeMs = this.all.chain.time * 1000n;
      this.claims.push(claim({ node: this.node, receiptId: hash(['address', 'uint256'], [this.node, i]), timeMs, ...fields(i) }));
    }
    return this.claims.length;
  }

  /** Posts what was added; `seed` also lets the seed's block pass. */
  async post({ seed = true } = {}) {
    this.leaves = this.claims.map(leafOf);
    const size = this.leaves.length;
    await this.all.log.send(this.node, 'append', [this.posted, size, merkleRoot(this.leaves)]);
    this.posted = size;
    if (seed) await this.all.tick(2);
    return size;
  }

  /** `LoggedClaim` of a posted claim. */
  logged(i) {
    return { claim: this.claims[i].claim, signature: this.claims[i].signature, path: merklePath(this.leaves, i) };
  }
}

// ---- auditors ----

/** Makes persons auditors. */
export async function join(all, auditors, stake = 10n * COIN) {
  for (const auditor of auditors) {
    if ((await all.chain.balance(auditor)) < stake) await all.chain.fund(auditor, 1000n * COIN);
    await all.auditors.send(auditor, 'join', [], stake);
  }
}

/** Commitment of an auditor. */
export const commitment = (auditor, node, size, indices, verdicts, salt = SALT) =>
  hash(['address', 'address', 'uint64', 'uint64[]', 'uint8[]', 'bytes32'], [auditor, node, size, indices, verdicts, salt]);
/** Commits to verdicts: pairs of index and verdict. */
export const commit = (all, auditor, node, size, pairs) =>
  all.audits.send(auditor, 'commit', [node, size, commitment(auditor, node, size, pairs.map((p) => p[0]), pairs.map((p) => p[1]))]);
/** Reveals them. */
export const reveal = (all, auditor, node, size, pairs, salt = SALT) =>
  all.audits.send(auditor, 'reveal', [node, size, pairs.map((p) => p[0]), pairs.map((p) => p[1]), salt]);
/** Receipts for which an auditor is drawn. */
export async function drawnOf(all, auditor, node, from, to) {
  const out = [];
  for (let i = from; i < to; i++) if (await all.audits.read('drawn', node, to, i, auditor)) out.push(i);
  return out;
}
/** Lets a time pass. */
export const pass = (all, seconds) => { all.chain.time += BigInt(seconds); };
/** Commits and reveals in their times; ends after the time for reveals. */
export async function audit(all, node, size, verdicts) {
  for (const [auditor, pairs] of verdicts) await commit(all, auditor, node, size, pairs);
  pass(all, RULES.audits.commitSeconds);
  for (const [auditor, pairs] of verdicts) await reveal(all, auditor, node, size, pairs);
  pass(all, RULES.audits.revealSeconds);
}
