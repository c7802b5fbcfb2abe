// `node build.mjs` compiles src/ and writes artifacts/; `node build.mjs --check` fails when artifacts/ differ.
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { compile, ROOT, SYSTEM_CONTRACTS } from './compile.mjs';

const check = process.argv.includes('--check');
const folder = join(ROOT, 'artifacts');
const artifacts = compile(['src']);
const expected = SYSTEM_CONTRACTS.map((name) => {
  if (!artifacts[name]) throw new Error(`no contract ${name} in src/`);
  return [`${name}.json`, `${JSON.stringify(artifacts[name], null, 2)}\n`];
});

mkdirSync(folder, { recursive: true });
const stale = [];
for (const [file, text] of expected) {
  const path = join(folder, file);
  if (existsSync(path) && readFileSync(path, 'utf8') === text) continue;
  stale.push(file);
  if (!check) writeFileSync(path, text);
}
const names = new Set(expected.map(([file]) => file));
stale.push(...readdirSync(folder).filter((file) => !names.has(file)).map((file) => `${file} (not ours)`));

if (check && stale.length > 0) {
  console.error(`artifacts/ differ from src/: ${stale.join(', ')}. Run "node build.mjs" and commit the result.`);
  process.exit(1);
}
console.log(check ? 'artifacts/ match src/' : `written: ${stale.join(', ') || 'nothing, all up to date'}`);
