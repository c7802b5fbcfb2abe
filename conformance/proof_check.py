"""A second implementation of the proof file's check, from the written formats and with other libraries.

It shares no code with the network. `check(proof)` raises `AssertionError` (or a library's error) unless every part holds. How the
file is spelled is in `proof_file.py`. What is cheap is checked first, pairings last: they take seconds here.
"""

import functools
import hashlib
import json
import struct
import sys
from hashlib import sha256
from pathlib import Path

import rlp
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak, to_checksum_address
from py_ecc.bls.g2_primitives import pubkey_to_G1, signature_to_G2
from py_ecc.bls.hash_to_curve import hash_to_G1
from py_ecc.optimized_bls12_381 import FQ12, G2, add, curve_order, final_exponentiate, is_inf, multiply, neg, pairing

from ledger_check import EMPTY_ROOT, FIELDS, NUMBER, STATE_ROOT, log_slot, mapping_slot, proved_account, proved_storage
from proof_file import read_file

VOTE_DST = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_"
POSSESSION_DST = b"BLS_POP_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_"
SAMPLING = ["temperature", "top_p", "min_p", "top_k", "presence_penalty", "frequency_penalty", "seed"]
CLAIM = [
    ("chain_id", "uint64"), ("genesis", "bytes32"), ("node", "address"), ("model", "bytes32"), ("request_hash", "bytes32"),
    ("response_hash", "bytes32"), ("prompt_hash", "bytes32"), ("output_hash", "bytes32"), ("prompt_tokens", "uint32"),
    ("completion_tokens", "uint32"), ("max_tokens", "uint32"), ("choices", "uint32"), ("sampling", "SamplingParameters"),
    ("options", "bytes32"), ("trace_root", "bytes32"), ("payment", "Payment"), ("anchor_number", "uint64"),
    ("anchor_hash", "bytes32"), ("time_ms", "uint64"), ("arithmetic_class", "uint8"), ("arithmetic_version", "uint16"),
    ("rung_requested", "uint8"), ("rung_achieved", "uint8"),
]  # fmt: skip


SIGNED, REPLICATED, AUDITED = 1, 3, 4
PAYMENT = [("price_input", "uint128"), ("price_output", "uint128"), ("price", "uint128"), ("payer", "address")]


def raw(text):
    assert text.startswith("0x") and text == text.lower(), text
    return bytes.fromhex(text[2:])


def camel(name):
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


def sampling_bits(sampling):
    """Sampling parameters as integers; floats by their IEEE-754 bits, without a negative zero."""
    bits = lambda x: struct.unpack(">I", struct.pack(">f", x))[0] if x else 0  # noqa: E731
    return {k: sampling[k] if k in ("top_k", "seed") else bits(sampling[k]) for k in SAMPLING}


def typed_claim(claim):
    """The claim as EIP-712 typed data."""
    message = {}
    for name, kind in CLAIM:
        value = claim.get(name)
        if name == "payment":
            value = {camel(k): claim[k] if k == "payer" else int(claim[k]) for k, _ in PAYMENT}
        elif name == "sampling":
            value = {camel(k): v for k, v in sampling_bits(value).items()}
        elif kind.startswith("uint"):
            value = int(value)
        elif kind == "bytes32":
            value = raw(value)
        message[camel(name)] = value
    sampling = [{"name": camel(k), "type": "uint64" if k == "seed" else "uint32"} for k in SAMPLING]
    payment = [{"name": camel(k), "type": t} for k, t in PAYMENT]
    return encode_typed_data(
        {"name": "og receipt", "version": "2", "chainId": claim["chain_id"]},
        {
            "InferenceClaim": [{"name": camel(n), "type": k} for n, k in CLAIM],
            "SamplingParameters": sampling,
            "Payment": payment,
        },
        message,
    )


def digest(signable):
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def token_tree(domain, nonce, tokens):
    """RFC 6962 root over salted leaves, one a token."""
    salt = lambda i: keccak(domain + nonce + i.to_bytes(4))  # noqa: E731
    leaves = [sha256(b"\0" + salt(i) + t.to_bytes(4)).digest() for i, t in enumerate(tokens)]

    def root(part):
        if len(part) < 2:
            return part[0] if part else sha256(b"").digest()
        k = 1 << (len(part) - 1).bit_length() - 1
        return sha256(b"\1" + root(part[:k]) + root(part[k:])).digest()

    return "0x" + root(leaves).hex()


# Evidence besides the node's signature, for each rung of one node: an audited answer submits to audits.
EVIDENCE = {SIGNED: [], AUDITED: [{"mode": AUDITED, "body": "0x01"}]}
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


