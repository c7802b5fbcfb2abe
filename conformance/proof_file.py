"""How a proof file is spelled: which fields there are, in which order, and the one text of every value.

`read_file(data)` raises `AssertionError` (or `json`'s error) for everything that is not byte for byte what the format demands.
"""

import json
import re
import struct
from decimal import Decimal

LIMIT = 16 << 20
U8, U16, U32, U64 = 8, 16, 32, 64


class Float(float):
    """A number with a fraction or an exponent, as it was written."""


def number(bits):
    return lambda v: type(v) is int and 0 <= v < 1 << bits


def hexadecimal(size=None):
    """Bytes: 0x and lower-case digits, `size` bytes long when it is given."""
    digits = "(?:[0-9a-f]{2})*" if size is None else f"[0-9a-f]{{{2 * size}}}"
    return lambda v: isinstance(v, str) and re.fullmatch(f"0x{digits}", v, re.ASCII) is not None


def quantity(v):
    """A number of at most 256 bits as Ethereum's JSON-RPC writes it."""
    return isinstance(v, str) and re.fullmatch("0x(?:0|[1-9a-f][0-9a-f]{0,63})", v, re.ASCII) is not None


def decimal(v):
    """A number of at most 128 bits as a string."""
    return isinstance(v, str) and re.fullmatch("0|[1-9][0-9]*", v, re.ASCII) is not None and int(v) < 1 << 128


def text(most):
    return lambda v: isinstance(v, str) and len(v.encode()) <= most


def many(kind, most):
    return lambda v: isinstance(v, list) and len(v) <= most and all(fits(kind, item) for item in v)


def real(low, high, above=False):
    """A binary32 number in a range, in the shortest digits that give it."""

    def check(v):
        if not isinstance(v, Float) or v.written == "-0.0":
            return False
        return shortest(float(v)) == v.written and low <= v <= high and not (above and v == low)

    return check


def shortest(x):
    """The shortest decimal digits of a binary32 number, without an exponent from 1e-6 to 1e13."""
    bits = struct.pack(">f", x)
    (x,) = struct.unpack(">f", bits)
    digits = next(d for d in (f"{x:.{p}g}" for p in range(1, 10)) if struct.pack(">f", float(d)) == bits)
    if x == 0 or 1e-6 <= abs(x) < 1e13:
        plain = format(Decimal(digits), "f")
        return plain if "." in plain else plain + ".0"
    mantissa, _, exponent = f"{float(digits):e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


