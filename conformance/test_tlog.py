"""A node's log as C2SP tiles, read by `tlog_check.py`, which shares no code with the network and uses Python's library only."""

import base64
import hashlib
import json
import re
import subprocess
import sys

import httpx
import pytest
from eth_account import Account
from eth_utils import keccak
from web3 import Web3
from web3.exceptions import ContractLogicError, Web3Exception

import tlog_check
from claims import checkpoint_signature, parts_of
from court import announce, key_of, until
from devnet import ROOT
from proof_check import digest, raw, typed_claim

ACCOUNT = b"\xffog/eip712-checkpoint/2"


def encoded(point):
    """An Ed25519 point as 32 bytes (RFC 8032, 5.1.2)."""
    inverse = pow(point[2], -1, tlog_check.P)
    x, y = point[0] * inverse % tlog_check.P, point[1] * inverse % tlog_check.P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def ed25519_key(secret):
    """Public key of a node's log: its seed is keccak-256(`og/log-key/1` ‖ secret)."""
    hashed = bytearray(hashlib.sha512(keccak(b"og/log-key/1" + secret)).digest()[:32])
    hashed[0] &= 248
    hashed[31] = hashed[31] & 127 | 64
    return encoded(tlog_check.point_multiply(int.from_bytes(hashed, "little"), tlog_check.BASE))


def verifier(name, key):
    number = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
    return f"{name}+{number.hex()}+{base64.b64encode(key).decode()}"


@pytest.fixture(scope="module")
def log(devnet, node_api, ask_node, w3):
    """URL, verifier key and origin of the first node's log, which has an entry."""
    assert ask_node().status_code == 200
    until(lambda: node_api.get("/og/v1/log/checkpoint").json()["posted_size"], 60, "the log is posted")
    secret = bytes(key_of(devnet, "nodes", 0).key)
    genesis = bytes(w3.eth.get_block(0)["hash"]).hex()
    origin = f"og/{devnet.chain_id}/{genesis}/{node_api.address.lower()[2:]}"
    return f"{str(node_api.base_url).rstrip('/')}/log", verifier(origin, b"\1" + ed25519_key(secret)), origin


def checkpoint(log):
    return httpx.get(f"{log[0]}/checkpoint").content


def grow(log, node_api, ask_node, size):
    """Answers until the checkpoint is larger."""
    assert ask_node().status_code == 200
    return until(lambda: (c := checkpoint(log)) and tlog_check.read_checkpoint(c, log[1])[1] > size and c, 60, "the log grows")


def test_the_whole_log_holds(log, w3, contracts, node_api):
    note, summary = tlog_check.check(log[0], log[1])
    assert summary["origin"] == log[2] and summary["size"] >= 1 and summary["tiles"] >= 1
    # What is shown outside is what the ledger has: never more.
    posted = contracts.ReceiptLog.functions.roots(node_api.address, summary["size"]).call()
    assert posted.hex() == summary["root"], note


