// Single authorisations, and what clients pay in all.
import assert from 'node:assert/strict';
import test from 'node:test';
import { toBeHex } from 'ethers';
import { bond, client, court, dispute, Log, pass, RULES, settle, step, TURN } from './court.mjs';
import { COIN, person, reverts, seeded, TX_GAS_MAX } from './evm.mjs';

const node = person(1);
const other = person(2);
const { withdrawSeconds, windowSeconds } = RULES.escrow;
const share = (amount) => amount - amount * 50n / 1000n;

/** A node that logged four answers, at one coin each, for a client with a pocket of ten coins. */
async function ready(genesis) {
  const all = await court({}, genesis);
  await bond(all, node);
  await bond(all, other);
  const alice = await client(all, 1);
  await all.escrow.send(alice.address, 'deposit', [node], 10n * COIN);
  const log = new Log(all, node);
  log.add(4, () => ({ payer: alice.address, price: COIN }));
  await log.post();
  const id = (i) => log.claims[i].receiptId;
  const redeem = ([authorisation, signature], i, by = node) =>
    all.escrow.send(by, 'redeem', [authorisation, signature, log.posted, i, log.logged(i)]);
  return { ...all, all, alice, log, id, redeem };
}
const taken = async (all, who) => (await all.escrow.read('pocketOf', who.address, node)).taken;

test('redeem: a logged answer is paid once, with its own authorisation', async () => {
  const { all, alice, id, redeem } = await ready();
  const first = alice.authorisation(node, id(0), 7n, 2n * COIN);
  const { events } = await redeem(first, 0);
  assert.deepEqual(events.map((e) => e.name), ['Redeemed', 'Settled', 'Funded']);
  assert.equal(await taken(all, alice), COIN);
  assert.equal((await all.escrow.read('bucketOf', node, 0)).amount, share(COIN));
  await reverts(redeem(first, 0), 'AlreadyPaid', [7n]);
  // The same number for another receipt, or the same receipt with what was signed for another.
  await reverts(redeem(alice.authorisation(node, id(1), 7n, COIN), 1), 'AlreadyPaid', [7n]);
  await reverts(redeem(alice.authorisation(node, id(1), 8n, COIN), 2), 'BadAuthorisation');
  // At most what the client agreed to.
  await redeem(alice.authorisation(node, id(1), 8n, COIN / 4n), 1);
  assert.equal(await taken(all, alice), COIN + COIN / 4n);
});

test('redeem: what is signed by others, for others, in other networks or too late is refused', async () => {
  const { all, alice, log, id, redeem } = await ready();
  const bob = await client(all, 2);
  const [authorisation, signature] = alice.authorisation(node, id(0), 1n, COIN);
  await reverts(redeem([{ ...authorisation, maxPrice: 2n * COIN }, signature], 0), 'BadAuthorisation');
  await reverts(redeem([{ ...authorisation, client: bob.address }, signature], 0), 'BadAuthorisation');
  await reverts(redeem([authorisation, '0x'], 0), 'BadAuthorisation');
  await reverts(redeem([authorisation, signature], 0, other), 'BadAuthorisation');
  await reverts(redeem(alice.authorisation(other, id(0), 1n, COIN), 0, other), 'WrongNode');
  // Who is not named as payer has authorised nothing here.
  await reverts(redeem(bob.authorisation(node, id(0), 1n, COIN), 0), 'BadAuthorisation');
  const there = await ready(toBeHex(0xbee, 32));
  await reverts(redeem(there.alice.authorisation(node, id(0), 1n, COIN), 0), 'BadAuthorisation');
  // A voucher is no authorisation.
  await reverts(redeem([authorisation, alice.voucher(node, COIN, 1n)[1]], 0), 'BadAuthorisation');
  const expiry = all.chain.time + 10n;
  const short = alice.authorisation(node, id(0), 1n, COIN, expiry);
  pass(all, 9n + windowSeconds);
  await redeem(short, 0);
  pass(all, 2n);
  await reverts(redeem(alice.authorisation(node, id(1), 2n, COIN, expiry), 1), 'Expired', [expiry]);
  assert.equal(log.posted, 4);
});