def check_signature(claim, evidence):
    """Exactly the evidence of the rung, and the node's signature in its one encoding (EIP-2). Returns the leaf of the log."""
    assert claim["rung_achieved"] == claim["rung_requested"]
    first, *rest = evidence
    signed, signature = digest(typed_claim(claim)), raw(first["body"])
    assert first["mode"] == SIGNED and signer(signed, signature) == claim["node"].lower()
    if claim["rung_achieved"] == REPLICATED:
        [group] = rest
        assert group["mode"] == REPLICATED
        check_group(claim, raw(group["body"]))
    else:
        assert rest == EVIDENCE[claim["rung_achieved"]]
    return signed + signature


def signer(message, signature):
    """Who signed a digest, in the one encoding that signatures have."""
    assert len(signature) == 65
    assert signature[64] in (27, 28) and 0 < int.from_bytes(signature[32:64]) <= HALF_ORDER
    return Account._recover_hash(message, signature=signature).lower()


def usage_of(response):
    """What the response says of its tokens; None when a stream says nothing."""
    if response.startswith("data: "):
        assert response.endswith("data: [DONE]\n\n")
        chunks = [json.loads(e.removeprefix("data: ")) for e in response.removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]]
        assert all(not chunk.get("error") for chunk in chunks)
        return next((c["usage"] for c in reversed(chunks) if c.get("usage")), None)
    if response.startswith("event: "):
        name, data = response.removesuffix("\n\n").split("\n\n")[-1].split("\n")
        last = json.loads(data.removeprefix("data: "))
        assert name == f"event: {last['type']}" and last["type"] in ("response.completed", "response.incomplete")
        return last["response"]["usage"]
    return json.loads(response)["usage"]


def check_answer(proof):
    """What the disclosure opens, and that claim, request, response and model say the same."""
    claim, opened, manifest = proof["receipt"]["claim"], proof["disclosure"], proof["manifest"]
    known = lambda i: i < manifest["vocab_size"] or i == 0xFFFFFFFF  # noqa: E731
    assert all(map(known, opened["prompt_tokens"] + opened["output_tokens"]))
    assert claim["completion_tokens"] <= claim["max_tokens"] and claim["arithmetic_class"] == 1
    assert json.loads(opened["request"])["model"] in (manifest["name"], claim["model"])
    usage = usage_of(opened["response"])
    if usage is not None:
        told = usage.get("prompt_tokens", usage.get("input_tokens")), usage.get("completion_tokens", usage.get("output_tokens", 0))
        assert (*told, usage["total_tokens"]) == (claim["prompt_tokens"], claim["completion_tokens"], sum(told))


def check_commitments(proof):
    """The salted commitments, the counts and the price."""
    claim, opened = proof["receipt"]["claim"], proof["disclosure"]
    salt = raw(opened["nonce"])
    commit = lambda domain, data: "0x" + keccak(domain + salt + data).hex()  # noqa: E731
    assert claim["request_hash"] == commit(b"og/request/1", opened["request"].encode())
    assert claim["response_hash"] == commit(b"og/response/1", opened["response"].encode())
    assert claim["prompt_hash"] == token_tree(b"og/prompt-token/2", salt, opened["prompt_tokens"])
    assert claim["output_hash"] == token_tree(b"og/output-token/2", salt, opened["output_tokens"])
    # The answers of one request, and texts to embed, are separated by an id that no token has.
    count = lambda ids: sum(i != 0xFFFFFFFF for i in ids)  # noqa: E731
    assert claim["prompt_tokens"] == count(opened["prompt_tokens"])
    assert claim["completion_tokens"] == count(opened["output_tokens"])
    price = int(claim["price_input"]) * claim["prompt_tokens"] + int(claim["price_output"]) * claim["completion_tokens"]
    assert int(claim["price"]) == price


def claim_of(fields):
    """A claim as proof files have it, from its RLP."""
    claim = {}
    names = [name for name, _ in CLAIM if name != "payment"]
    at = names.index("trace_root") + 1
    names[at:at] = [name for name, _ in PAYMENT]
    kinds = dict(CLAIM) | dict(PAYMENT)
    assert len(fields) == len(names)
    for name, value in zip(names, fields, strict=True):
        if name == "sampling":
            bits = dict(zip(SAMPLING, map(int.from_bytes, value), strict=True))
            unpack = lambda n: struct.unpack(">f", n.to_bytes(4))[0]  # noqa: E731
            claim[name] = {k: n if k in ("top_k", "seed") else unpack(n) for k, n in bits.items()}
        elif kinds[name].startswith("uint"):
            claim[name] = int.from_bytes(value)
        else:
            claim[name] = "0x" + value.hex()
    return claim


