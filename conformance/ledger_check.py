"""Ethereum's header hash and Merkle-Patricia proofs, checked with the Ethereum Foundation's Python libraries."""

import rlp
from eth_utils import keccak
from trie import HexaryTrie
from web3 import Web3

NUMBERS = {"difficulty", "number", "gasLimit", "gasUsed", "timestamp", "baseFeePerGas", "blobGasUsed", "excessBlobGas"}
FIELDS = [
    "parentHash", "sha3Uncles", "miner", "stateRoot", "transactionsRoot", "receiptsRoot", "logsBloom", "difficulty",
    "number", "gasLimit", "gasUsed", "timestamp", "extraData", "mixHash", "nonce", "baseFeePerGas", "withdrawalsRoot",
    "blobGasUsed", "excessBlobGas", "parentBeaconBlockRoot", "requestsHash",
]  # fmt: skip
STATE_ROOT, NUMBER = FIELDS.index("stateRoot"), FIELDS.index("number")
EMPTY_ROOT = keccak(rlp.encode(b""))
EMPTY_CODE = keccak(b"")


def header_bytes(block):
    """RLP of a header (yellow paper 4.3; EIP-1559, 4895, 4844, 4788, 7685) from the JSON of `eth_getBlock*`."""
    values = []
    for field in FIELDS:
        value = block[field]
        if field in NUMBERS:
            number = int(value, 16) if isinstance(value, str) else value
            values.append(number.to_bytes((number.bit_length() + 7) // 8))
        else:
            values.append(bytes(Web3.to_bytes(hexstr=value) if isinstance(value, str) else value))
    return rlp.encode(values)


def trie_value(root, key, proof):
    """Value at `keccak(key)` in the trie under `root`, b"" when the proof shows that there is none. Raises on a bad proof."""
    nodes = [bytes(Web3.to_bytes(hexstr=n) if isinstance(n, str) else n) for n in proof]
    walk_nodes(bytes(root), keccak(key), nodes)
    return HexaryTrie.get_from_proof(bytes(root), keccak(key), [rlp.decode(n) for n in nodes])


def walk_nodes(root, key, nodes):
    """The nodes are those from the root towards the key, in order, and no others. The library takes them in any order."""
    if bytes(root) == EMPTY_ROOT:
        assert not nodes, "the empty trie has no node to show"
        return
    nibbles = [n for byte in key for n in (byte >> 4, byte & 15)]
    expected, rest = root, list(nodes)
    while expected:
        if isinstance(expected, bytes):
            assert rest and keccak(rest[0]) == expected, "another node than the one above names"
            expected = rlp.decode(rest.pop(0))
        node, expected = expected, b""
        if len(node) == 17:
            expected = node[nibbles.pop(0)] if nibbles else b""
            continue
        path = [n for byte in node[0] for n in (byte >> 4, byte & 15)]
        leaf, path = path[0] >= 2, path[1 if path[0] & 1 else 2 :]
        if not leaf and nibbles[: len(path)] == path:
            nibbles, expected = nibbles[len(path) :], node[1]
    assert not rest, "more nodes than the way to the key has"


def proved_account(state_root, address, proof):
    """(nonce, balance, storage root, code hash) that the proof shows."""
    found = trie_value(state_root, Web3.to_bytes(hexstr=address), proof)
    if not found:
        return 0, 0, EMPTY_ROOT, EMPTY_CODE
    nonce, balance, storage, code = rlp.decode(found)
    return int.from_bytes(nonce), int.from_bytes(balance), storage, code


def proved_storage(storage_root, slot, proof):
    """Number in a 32-byte slot that the proof shows."""
    found = trie_value(storage_root, slot, proof)
    return int.from_bytes(rlp.decode(found)) if found else 0


def mapping_slot(key, base):
    """Slot of an entry of a mapping at slot `base` (Solidity documentation, "Layout of State Variables in Storage")."""
    return keccak(key.rjust(32, b"\0") + base)


def log_slot(node, size):
    """Slot of `ReceiptLog.roots[node][size]` (contracts/README.md)."""
    return mapping_slot(size.to_bytes(32), mapping_slot(Web3.to_bytes(hexstr=node), bytes(32)))