def test_entries_are_receipts(log, node_api, ask_node):
    """An entry is the digest of a claim and its signature; everybody who has the receipt finds it."""
    answer = ask_node()
    known = node_api.get(f"/og/v1/receipts/{answer.headers['og-receipt-id']}").json()
    _, signature = parts_of(bytes.fromhex(known["receipt"][2:]))
    until(lambda: tlog_check.read_checkpoint(checkpoint(log), log[1])[1] > known["index"], 60, "the log is posted")
    _, size, _ = tlog_check.read_checkpoint(checkpoint(log), log[1])
    entry = tlog_check.Log(log[0], size).entries(known["index"] // 256)[known["index"] % 256]
    assert len(entry) == 97 and entry[32:] == signature
    assert tlog_check.check(log[0], log[1], entries=[(known["index"], entry)])
    for wrong in (entry[:-1] + bytes([entry[-1] ^ 1]), entry[:-1], entry + b"\0"):
        with pytest.raises(tlog_check.Wrong):
            tlog_check.check(log[0], log[1], entries=[(known["index"], wrong)])


def test_an_entry_of_a_proof_file_is_one_of_its_log():
    """The two formats mean one leaf: the digest is that of the typed data."""
    receipt = json.loads((ROOT / "conformance" / "vectors" / "signed.json").read_text())["receipt"]
    entry = digest(typed_claim(receipt["claim"])) + raw(receipt["evidence"][0]["body"])
    assert len(entry) == 97


def test_it_only_grows(log, node_api, ask_node):
    first = checkpoint(log)
    _, size, root = tlog_check.read_checkpoint(first, log[1])
    for _ in range(3):
        second = grow(log, node_api, ask_node, tlog_check.read_checkpoint(first, log[1])[1])
        _, summary = tlog_check.check(log[0], log[1], since=first)
        assert summary["size"] > summary["since"] >= size
        first = second
    # Back in time, or another root for a size, is noticed.
    _, newer, new_root = tlog_check.read_checkpoint(first, log[1])
    tree = tlog_check.Log(log[0], newer)
    path = tree.consistency_path(size)
    tlog_check.check_consistency(size, root, newer, new_root, path)
    changed = [bytes([path[0][0] ^ 1]) + path[0][1:], *path[1:]]
    for old_size, old_root, new, by in (
        (size, new_root, newer, path), (size, root, newer, changed), (size, root, newer, path[:-1]), (size, root, newer, path + [root]),
        (newer + 1, root, newer, []), (newer, root, newer, []), (newer, new_root, newer, path),
    ):  # fmt: skip
        with pytest.raises(tlog_check.Wrong):
            tlog_check.check_consistency(old_size, old_root, new, new_root, by)


def test_a_tampered_note_is_refused(log):
    note = checkpoint(log).decode()
    origin, size, root, *_ = note.split("\n")
    tlog_check.read_checkpoint(note.encode(), log[1])
    flipped = base64.b64encode(bytes([base64.b64decode(root)[0] ^ 1]) + base64.b64decode(root)[1:]).decode()
    lines = note.split("\n\n")[1].splitlines()
    signature = lines[0].split(" ")[2]
    other = base64.b64encode(base64.b64decode(signature)[:-1] + bytes([base64.b64decode(signature)[-1] ^ 1])).decode()
    tampered = {
        "another size": note.replace(f"\n{size}\n", f"\n{int(size) + 1}\n", 1), "another root": note.replace(root, flipped, 1),
        "another log": note.replace(origin, origin + "0", 1), "a leading zero": note.replace(f"\n{size}\n", f"\n0{size}\n", 1),
        "an extension": note.replace(f"{root}\n", f"{root}\nmore\n", 1), "another signature": note.replace(signature, other),
        "no signature": note.split("\n\n")[0] + "\n\n", "no empty line": note.replace("\n\n", "\n", 1), "a byte more": note + "x",
        "only the account's signature": f"{note.split(chr(10) * 2)[0]}\n\n{lines[1]}\n", "a carriage return": note.replace("\n", "\r\n"),
        "base64 in another spelling": note.replace(root, root.rstrip("="), 1),
    }  # fmt: skip
    for name, text in tampered.items():
        assert text != note, name
        with pytest.raises(tlog_check.Wrong):
            tlog_check.read_checkpoint(text.encode(), log[1])
            pytest.fail(name)
    stranger = verifier(log[2], b"\1" + ed25519_key(b"\x11" * 32))
    with pytest.raises(tlog_check.Wrong):
        tlog_check.read_checkpoint(note.encode(), stranger)


def test_the_accounts_signature_needs_no_other_key(log, devnet, node_api):
    """The second line is the node's account over the same root as typed data: what `Disputes.logEquivocation` takes."""
    note = checkpoint(log).decode()
    _, size, root = tlog_check.read_checkpoint(note.encode(), log[1])
    lines = note.split("\n\n")[1].splitlines()
    assert len(lines) == 2
    name, data = re.fullmatch(r"— (\S+) (\S+)", lines[1]).groups()
    key = ACCOUNT + bytes.fromhex(node_api.address[2:])
    assert name == log[2] and base64.b64decode(data)[:4] == hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
    signature = base64.b64decode(data)[4:]
    assert signature == checkpoint_signature(key_of(devnet, "nodes", 0), devnet.chain_id, devnet.genesis, node_api.address, size, root)
    # Two nodes, or two sizes, never share one.
    assert signature != checkpoint_signature(Account.from_key(b"\x11" * 32), devnet.chain_id, devnet.genesis, node_api.address, size, root)


def test_a_checkpoint_of_two_roots_costs_the_stake(log, w3, contracts, devnet, node_api, account):
    """A second root that the account would sign convicts it: only asked, not sent, for this node is honest."""
    _, size, root = tlog_check.read_checkpoint(checkpoint(log), log[1])
    key, other = key_of(devnet, "nodes", 0), bytes([root[0] ^ 1]) + root[1:]
    sign = lambda r: checkpoint_signature(key, devnet.chain_id, devnet.genesis, node_api.address, size, r)  # noqa: E731
    salt = announce(w3, contracts, account, contracts.Disputes.functions.forkSubject(node_api.address, size).call())
    call = contracts.Disputes.functions.logEquivocation(node_api.address, size, root, sign(root), other, sign(other), salt)
    call.call({"from": account.address})
    with pytest.raises((ContractLogicError, Web3Exception)):
        call.call({"from": Web3.to_checksum_address("0x" + "11" * 20)})


def test_tiles_are_immutable_files(log):
    _, size, _ = tlog_check.read_checkpoint(checkpoint(log), log[1])
    width = min(size, 256)
    path = tlog_check.tile_path(0, 0, width)
    tile = httpx.get(f"{log[0]}/{path}")
    assert tile.status_code == 200 and "immutable" in tile.headers["cache-control"] and len(tile.content) == 32 * width
    assert httpx.get(f"{log[0]}/checkpoint").headers["cache-control"] == "no-cache"
    for wrong in (
        "tile/0/000.p/0", f"tile/0/000.p/{size + 1}", "tile/0/001", "tile/0/0", "tile/9/000", "tile/64/000.p/1", "tile/0/000.p/256",
        "tile/entries/999", "tile/0/-01", "tile/0/x000/000.p/1", "tile/0/%300.p/1", "tile/00/000.p/1", "tile/0/000.p/01", "tile/",
    ):  # fmt: skip
        answer = httpx.get(f"{log[0]}/{wrong}")
        assert answer.status_code == 404 and answer.headers.get("cache-control") != tile.headers["cache-control"], wrong


def test_the_checker_on_the_command_line(log, node_api, ask_node, tmp_path):
    """Status 0 for an honest log, twice; 1 with a reason when what it kept does not fit."""
    kept = tmp_path / "checkpoint"

    def run(key=log[1]):
        arguments = [sys.executable, "-B", str(ROOT / "conformance" / "tlog_check.py"), log[0], key, "--since", str(kept)]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)

    first = run()
    assert first.returncode == 0 and json.loads(first.stdout)["since"] == 0, first.stderr
    grow(log, node_api, ask_node, json.loads(first.stdout)["size"])
    second = run()
    assert second.returncode == 0 and json.loads(second.stdout)["since"] == json.loads(first.stdout)["size"]
    kept.write_bytes(kept.read_bytes().replace(b"\n", b"\n1", 1))
    third = run()
    assert third.returncode == 1 and "tlog_check:" in third.stderr and "Traceback" not in third.stderr
    assert run(key=verifier(log[2], b"\1" + ed25519_key(b"\x11" * 32))).returncode == 1