# What a node may say for itself although it gives the same answer as another.
OWN = {"node", "response_hash", "price_input", "price_output", "price", "payer", "anchor_number", "anchor_hash", "rung_achieved"}


def check_group(claim, body):
    """Evidence of mode 3: nodes that committed before they could see each other. Returns how many agree, and of how many."""
    group, k, asked, members = rlp.decode(body)
    request = raw(claim["request_hash"])
    assert asked == sorted(set(asked)) and 2 <= len(asked) <= 16
    assert group == keccak(b"og/group/1" + request + b"".join(asked)), "somebody is left out of the group"
    agreed, nodes = 0, []
    for commitment, salt, fields, signature in members:
        theirs = claim_of(fields)
        node = raw(theirs["node"])
        nodes.append(node)
        assert node in asked and all(theirs[n] == claim[n] for n in ("request_hash", "genesis", "chain_id"))
        assert signer(digest(typed_claim(theirs)), signature) == theirs["node"]
        hidden = keccak(b"og/commit/1" + group + node + raw(theirs["output_hash"]) + raw(theirs["trace_root"]) + salt)
        assert signer(hidden, commitment) == theirs["node"], "it committed to something else"
        same = lambda name: str(theirs[name]) == str(claim[name])  # noqa: E731
        agreed += all(same(n) for n, _ in CLAIM if n not in OWN | {"sampling", "payment"}) and (
            sampling_bits(theirs["sampling"]) == sampling_bits(claim["sampling"])
        )
    assert nodes == sorted(set(nodes)) and raw(claim["node"].lower()) in nodes
    assert agreed >= int.from_bytes(k) >= 2 and 2 * agreed > len(asked)
    return agreed, len(asked)


def receipt_id(claim):
    parts = [b"og/receipt-id/1", claim["chain_id"].to_bytes(8)]
    return "0x" + keccak(b"".join([*parts, *(raw(claim[k].lower()) for k in ("genesis", "node", "request_hash"))])).hex()