# Objects are lists of (name, kind), in order; `?` marks what may be absent.
SAMPLING = [
    ("temperature", real(0, 2)), ("top_p", real(0, 1, above=True)), ("min_p", real(0, 1)), ("top_k", number(U32)),
    ("presence_penalty", real(-2, 2)), ("frequency_penalty", real(-2, 2)), ("seed", number(U64)),
]  # fmt: skip
HASH, ADDRESS = hexadecimal(32), hexadecimal(20)
CLAIM = [
    ("chain_id", number(U64)), ("genesis", HASH), ("node", ADDRESS), ("model", HASH), ("request_hash", HASH),
    ("response_hash", HASH), ("prompt_hash", HASH), ("output_hash", HASH), ("prompt_tokens", number(U32)),
    ("completion_tokens", number(U32)), ("max_tokens", number(U32)), ("choices", number(U32)), ("sampling", SAMPLING),
    ("options", HASH), ("trace_root", HASH), ("price_input", decimal), ("price_output", decimal), ("price", decimal),
    ("payer", ADDRESS), ("anchor_number", number(U64)), ("anchor_hash", HASH), ("time_ms", number(U64)),
    ("arithmetic_class", number(U8)), ("arithmetic_version", number(U16)), ("rung_requested", number(U8)),
    ("rung_achieved", number(U8)),
]  # fmt: skip
EVIDENCE = [("mode", number(U16)), ("body", hexadecimal())]
TOKENS = many(number(U32), LIMIT)
DISCLOSURE = [
    ("nonce", HASH), ("request", text(1 << 20)), ("response", text(8 << 20)), ("prompt_tokens", TOKENS), ("output_tokens", TOKENS),
]  # fmt: skip
MANIFEST = [
    ("version", number(U16)), ("name", text(LIMIT)), ("architecture", text(LIMIT)), ("arithmetic_version", number(U16)),
    ("context_length", number(U32)), ("vocab_size", number(U32)), ("parameters", number(U64)),
    ("hyperparameters", many([("name", text(LIMIT)), ("value", text(LIMIT))], LIMIT)), ("weights_root", HASH),
    ("tokenizer_hash", HASH), ("template_hash", HASH), ("licence", text(LIMIT)),
]  # fmt: skip
NODES = many(hexadecimal(), 65)
CERTIFICATE = [
    ("epoch", number(U64)), ("view", number(U64)), ("parent_view", number(U64)), ("block_hash", HASH),
    ("signers", hexadecimal()), ("signature", hexadecimal(48)),
]  # fmt: skip
MEMBER = [("peer", HASH), ("vote", hexadecimal(96))]
HANDOVER = [
    ("header", hexadecimal()), ("certificate", CERTIFICATE), ("next", [("epoch", number(U64)), ("members", many(MEMBER, 256))]),
]  # fmt: skip
AUDIT = [
    ("lost", quantity), ("disputed_at", quantity), ("right", quantity), ("posted", quantity), ("posted_proof", NODES),
    ("disputes_proof", NODES), ("lost_proof", NODES), ("disputed_proof", NODES), ("audits_proof", NODES), ("right_proof", NODES),
]  # fmt: skip
LEDGER = [
    ("header", hexadecimal()), ("checkpoint?", [("header", hexadecimal()), ("members", many(MEMBER, 256))]),
    ("handovers", many(HANDOVER, 4096)), ("certificate?", CERTIFICATE), ("account_proof", NODES),
    ("storage_proof", NODES), ("audit?", AUDIT),
]  # fmt: skip
CONTRACTS = [
    "model_registry", "node_registry", "receipt_log", "wrapped_native", "staking", "beacon", "auditors", "audits", "disputes",
    "jury", "escrow",
]  # fmt: skip
NETWORK = [
    ("version", number(U16)), ("chain_id", number(U64)), ("block_time_ms", number(U64)), ("epoch_blocks", number(U64)),
    ("window_seconds", number(U64)), ("game_seconds", number(U64)), ("unbonding_seconds", number(U64)), ("contracts", [(name, ADDRESS) for name in CONTRACTS]),
    ("validators", many([*MEMBER, ("possession", hexadecimal(48))], 256)),
]  # fmt: skip
FILE = [
    ("format", lambda v: v == "og-proof/4"), ("receipt", [("claim", CLAIM), ("evidence", many(EVIDENCE, 8))]),
    ("disclosure", DISCLOSURE), ("manifest", MANIFEST),
    ("log", [("index", number(U64)), ("size", number(U64)), ("path", many(HASH, 63))]), ("ledger", LEDGER),
    ("network", NETWORK), ("validators_root?", HASH), ("genesis_header", hexadecimal()),
]  # fmt: skip


def fits(kind, value):
    """Whether a value is of a kind; the names of an object in the kind's order."""
    if callable(kind):
        return kind(value)
    if not isinstance(value, dict):
        return False
    expected = [(n.removesuffix("?"), k) for n, k in kind if not n.endswith("?") or n.removesuffix("?") in value]
    return list(value) == [n for n, _ in expected] and all(fits(k, value[n]) for n, k in expected)


def written(value, indent="\n"):
    """JSON with two spaces of indentation; floats as they were written."""
    deeper = indent + "  "
    if isinstance(value, Float):
        return value.written
    if isinstance(value, dict) and value:
        return "{" + ",".join(f"{deeper}{json.dumps(k)}: {written(v, deeper)}" for k, v in value.items()) + indent + "}"
    if isinstance(value, list) and value:
        return "[" + ",".join(deeper + written(v, deeper) for v in value) + indent + "]"
    return json.dumps(value, ensure_ascii=False)


def as_written(word):
    number = Float(word)
    number.written = word
    return number


def read_file(data):
    """The proof in these bytes."""
    assert len(data) <= LIMIT, "too long"
    proof = json.loads(data.decode(), parse_float=as_written)
    assert fits(FILE, proof), "not a proof file of this format"
    assert written(proof).encode() + b"\n" == data, "not the one spelling of this file"
    return proof


def write_file(proof):
    """The bytes of a proof; floats must come from `read_file`."""
    return written(proof).encode() + b"\n"
