"""The ledger is Ethereum's: any client recomputes block hashes and state proofs."""

import time

import pytest
from eth_account import Account
from eth_utils import keccak
from rlp import decode

from conftest import COIN, fund, send
from ledger_check import EMPTY_ROOT, header_bytes, log_slot, proved_account, proved_storage


@pytest.fixture
def proved(w3, devnet):
    """An account with coins, and the newest block after it got them."""
    account = fund(w3, devnet, 3 * COIN)
    send(w3, account, to=Account.create().address, value=COIN)
    return account.address, w3.eth.get_block("latest")


def test_block_hashes_are_the_hashes_of_headers(w3):
    tip = w3.eth.block_number
    for number in {0, 1, tip // 2, tip}:
        block = w3.eth.get_block(number)
        assert keccak(header_bytes(block)) == block["hash"], number


def test_account_proofs(w3, proved):
    address, block = proved
    proof = w3.eth.get_proof(address, [], block["number"])
    nonce, balance, storage, code = proved_account(block["stateRoot"], address, proof["accountProof"])
    assert (nonce, balance, storage) == (1, proof["balance"], EMPTY_ROOT)
    assert balance == w3.eth.get_balance(address, block["number"]) and code == keccak(b"")
    assert (nonce, balance) == (proof["nonce"], proof["balance"])


def test_absence_proofs(w3, proved):
    _, block = proved
    nobody = Account.create().address
    proof = w3.eth.get_proof(nobody, [], block["number"])
    assert proved_account(block["stateRoot"], nobody, proof["accountProof"])[:2] == (0, 0)


def test_a_changed_proof_shows_nothing(w3, proved):
    address, block = proved
    nodes = [bytes(n) for n in w3.eth.get_proof(address, [], block["number"])["accountProof"]]
    for i, node in enumerate(nodes):
        changed = [*nodes[:i], node[:-1] + bytes([node[-1] ^ 1]), *nodes[i + 1 :]]
        with pytest.raises(Exception):  # noqa: B017 (the library has no common exception)
            proved_account(block["stateRoot"], address, [n.hex() for n in changed])


def test_contract_storage_proofs(w3, contracts):
    block = w3.eth.get_block("latest")
    address = contracts.NodeRegistry.address
    used, unused = (1).to_bytes(32), (10**9).to_bytes(32)  # slot 1: length of the list of active nodes
    proof = w3.eth.get_proof(address, [used.hex(), unused.hex()], block["number"])
    _, _, storage_root, code_hash = proved_account(block["stateRoot"], address, proof["accountProof"])
    assert code_hash == keccak(w3.eth.get_code(address)) and storage_root == proof["storageHash"]
    proofs = [entry["proof"] for entry in proof["storageProof"]]
    count, nothing = (proved_storage(storage_root, s, p) for s, p in zip([used, unused], proofs, strict=True))
    assert count == contracts.NodeRegistry.functions.nodeCount().call() and nothing == 0


def test_storage_keys_can_be_short(w3, contracts):
    """Numbers, as web3.py sends them: 0x1 without leading zeros (geth accepts them too)."""
    count = contracts.NodeRegistry.functions.nodeCount().call()
    (entry,) = w3.eth.get_proof(contracts.NodeRegistry.address, [1], "latest")["storageProof"]
    assert entry["value"] == count.to_bytes(1)


def test_log_roots_can_be_proved(w3, contracts, ai, model):
    """After an answer the node's log grows on the ledger, and the root is proved at the documented slot."""
    raw = ai.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=3
    )
    node = w3.to_checksum_address(raw.headers["og-node"])
    deadline = time.monotonic() + 90
    while not (latest := contracts.ReceiptLog.functions.latest(node).call())[0]:
        assert time.monotonic() < deadline, "the node posted no root for 90 s"
        time.sleep(0.5)
    size, root, number = latest
    assert 0 < number <= w3.eth.block_number
    block = w3.eth.get_block("latest")
    address = contracts.ReceiptLog.address
    proof = w3.eth.get_proof(address, [log_slot(node, size).hex()], block["number"])
    _, _, storage_root, _ = proved_account(block["stateRoot"], address, proof["accountProof"])
    proven = proved_storage(storage_root, log_slot(node, size), proof["storageProof"][0]["proof"])
    assert proven == int.from_bytes(root)
    events = contracts.ReceiptLog.events.CheckpointPosted().get_logs(from_block=0, argument_filters={"node": node})
    assert (size, root, number) in [(e["args"]["size"], e["args"]["root"], e["args"]["blockNumber"]) for e in events]


def test_finalised_blocks_have_certificates(w3, rpc):
    latest = rpc("og_finalized")["result"]
    header = bytes.fromhex(latest["header"][2:])
    assert "0x" + keccak(header).hex() == latest["hash"] == latest["certificate"]["block_hash"]
    block = w3.eth.get_block(latest["number"])
    assert header == header_bytes(block)
    assert sum(bin(byte).count("1") for byte in bytes.fromhex(latest["certificate"]["signers"][2:])) > 0


def test_the_network_names_itself(w3, rpc, devnet):
    network = rpc("og_network")["result"]
    genesis = bytes.fromhex(network["genesisHeader"][2:])
    assert keccak(genesis) == w3.eth.get_block(0)["hash"]
    assert decode(genesis)[8] == b"", "the genesis block has number 0"
    assert network["network"]["chain_id"] == devnet.chain_id
    named = {a.lower() for a in network["network"]["contracts"].values()}
    assert named == {a.lower() for a in devnet.ready["contracts"].values()}
