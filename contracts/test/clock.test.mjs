// Random games: whatever parties do, clocks end every game in time, and nothing stays held or is paid twice afterwards.
import assert from 'node:assert/strict';
import test from 'node:test';
import { toBeHex } from 'ethers';
import { after, bond, BURN, claim, client, court, dispute, Log, RULES, settle, step, TURN } from './court.mjs';
import { COIN, MIN_STAKE, person, seeded } from './evm.mjs';

const node = person(1);
const HUNTERS = [person(5), person(6), person(7)];
const { clockSeconds, windowSeconds } = RULES.disputes;
const STAKE = 3n * MIN_STAKE;

/** Plays at random until everything has ended; fails when a rule is broken on the way. */
async function play(seed) {
  const random = seeded(seed);
  const all = await court();
  const { chain, disputes, escrow } = all;
  await bond(all, node, STAKE);
  for (const hunter of HUNTERS) await chain.fund(hunter, 1000n * COIN);
  const log = new Log(all, node);
  log.add(1);
  await log.post();
  const alice = await client(all, 1);
  await escrow.send(alice.address, 'deposit', [node], 10n * COIN);
  await settle(all, node, 1, alice.voucher(node, 10n * COIN));
  const before = { burn: await chain.balance(BURN), node: await chain.balance(node) };
  const earned = (await escrow.read('bucketOf', node, 0)).amount;

  const games = [];
  const open = async () => {
    const by = HUNTERS[random(3)];
    const price = BigInt(random(5)) * COIN;
    const c = claim({ node, receiptId: toBeHex(1 + random(3), 32), payer: alice.address, price, timeMs: chain.time * 1000n });
    const turn = random(2);
    const sent = await dispute(all, by, c, step(turn)).catch((e) => { assert.ok(e.revert, e.message); });
    if (sent) games.push({ id: sent.values.id, by, turn, state: after(c.digest, step(turn)), from: chain.time, used: [0n, 0n], at: chain.time });
  };
  const move = async (game) => {
    const turn = [0, 1, 0, 1, 0, 1, TURN.challengerWon, TURN.nodeWon][random(8)];
    const who = [game.by, node][game.turn];
    const sent = await disputes.send(who, 'move', [game.id, game.state, step(turn)]).catch((e) => {
      assert.equal(e.revert, 'Late');
      assert.ok(game.used[game.turn] + (chain.time - game.at) > clockSeconds, 'it was not late');
    });
    if (!sent) return;
    game.used[game.turn] += chain.time - game.at;
    assert.ok(game.used[game.turn] <= clockSeconds, 'more time than the clock had');
    Object.assign(game, { turn, state: after(game.state, step(turn)), at: chain.time });
  };
  for (let i = 0; i < 40; i++) {
    const live = games.filter((g) => g.turn < 2);
    if (live.length < 6 && random(3) === 0) await open();
    else if (live.length > 0) await move(live[random(live.length)]);
    chain.time += BigInt(random(30));
  }
  // Two clocks later every game can be ended, by anybody.
  chain.time += 2n * clockSeconds;
  for (const game of games.filter((g) => g.turn < 2)) await disputes.send(person(8), 'timeout', [game.id]);
  for (const game of games) assert.ok((await disputes.read('gameOf', game.id)).turn >= 2n);

  assert.deepEqual([await all.nodes.read('holds', node), await escrow.read('holds', node), await disputes.read('openCount', node)], [0n, 0n, 0n]);
  for (let n = 1; n <= 3; n++) {
    assert.deepEqual([...(await disputes.read('contestOf', node, toBeHex(n, 32)))].map(Number), [0, 0, 0, 0]);
  }
  // All that came in is owed or burnt: bonds and slashes here, earnings there.
  let owed = 0n;
  for (const who of [node, ...HUNTERS]) owed += await disputes.read('balances', who);
  assert.equal(await chain.balance(disputes.address), owed);
  const left = (await all.nodes.read('nodeInfo', node)).stake;
  const burnt = (await chain.balance(BURN)) - before.burn;
  const refunds = await escrow.read('balances', alice.address);
  const rest = (await escrow.read('bucketOf', node, 0)).amount + (await escrow.read('reserves', node));
  assert.equal(BigInt(games.length) * COIN + (STAKE - left) + (earned - rest), owed + burnt + refunds);
  // What is left goes out.
  chain.time += windowSeconds + RULES.escrow.windowSeconds;
  if (rest > 0n) await escrow.send(node, 'release', [node, 0]);
  assert.equal(await chain.balance(node), before.node + rest);
  return games.length;
}

test('clocks end every random game, and afterwards nothing is held and every coin has an owner', async (t) => {
  let games = 0;
  for (const seed of [1, 2, 3, 4]) games += await play(seed);
  t.diagnostic(`${games} games`);
  assert.ok(games >= 20, `${games} games`);
});
