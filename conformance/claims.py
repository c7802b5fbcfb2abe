"""Signed claims and vouchers as contracts and nodes take them, for tests that are a node, a client or an auditor themselves."""

import rlp
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak

from proof_check import CLAIM, PAYMENT, SAMPLING, digest, raw, rlp_number, sampling_bits, typed_claim


def claim_bytes(claim):
    """RLP of the claim, as in receipts."""
    fields = []
    for name, kind in CLAIM:
        if name == "sampling":
            bits = sampling_bits(claim["sampling"])
            fields.append([rlp_number(bits[k]) for k in SAMPLING])
        elif name == "payment":
            fields += [raw(claim[k].lower()) if k == "payer" else rlp_number(int(claim[k])) for k, _ in PAYMENT]
        else:
            fields.append(rlp_number(claim[name]) if kind.startswith("uint") else raw(claim[name].lower()))
    return rlp.encode(fields)


def sign_digest(key, message):
    """65 bytes r ‖ s ‖ v."""
    return bytes(Account.from_key(key.key).unsafe_sign_hash(message).signature)


def signed_claim(key, claim, **changes):
    """(RLP, signature) of a claim of the node `key`, with changes."""
    changed = {**claim, "node": key.address.lower(), **changes}
    return claim_bytes(changed), sign_digest(key, digest(typed_claim(changed)))


def parts_of(receipt):
    """(RLP of the claim, signature) in a receipt's bytes."""
    claim, evidence = rlp.decode(receipt)
    return rlp.encode(claim), evidence[0][1]


def voucher(key, node, total, chain_id, escrow, genesis, name="og escrow"):
    """The header `og-payment`: all that `key` owes `node` since ever."""
    kinds = {
        "Voucher": [
            {"name": "client", "type": "address"},
            {"name": "node", "type": "address"},
            {"name": "total", "type": "uint256"},
        ]
    }
    domain = {"name": name, "version": "1", "chainId": chain_id, "verifyingContract": escrow, "salt": raw(genesis)}
    message = encode_typed_data(domain, kinds, {"client": key.address, "node": node, "total": total})
    return f"{key.address} {total} 0x{bytes(key.sign_message(message).signature).hex()}"


def checkpoint_signature(key, chain_id, genesis, node, size, root):
    """A node's signature over a root of its log (EIP-712, the domain `og log`)."""
    kinds = {
        "Checkpoint": [
            {"name": "node", "type": "address"},
            {"name": "size", "type": "uint64"},
            {"name": "root", "type": "bytes32"},
        ]
    }
    domain = {"name": "og log", "version": "1", "chainId": chain_id, "salt": raw(genesis)}
    message = encode_typed_data(domain, kinds, {"node": node, "size": size, "root": root})
    return bytes(key.sign_message(message).signature)


def auditor_pass(key, genesis, node, index, time):
    """The header `og-auditor`."""
    message = keccak(b"og/audit-request/1" + raw(genesis) + raw(node.lower()) + index.to_bytes(8) + time.to_bytes(8))
    return f"{key.address} {time} 0x{sign_digest(key, message).hex()}"