test('redeem: only logged answers are paid', async () => {
  const { all, alice, log, id } = await ready();
  log.add(1, () => ({ payer: alice.address, price: COIN }));
  const [authorisation, signature] = alice.authorisation(node, id(4), 1n, COIN);
  const redeem = (size, i, logged) => all.escrow.send(node, 'redeem', [authorisation, signature, size, i, logged]);
  const unlogged = { ...log.claims[4], path: log.logged(3).path };
  await reverts(redeem(4, 3, unlogged), 'NotInLog');
  await log.post();
  await redeem(5, 4, log.logged(4));
  assert.equal(await taken(all, alice), COIN);
});

test('redeem: a voucher takes the place of the authorisations that it covers', async () => {
  const { all, alice, id, redeem } = await ready();
  await redeem(alice.authorisation(node, id(0), 1n, COIN), 0);
  // The total has the answer that was redeemed.
  await settle(all, node, 4, alice.voucher(node, 3n * COIN, 3n));
  assert.equal(await taken(all, alice), 3n * COIN);
  for (const i of [1, 2]) await reverts(redeem(alice.authorisation(node, id(i), BigInt(i + 1), COIN), i), 'AlreadyPaid');
  await redeem(alice.authorisation(node, id(3), 4n, COIN), 3);
  assert.equal(await taken(all, alice), 4n * COIN);
  // An older voucher opens nothing again.
  await reverts(settle(all, node, 4, alice.voucher(node, 2n * COIN, 2n)), 'NothingDue');
  await reverts(redeem(alice.authorisation(node, id(2), 3n, COIN), 2), 'AlreadyPaid', [3n]);
});

test('redeem: nobody pays for an answer that was found wrong, or out of an empty pocket', async () => {
  const { all, alice, log, id, redeem } = await ready();
  const c = log.claims[0];
  const { events } = await dispute(all, person(5), { node, ...c }, step(TURN.challengerWon));
  assert.ok(events.length > 0);
  await reverts(redeem(alice.authorisation(node, id(0), 1n, COIN), 0), 'WrongAnswer');
  await all.escrow.send(alice.address, 'requestWithdraw', [node, 10n * COIN]);
  pass(all, withdrawSeconds);
  await all.escrow.send(alice.address, 'withdraw', [node]);
  await reverts(redeem(alice.authorisation(node, id(1), 2n, COIN), 1), 'NothingDue');
  // Later it can be taken: nothing was used up.
  await all.escrow.send(alice.address, 'deposit', [node], COIN / 2n);
  await redeem(alice.authorisation(node, id(1), 2n, COIN), 1);
  assert.equal(await taken(all, alice), COIN / 2n);
});

test('redeem: gas', async (t) => {
  const { alice, id, redeem } = await ready();
  const { gas } = await redeem(alice.authorisation(node, id(0), 1n, COIN), 0);
  t.diagnostic(`redeem: ${gas} gas`);
  assert.ok(gas < TX_GAS_MAX);
});

