// Compiles Solidity with the pinned solc-js, without network access and reproducibly.
import { createRequire } from 'node:module';
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);
const solc = require('solc');
/** Folder of this package. */
export const ROOT = dirname(fileURLToPath(import.meta.url));

const SETTINGS = {
  optimizer: { enabled: true, runs: 200 },
  // The ledger executes with these rules from its first block.
  evmVersion: 'osaka',
  // No hash of the sources' metadata, so that comments and paths do not change the byte code.
  metadata: { bytecodeHash: 'none' },
  outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object', 'evm.deployedBytecode.object', 'storageLayout'] } },
};

/** Names of the system contracts: every `src/` file with a contract of the same name. */
export const SYSTEM_CONTRACTS = [
  'Auditors', 'Audits', 'Beacon', 'Canaries', 'Disputes', 'Escrow', 'Jury', 'ModelRegistry', 'NodeRegistry', 'ReceiptLog', 'Staking',
  'WrappedNative',
];

function findImport(path) {
  const file = path.startsWith('@') ? join(ROOT, 'node_modules', path) : join(ROOT, path);
  try {
    return { contents: readFileSync(file, 'utf8') };
  } catch (error) {
    return { error: `${path}: ${error.message}` };
  }
}

function sourcesIn(folder) {
  const files = readdirSync(join(ROOT, folder)).filter((name) => name.endsWith('.sol')).sort();
  return files.map((name) => [`${folder}/${name}`, { content: readFileSync(join(ROOT, folder, name), 'utf8') }]);
}

// Warnings count as errors, except in the library, which we do not edit.
function isOurs({ severity, sourceLocation }) {
  if (severity === 'error') return true;
  return severity === 'warning' && !sourceLocation?.file.startsWith('@openzeppelin/');
}

/** Compiles all Solidity files of the given folders; returns artefacts by contract name. Throws on any error or warning. */
export function compile(folders) {
  const sources = Object.fromEntries(folders.flatMap(sourcesIn));
  const input = { language: 'Solidity', sources, settings: SETTINGS };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: findImport }));
  const problems = (output.errors ?? []).filter(isOurs);
  if (problems.length > 0) throw new Error(problems.map((e) => e.formattedMessage).join('\n'));
  const artifacts = {};
  for (const path of Object.keys(sources)) {
    for (const [name, contract] of Object.entries(output.contracts[path] ?? {})) {
      artifacts[name] = {
        contractName: name,
        abi: contract.abi,
        bytecode: `0x${contract.evm.bytecode.object}`,
        deployedBytecode: `0x${contract.evm.deployedBytecode.object}`,
        storageLayout: stableLayout(contract.storageLayout),
      };
    }
  }
  return artifacts;
}

// The compiler numbers its syntax nodes over all sources, and puts the numbers into type names; drop them so that
// a new file does not change the layout of the others.
function stableLayout(layout) {
  const plain = (name) => name?.replace(/(t_(?:struct|contract|enum)\([^)]*\))\d+/g, '$1');
  const entry = ({ astId, type, ...rest }) => ({ ...rest, type: plain(type) });
  const types = Object.entries(layout.types ?? {}).map(([name, type]) => {
    const out = { ...type };
    for (const key of ['key', 'value', 'base']) if (out[key]) out[key] = plain(out[key]);
    if (out.members) out.members = out.members.map(entry);
    return [plain(name), out];
  });
  return { storage: layout.storage.map(entry), types: Object.fromEntries(types) };
}
