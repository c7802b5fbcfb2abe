// What the scripts need to know about the network under test.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The ready file of the network. */
export const network = JSON.parse(readFileSync(process.env.OG_READY, 'utf8'));
/** Secret key of an account with coins. */
export const key = process.env.OG_KEY;
/** One coin in wei. */
export const COIN = 10n ** 18n;
/** An id that was never published. */
export const UNKNOWN = `0x${'77'.repeat(32)}`;

/** A committed artefact. */
export const artifact = (name) => JSON.parse(readFileSync(join(process.env.OG_ARTIFACTS, `${name}.json`), 'utf8'));

/** Asserts that a promise rejects with a message (or that of a cause) that matches. */
export async function rejects(promise, pattern) {
  await assert.rejects(promise, (error) => {
    const words = [];
    for (let e = error; e; e = e.cause) words.push(e.message, e.shortMessage, e.details, e.info?.error?.message);
    assert.match(words.join('\n'), pattern);
    return true;
  });
}