/** Random deposits, authorisations, vouchers, redemptions, withdrawals and refunds of two clients who follow the rules. */
async function walk(seed, steps) {
  const random = seeded(seed);
  const all = await court();
  await bond(all, node);
  const log = new Log(all, node);
  const price = () => BigInt(1 + random(1000));
  const judge = all.disputes.address;
  await all.chain.fund(judge, 100n * COIN);
  const clients = await Promise.all([1, 2].map(async (n) => {
    const who = await client(all, n);
    return { who, answers: [], vouchers: [], redeemed: new Set() };
  }));
  for (const c of clients) log.add(20, () => ({ payer: c.who.address, price: price() }));
  await log.post();
  clients.forEach((c, n) => {
    c.answers = Array.from({ length: 20 }, (_, i) => ({ at: n * 20 + i, sequence: BigInt(i + 1), price: log.claims[n * 20 + i].price }));
  });
  let [inside, paidOut] = [0n, 0n];
  const before = await all.chain.balance(all.audits.address);
  const attempt = async (promise) => {
    try { return await promise; } catch (error) {
      assert.ok(error.revert, error.message);
      return null;
    }
  };
  let done = 0;
  for (let i = 0; i < steps; i++) {
    const c = clients[random(2)];
    const { address } = c.who;
    const answer = c.answers[random(20)];
    switch (random(8)) {
      case 0: {
        const amount = price();
        await all.escrow.send(address, 'deposit', [node], amount);
        inside += amount;
        break;
      }
      case 1: {
        // The total of all answers up to a sequence, or of some of them: a client pays for what it saw.
        const upTo = c.answers.filter((a) => a.sequence <= answer.sequence && random(4) > 0);
        c.vouchers.push(c.who.voucher(node, upTo.reduce((s, a) => s + a.price, 0n), answer.sequence));
        break;
      }
      case 2: case 3: {
        const voucher = c.vouchers[random(c.vouchers.length || 1)];
        if (voucher && await attempt(settle(all, node, 40, voucher))) done++;
        break;
      }
      case 4: case 5: {
        const signed = c.who.authorisation(node, log.claims[answer.at].receiptId, answer.sequence, answer.price);
        const call = all.escrow.send(node, 'redeem', [...signed, 40, answer.at, log.logged(answer.at)]);
        if (await attempt(call)) {
          assert.ok(!c.redeemed.has(answer.sequence), 'an authorisation was taken twice');
          c.redeemed.add(answer.sequence);
          done++;
        }
        break;
      }
      case 6: {
        await attempt(all.escrow.send(address, 'requestWithdraw', [node, price() / 2n]));
        pass(all, withdrawSeconds);
        const held = await all.chain.balance(all.escrow.address);
        await attempt(all.escrow.send(address, 'withdraw', [node]));
        paidOut += held - await all.chain.balance(all.escrow.address);
        break;
      }
      default: {
        await attempt(all.escrow.send(judge, 'refund', [node, address, price()]));
        pass(all, windowSeconds / 8n);
        const count = await all.escrow.read('bucketCount', node);
        const held = await all.chain.balance(all.escrow.address);
        if (count > 0n) await attempt(all.escrow.send(other, 'release', [node, random(Number(count))]));
        if (random(2)) await attempt(all.escrow.send(address, 'collect'));
        paidOut += held - await all.chain.balance(all.escrow.address);
      }
    }
    // Nobody pays more than the prices of all that it authorised.
    let owed = 0n;
    for (const { who, answers } of clients) {
      const pocket = await all.escrow.read('pocketOf', who.address, node);
      const most = answers.reduce((s, a) => s + a.price, 0n);
      assert.ok(pocket.taken <= most, `${pocket.taken} of ${most} was taken`);
      assert.ok(pocket.refunded <= pocket.taken);
      owed += pocket.held + await all.escrow.read('balances', who.address);
    }
    for (let n = 0n; n < await all.escrow.read('bucketCount', node); n++) owed += (await all.escrow.read('bucketOf', node, n)).amount;
    // The escrow holds exactly what it owes, and no coin was made or lost.
    const balance = await all.chain.balance(all.escrow.address);
    assert.equal(balance, owed);
    const audits = await all.chain.balance(all.audits.address) - before;
    assert.equal(inside, balance + paidOut + audits);
  }
  return done;
}

test('redeem: solvent and never paid twice, in any order of deposits, vouchers, redemptions, withdrawals and refunds', async (t) => {
  let done = 0;
  for (const seed of [1, 2, 3]) done += await walk(seed, 60);
  t.diagnostic(`${done} payments`);
  assert.ok(done > 15, `${done}`);
});