def rlp_number(n):
    return n.to_bytes((n.bit_length() + 7) // 8)


def model_id(m):
    """keccak-256 of the manifest's RLP."""
    fields = [
        rlp_number(m["version"]), m["name"].encode(), m["architecture"].encode(), rlp_number(m["arithmetic_version"]),
        rlp_number(m["context_length"]), rlp_number(m["vocab_size"]), rlp_number(m["parameters"]),
        [[h["name"].encode(), h["value"].encode()] for h in m["hyperparameters"]],
        raw(m["weights_root"]), raw(m["tokenizer_hash"]), raw(m["template_hash"]), m["licence"].encode(),
    ]  # fmt: skip
    return "0x" + keccak(rlp.encode(fields)).hex()


def log_root(leaf, log):
    """Root of the log from an audit path (RFC 9162, 2.1.3.2)."""
    sha = lambda data: hashlib.sha256(data).digest()  # noqa: E731
    index, last, node = log["index"], log["size"] - 1, sha(b"\0" + leaf)
    assert 0 <= index <= last
    for step in map(raw, log["path"]):
        assert last > 0
        if index & 1 or index == last:
            node = sha(b"\1" + step + node)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = sha(b"\1" + node + step)
        index, last = index >> 1, last >> 1
    assert last == 0
    return node


def varint(n):
    out = b""
    while n >= 0x80:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


@functools.lru_cache
def key_of(data):
    return signature_to_G2(data)


def pair_equal(signature, message, dst, key):
    """Whether e(signature, G2) = e(H(message), key); signature and key in their subgroups and not infinity."""
    for point in (signature, key):
        assert not is_inf(point) and is_inf(multiply(point, curve_order))
    hashed = hash_to_G1(message, dst, hashlib.sha256)
    return final_exponentiate(pairing(neg(G2), signature, False) * pairing(key, hashed, False)) == FQ12.one()


def network_commitment(network, root=None):
    """What the genesis header commits to; `root` stands for the first validators where they are left out."""
    names = (
        "model_registry", "node_registry", "receipt_log", "wrapped_native", "staking", "beacon", "auditors", "audits",
        "disputes", "jury", "escrow",
    )  # fmt: skip
    contracts = [raw(network["contracts"][name].lower()) for name in names]
    if root is None:
        root = keccak(rlp.encode([[raw(v["peer"]), raw(v["vote"]), raw(v["possession"])] for v in network["validators"]]))
    numbers = [rlp_number(network[k]) for k in (
        "version", "chain_id", "block_time_ms", "epoch_blocks", "window_seconds", "game_seconds",
        "unbonding_seconds",
    )]  # fmt: skip
    return keccak(b"og/network/4" + rlp.encode([*numbers, contracts, root]))


def pairs(members):
    """The keys of a validator set as its commitments have them. Sorted by peer key, without repetition."""
    keys = [[raw(m["peer"]), raw(m["vote"])] for m in members]
    peers = [peer for peer, _ in keys]
    assert keys and peers == sorted(set(peers))
    return keys


def set_commitment(members):
    """`parentBeaconBlockRoot` of every block for which these validators vote."""
    return keccak(b"og/validators/1" + rlp.encode(pairs(members)))


def requests_hash(epoch, members):
    """`requestsHash` (EIP-7685) of the block whose only request names the validators from `epoch` on."""
    request = b"\xf0" + rlp.encode([rlp_number(epoch), pairs(members)])
    return hashlib.sha256(hashlib.sha256(request).digest()).digest()


def check_first_set(network):
    """The validators that genesis names prove that they know their vote keys."""
    validators = network["validators"]
    assert len({v["vote"] for v in validators}) == len(validators)
    space = b"og/possession/1/" + network["chain_id"].to_bytes(8)
    for validator in validators:
        assert possesses(space, raw(validator["vote"]), raw(validator["possession"]))


@functools.lru_cache
def possesses(space, vote, possession):
    message = varint(len(space)) + space + vote
    return pair_equal(pubkey_to_G1(possession), message, POSSESSION_DST, key_of(vote))


def check_final(header, certificate, members, epoch_blocks, genesis_hash):
    """A quorum of `members` finalised the header, and it names them. Returns its fields."""
    assert "0x" + keccak(header).hex() == certificate["block_hash"]
    fields = rlp.decode(header)
    assert certificate["epoch"] == int.from_bytes(fields[NUMBER]) // epoch_blocks
    assert fields[FIELDS.index("parentBeaconBlockRoot")] == set_commitment(members)
    keys = [key_of(vote) for _, vote in pairs(members)]
    bits = raw(certificate["signers"])
    signers = [i for i in range(len(bits) * 8) if bits[i // 8] >> i % 8 & 1]
    assert len(bits) == (len(keys) + 7) // 8 and all(i < len(keys) for i in signers)
    assert len(signers) >= len(keys) - (len(keys) - 1) // 3, "no quorum"
    total = keys[signers[0]]
    for i in signers[1:]:
        total = add(total, keys[i])
    space = b"og/consensus/1/" + genesis_hash + b"_FINALIZE"
    views = b"".join(varint(certificate[k]) for k in ("epoch", "view", "parent_view"))
    message = varint(len(space)) + space + views + raw(certificate["block_hash"])
    assert pair_equal(pubkey_to_G1(raw(certificate["signature"])), message, VOTE_DST, total)
    return fields


def follow(network, handovers, genesis_hash, epoch, members):
    """Who votes after the handovers, starting from `members`, who vote in `epoch`."""
    for handover in handovers:
        following = handover["next"]
        assert following["epoch"] > epoch
        fields = check_final(raw(handover["header"]), handover["certificate"], members, network["epoch_blocks"], genesis_hash)
        assert int.from_bytes(fields[NUMBER]) == following["epoch"] * network["epoch_blocks"] - 1
        epoch, members = following["epoch"], following["members"]
        assert fields[FIELDS.index("requestsHash")] == requests_hash(epoch, members)
    return members


def slots_of_dispute(node, receipt):
    """Slots of `Disputes.lost[node][receipt]` and `Disputes.disputedAt[node][receipt]`."""
    return tuple(mapping_slot(raw(receipt), mapping_slot(raw(node), bytes([base]).rjust(32, b"\0"))) for base in (8, 7))


def right_slot(node, index):
    """Slot of the word of `Audits._right[node]` that has the bit of the receipt at `index`."""
    return mapping_slot((index // 256).to_bytes(32), mapping_slot(raw(node), (6).to_bytes(32)))


def posted_slot(node, size):
    """Slot of `ReceiptLog._posted[node][size]`."""
    return mapping_slot(size.to_bytes(32), mapping_slot(raw(node), (2).to_bytes(32)))


def check_audit(proof, fields):
    """What became of an audited answer: nobody can refute it any more, and nobody has. Whether an auditor found it right."""
    claim, network, ledger, log = proof["receipt"]["claim"], proof["network"], proof["ledger"], proof["log"]
    audit, node = ledger["audit"], claim["node"].lower()

    def storage(contract, nodes):
        *_, root, _ = proved_account(fields[STATE_ROOT], network["contracts"][contract], nodes)
        return root

    def value(root, slot, name, proof_name):
        told, nodes = int(audit[name], 16), audit[proof_name]
        # The empty trie has no node to show.
        found = 0 if root == EMPTY_ROOT and not nodes else proved_storage(root, slot, nodes)
        assert found == told
        return told

    disputes, audits = storage("disputes", audit["disputes_proof"]), storage("audits", audit["audits_proof"])
    lost_slot, disputed_slot = slots_of_dispute(node, receipt_id(claim))
    assert value(disputes, lost_slot, "lost", "lost_proof") == 0, "it was found wrong"
    disputed = value(disputes, disputed_slot, "disputed_at", "disputed_proof")
    right = value(audits, right_slot(node, log["index"]), "right", "right_proof")
    # The time in the claim is the node's own word: what counts is when everybody could see the receipt, if that was later.
    receipts = storage("receipt_log", ledger["account_proof"])
    posted = value(receipts, posted_slot(node, log["size"]), "posted", "posted_proof") >> 128 & (1 << 64) - 1
    since = max(posted, claim["time_ms"] // 1000)
    until = since + network["window_seconds"] + (network["game_seconds"] if disputed else 0)
    assert int.from_bytes(fields[FIELDS.index("timestamp")]) > until, "it can still be refuted"
    return bool(right >> log["index"] % 256 & 1)


def check_finality(proof, genesis, checkpoint):
    """The header is final: from the first validators on, or for a reader who trusts the block `checkpoint` (number, hash)."""
    ledger, network = proof["ledger"], proof["network"]
    epoch, members = 0, network["validators"]
    assert ("checkpoint" in ledger) == (checkpoint is not None)
    if checkpoint is None:
        check_first_set(network)
    else:
        start = raw(ledger["checkpoint"]["header"])
        fields = rlp.decode(start)
        assert (int.from_bytes(fields[NUMBER]), "0x" + keccak(start).hex()) == checkpoint
        members = ledger["checkpoint"]["members"]
        if ledger["header"] == ledger["checkpoint"]["header"]:
            assert not members and not ledger["handovers"] and "certificate" not in ledger
            return
        assert fields[FIELDS.index("parentBeaconBlockRoot")] == set_commitment(members)
        epoch = checkpoint[0] // network["epoch_blocks"]
    members = follow(network, ledger["handovers"], keccak(genesis), epoch, members)
    check_final(raw(ledger["header"]), ledger["certificate"], members, network["epoch_blocks"], keccak(genesis))


def check(file, pinned=None, checkpoint=None):
    """Checks the bytes of a proof file; `pinned` is the hash of the genesis block that the reader means, `checkpoint` the number and hash of a
    final block that they trust. Returns the proof."""
    proof = read_file(file)
    claim, ledger, network = proof["receipt"]["claim"], proof["ledger"], proof["network"]
    assert pinned in (None, claim["genesis"])
    check_answer(proof)
    check_commitments(proof)
    leaf = check_signature(claim, proof["receipt"]["evidence"])
    assert model_id(proof["manifest"]) == claim["model"]
    assert proof["manifest"]["arithmetic_version"] == claim["arithmetic_version"]
    genesis = raw(proof["genesis_header"])
    assert "0x" + keccak(genesis).hex() == claim["genesis"]
    fields = rlp.decode(genesis)
    root = raw(proof["validators_root"]) if "validators_root" in proof else None
    assert root is None or (checkpoint is not None and not network["validators"])
    assert fields[FIELDS.index("extraData")] == network_commitment(network, root) and fields[NUMBER] == b""
    assert network["chain_id"] == claim["chain_id"]
    assert network["version"] == 4 and network["epoch_blocks"] >= 2
    fields = rlp.decode(raw(ledger["header"]))
    assert claim["anchor_number"] <= int.from_bytes(fields[NUMBER])
    address = to_checksum_address(network["contracts"]["receipt_log"])
    _, _, storage_root, _ = proved_account(fields[STATE_ROOT], address, ledger["account_proof"])
    slot = log_slot(claim["node"], proof["log"]["size"])
    assert proved_storage(storage_root, slot, ledger["storage_proof"]) == int.from_bytes(log_root(leaf, proof["log"]))
    assert ("audit" in ledger) == (claim["rung_achieved"] == AUDITED)
    if "audit" in ledger:
        check_audit(proof, fields)
    check_finality(proof, genesis, checkpoint)
    return proof


if __name__ == "__main__":
    for name in sys.argv[1:]:
        check(Path(name).read_bytes())
        print(f"{name}: every part holds")
