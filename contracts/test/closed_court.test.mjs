// Attacks on the court under the rules of public networks: what a stranger or a friend of a cheating node can do to others.
import assert from 'node:assert/strict';
import test from 'node:test';
import { getAddress, toBeHex } from 'ethers';
import { after, bond, claim, client, court, dispute, Log, pass, settle, step, TURN } from './court.mjs';
import { COIN, person, reverts } from './evm.mjs';

const node = person(1);
const friend = person(2);
const HOUR = 3600n;
/** As `TrustRules::network()` of crates/node. */
const NETWORK = {
  disputes: {
    bond: COIN / 10n, clockSeconds: 8n * HOUR, openSeconds: HOUR, windowSeconds: 24n * HOUR, fraudSlash: 50n * COIN,
    timeoutSlash: 50n * COIN, bountyPermille: 100n,
  },
  escrow: { withdrawSeconds: 24n * HOUR, windowSeconds: 24n * HOUR, auditPermille: 13n },
};
const STAKE = 100n * COIN;
const BOND = NETWORK.disputes.bond;
const receiptId = (n) => toBeHex(0x1d0000 + n, 32);
const signed = (all, n, fields = {}) => claim({ node, receiptId: receiptId(n), timeMs: all.chain.time * 1000n, ...fields });
const stake = async (all) => (await all.nodes.read('nodeInfo', node)).stake;

async function ready() {
  const all = await court(NETWORK);
  await bond(all, node, STAKE);
  await all.chain.fund(friend, 1000n * COIN);
  return all;
}

// Before: 16 places for games about a node, with bonds of 13.6 coins; 25 honest tries in 25 hours: 25 x TooManyOpen.
test('a friend of the node cannot keep others out of the court with slow games', async () => {
  const all = await ready();
  const wrong = signed(all, 99);
  const games = [];
  for (let n = 0; n < 64; n++) {
    const c = signed(all, n);
    const { values } = await dispute(all, friend, c, step(TURN.node), BOND);
    games.push({ id: values.id, state: after(c.digest, step(TURN.node)), turn: TURN.node });
  }
  // One slow move in each an hour before its end, as long as the clocks allow.
  all.chain.time += 7n * HOUR;
  for (const g of games) {
    await all.disputes.send(node, 'move', [g.id, g.state, step(TURN.challenger)]);
    g.state = after(g.state, step(TURN.challenger));
  }
  // Everybody else disputes as if nothing were open, for the usual bond.
  for (let n = 0; n < 24; n++) {
    const hunter = person(5 + n);
    await all.chain.fund(hunter, COIN);
    if (n < 23) await dispute(all, hunter, wrong, step(TURN.node), BOND);
    else await dispute(all, hunter, wrong, step(TURN.challengerWon), BOND);
  }
  assert.equal(await stake(all), STAKE / 2n);
  // A slow game ends before the window of a claim that was signed with it, so that it can be disputed once more.
  all.chain.time += 8n * HOUR;
  for (const g of games.slice(0, 3)) await all.disputes.send(friend, 'timeout', [g.id]);
  await dispute(all, person(5), signed(all, 0, { timeMs: (all.chain.time - 16n * HOUR) * 1000n }), step(TURN.node), BOND);
});

// Before: `release` of 98.7 coins failed (OpenProceedings) for as long as a game about a claim of 5 wei was open, up to 32 hours for 0.1 coin.
test('a dispute holds what its claim can cost, not all earnings and the stake', async () => {
  const all = await ready();
  const log = new Log(all, node);
  log.add(1);
  await log.post();
  const alice = await client(all, 1);
  await all.escrow.send(alice.address, 'deposit', [node], 100n * COIN);
  await settle(all, node, 1, alice.voucher(node, 100n * COIN));
  await all.nodes.send(node, 'requestExit');
  pass(all, 24n * HOUR);
  const price = 5n;
  for (let n = 0; n < 8; n++) {
    const c = signed(all, n % 4, { price });
    await dispute(all, n < 4 ? friend : person(3), c, step(TURN.challenger), BOND);
  }
  const { events } = await all.escrow.send(node, 'release', [node, 0]);
  const earned = 100n * COIN - (100n * COIN * 13n) / 1000n;
  assert.equal(events[0].args[2], earned - 4n * price, 'four receipts, whoever and how many dispute them');
  // One receipt can cost half of the stake: two hold it.
  assert.equal(await all.nodes.read('holds', node), 4n * NETWORK.disputes.fraudSlash);
  await reverts(all.nodes.send(node, 'withdraw'), 'Held', [getAddress(node), STAKE]);
  // The friend drags: its clock ends all of it after at most eight hours of waiting.
  all.chain.time += 8n * HOUR;
  for (let id = 1; id <= 8; id++) await all.disputes.send(node, 'timeout', [id]);
  await all.escrow.send(node, 'releaseReserve', [node]);
  await all.nodes.send(node, 'withdraw');
  assert.equal(await stake(all), 0n);
  // Half of each bond is the node's: more than the gas of a move.
  assert.equal(await all.disputes.read('balances', node), 8n * (BOND / 2n));
});
