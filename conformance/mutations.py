"""Changes of proof files that every checker must refuse: how they are applied, and the list of them.

A mutation is `{file, name, pointer, operation, value, expect}`: the good file, a name, a JSON pointer (RFC 6901), what is done
there and with what, and the check of `og verify` that must fail (`file` is spelling and bounds).

| operation | what it does |
|---|---|
| `set` | replaces the value at the pointer |
| `add` | adds a field at the end of an object, or an item before an index (`-` is the end) of a list |
| `remove` | removes what the pointer names |
| `swap` | exchanges it with its neighbour of the name or index `value` |
| `rename` | gives a field another name, in its place |
| `take` | replaces it by the same part of the file `value` |
| `patch` | sets several pointers: `value` maps them to values; null removes |
| `replace` | replaces the first `value[0]` in the text by `value[1]` |
| `prepend`, `append`, `cut` | text before, text after, bytes that are cut off the end |
"""

import copy
import json

from eth_account import Account

from proof_check import HALF_ORDER, digest, raw, typed_claim
from proof_file import Float, write_file

ORDER = 2 * HALF_ORDER + 1


def steps(pointer):
    return [s.replace("~1", "/").replace("~0", "~") for s in pointer.split("/")[1:]]


def at(value, path):
    for step in path:
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def put(proof, pointer, value):
    *path, last = steps(pointer)
    parent = at(proof, path)
    if isinstance(parent, list):
        parent[int(last)] = value
    elif value is None:
        del parent[last]
    else:
        parent[last] = value


def mutated(mutation, proofs):
    """The bytes of the changed file. `proofs` has the good files by name, as `read_file` gives them."""
    proof = copy.deepcopy(proofs[mutation["file"]])
    operation, value = mutation["operation"], mutation["value"]
    if operation in ("replace", "prepend", "append", "cut"):
        text = write_file(proof)
        if operation == "replace":
            old, new = (v.encode() for v in value)
            assert old in text, mutation
            return text.replace(old, new, 1)
        return {"prepend": lambda: value.encode() + text, "append": lambda: text + value.encode(), "cut": lambda: text[:-value]}[
            operation
        ]()
    *path, last = steps(mutation["pointer"]) or [""]
    parent = at(proof, path)
    match operation:
        case "set":
            put(proof, mutation["pointer"], value)
        case "add" if isinstance(parent, list):
            parent.insert(len(parent) if last == "-" else int(last), value)
        case "add":
            assert last not in parent
            parent[last] = value
        case "remove":
            parent.pop(int(last) if isinstance(parent, list) else last)
        case "swap" if isinstance(parent, list):
            a, b = int(last), int(value)
            parent[a], parent[b] = parent[b], parent[a]
        case "swap":
            parent[last], parent[value] = parent[value], parent[last]
        case "rename":
            renamed = {value if k == last else k: v for k, v in parent.items()}
            parent.clear()
            parent.update(renamed)
        case "take":
            put(proof, mutation["pointer"], copy.deepcopy(at(proofs[value], steps(mutation["pointer"]))))
        case "patch":
            for pointer, changed in value.items():
                put(proof, pointer, changed)
        case _:
            raise AssertionError(operation)
    return write_file(proof)


# The check that sees a change of a value, by the longest prefix of its pointer.
SEEN_BY = {
    "": "file", "/receipt/claim": "signature", "/receipt/evidence": "signature", "/receipt/evidence/0/mode": "file",
    # Only an audited answer says what became of it.
    "/receipt/claim/rung_achieved": "file",
    "/disclosure/nonce": "request", "/disclosure/request": "request", "/disclosure/response": "response",
    "/disclosure/prompt_tokens": "tokens", "/disclosure/output_tokens": "tokens", "/manifest": "model", "/log": "ledger",
    "/ledger/header": "finality", "/ledger/handovers": "finality", "/ledger/certificate": "finality",
    "/ledger/account_proof": "ledger", "/ledger/storage_proof": "ledger", "/ledger/audit": "audit", "/network": "network",
    "/network/version": "file", "/genesis_header": "network",
}  # fmt: skip


def seen_by(pointer):
    return SEEN_BY[max((p for p in SEEN_BY if pointer == p or pointer.startswith(p + "/")), key=len)]


def is_hex(value):
    return value.startswith("0x") and len(value) % 2 == 0 and len(value) > 2 and all(c in "0123456789abcdef" for c in value[2:])


def other(value):
    """Another value of the same kind."""
    if isinstance(value, Float):
        return float(value) / 2 or 0.5
    if isinstance(value, int):
        return value + 1
    if value.isdecimal():
        return str(int(value) + 1)
    if value.startswith("0x"):
        return value[:-1] + format(int(value[-1], 16) ^ 1, "x")
    return value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x"


def walk(value, pointer=""):
    """Every (pointer, value), objects and lists before what they hold."""
    if pointer:
        yield pointer, value
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from walk(child, f"{pointer}/{key}")


def of_every_field(file, proof):
    """Flip, zero, remove, add, reorder, cut short and spell differently."""
    found = []

    def one(what, pointer, operation, value, expect):
        found.append({
            "file": file, "name": f"{what} {pointer}", "pointer": pointer, "operation": operation, "value": value, "expect": expect,
        })  # fmt: skip

    one("another field in", "/surprise", "add", 1, "file")
    for pointer, value in walk(proof):
        expect, named = seen_by(pointer), not pointer.rsplit("/", 1)[1].isdecimal()
        if named:
            one("no", pointer, "remove", None, "audit" if pointer == "/ledger/audit" else "file")
        if isinstance(value, dict):
            keys = list(value)
            one("another field in", pointer + "/surprise", "add", 1, "file")
            one("another name of the first field of", f"{pointer}/{keys[0]}", "rename", keys[0] + "_", "file")
            continue
        if isinstance(value, list):
            sorted_list = pointer.endswith(("/validators", "/members"))
            if value:
                last = len(value) - 1
                one(
                    "without the last of",
                    f"{pointer}/{last}",
                    "remove",
                    None,
                    "file" if pointer == "/receipt/evidence" and not last else expect,
                )
                repeated = "file" if sorted_list or pointer == "/receipt/evidence" else expect
                one("the last twice in", f"{pointer}/-", "add", value[-1], repeated)
                one("empty", pointer, "set", [], "file" if sorted_list or pointer == "/receipt/evidence" else expect)
            if len(value) > 1 and value[0] != value[1]:
                one(
                    "the first two exchanged in",
                    f"{pointer}/0",
                    "swap",
                    "1",
                    "file" if sorted_list or pointer == "/receipt/evidence" else expect,
                )
            continue
        one("another", pointer, "set", other(value), expect)
        if not named:
            continue
        one("null for", pointer, "patch", {pointer: []}, "file")
        if isinstance(value, Float):
            one(
                "two zeros in",
                pointer,
                "replace",
                [f'"{pointer.rsplit("/", 1)[1]}": {value.written}', f'"{pointer.rsplit("/", 1)[1]}": {value.written}0'],
                "file",
            )
        elif isinstance(value, int):
            one("a string for", pointer, "set", str(value), "file")
            one("a negative", pointer, "set", -1, "file")
            if value:
                ordered = pointer.startswith("/receipt/evidence") or pointer == "/network/epoch_blocks"
                one("zero", pointer, "set", 0, "file" if ordered else expect)
        elif value.isdecimal() and not pointer.startswith(("/manifest", "/disclosure")):
            one("a leading zero in", pointer, "set", "0" + value, "file")
        elif value and is_quantity(pointer):
            # As many digits as the number has; a changed one is another number.
            one("a leading zero in", pointer, "set", "0x0" + value[2:], "file")
            one("no digits in", pointer, "set", "0x", "file")
            one("a digit more in", pointer, "set", value + "1", expect if int(value, 16) else "file")
            one("a decimal number for", pointer, "set", str(int(value, 16)), "file")
            one("no 0x in", pointer, "set", value[2:], "file")
            one("a capital X in", pointer, "set", "0X" + value[2:], "file")
            if int(value, 16):
                one("zero for", pointer, "set", "0x0", expect)
        elif is_hex(value):
            zeros = "0x" + "0" * (len(value) - 2)
            if value != zeros:
                # Peers are sorted.
                unsorted = pointer.endswith("/peer") and "/0/peer" not in pointer
                one("zeros for", pointer, "set", zeros, "file" if unsorted else expect)
                if not pointer.endswith("/peer"):
                    one("the first digit of", pointer, "set", "0x" + format(int(value[2], 16) ^ 1, "x") + value[3:], expect)
            if value != value.upper().replace("0X", "0x"):
                one("capitals in", pointer, "set", "0x" + value[2:].upper(), "file" if not free_text(pointer) else expect)
            fixed = not free_text(pointer) and not pointer.endswith(("header", "signers")) and "evidence/1" not in pointer
            one("a byte less in", pointer, "set", value[:-2], "file" if fixed else expect)
            one("a byte more in", pointer, "set", value + "00", "file" if fixed else expect)
            one("no 0x in", pointer, "set", value[2:], "file" if not free_text(pointer) else expect)
    return found


def is_quantity(pointer):
    return pointer.startswith("/ledger/audit/") and pointer.rsplit("/", 1)[1] in ("lost", "disputed_at", "right", "posted")


def free_text(pointer):
    return pointer.startswith(("/manifest/hyperparameters", "/disclosure/request", "/disclosure/response"))


def spelling(file, proof):
    """The same content in other bytes, and bytes that are no content."""
    node = proof["receipt"]["claim"]["node"]
    for name, operation, value in [
        ("a line feed more at the end", "append", "\n"), ("a space at the end", "append", " "), ("a second file", "append", "{}"),
        ("a zero byte at the end", "append", "\0"), ("a byte order mark", "prepend", "\ufeff"), ("a space at the beginning", "prepend", " "),
        ("a comment", "prepend", "// proof\n"), ("no line feed at the end", "cut", 1), ("half a brace", "cut", 2), ("cut off", "cut", 1000),
        ("two fields in a line", "replace", [",\n", ", "]), ("tabs", "replace", ["\n  ", "\n\t"]), ("CRLF", "replace", ["\n", "\r\n"]),
        ("no space after a colon", "replace", ['": ', '":']), ("an escaped letter", "replace", ['"og-proof/4"', '"\\u006fg-proof/4"']),
        ("an escaped slash", "replace", ["og-proof/4", "og-proof\\/4"]), ("an older format", "replace", ["og-proof/4", "og-proof/2"]),
        ("the format before", "replace", ["og-proof/4", "og-proof/3"]),
        ("a newer format", "replace", ["og-proof/4", "og-proof/5"]), ("an exponent", "replace", ['"rung_requested": ', '"rung_requested": 0e0']),
        ("a fraction", "replace", [f'"size": {proof["log"]["size"]}', f'"size": {proof["log"]["size"]}.0']),
        ("a field twice", "replace", ['"node":', f'"node": "{node}",\n      "node":']),
        ("a field with two values", "replace", ['"node":', f'"node": "0x{"11" * 20}",\n      "node":']),
        ("a comma before a brace", "replace", ["\n}", ",\n}"]), ("a negative zero", "replace", ['"min_p": 0.0', '"min_p": -0.0']),
        ("a negative zero that is a number", "replace", ['"top_k": 0', '"top_k": -0']),
        ("not a number", "replace", ['"min_p": 0.0', '"min_p": NaN']), ("more digits than binary32 has", "replace", ['"min_p": 0.0', '"min_p": 1e-60']),
        ("a number beyond 64 bits", "replace", ['"seed": ', '"seed": 99999999999999999999']),
        ("an address with capitals", "replace", [node, "0x" + node[2:].upper()]),
        ("a half surrogate", "replace", ['"request": "', '"request": "\\ud800']),
    ]:  # fmt: skip
        yield {"file": file, "name": name, "pointer": "", "operation": operation, "value": value, "expect": "file"}


def signature_of(proof, key):
    return "0x" + key.unsafe_sign_hash(digest(typed_claim(proof["receipt"]["claim"]))).signature.hex().removeprefix("0x")


def other_signatures(file, proof):
    """The signature in other encodings, and by somebody else."""
    body = raw(proof["receipt"]["evidence"][0]["body"])
    r, s, v = body[:32], int.from_bytes(body[32:64]), body[64]
    mirrored = (r + (ORDER - s).to_bytes(32) + bytes([55 - v])).hex()
    for name, value in [
        ("the same signature with a high s", mirrored), ("v as 0 or 1", (body[:64] + bytes([v - 27])).hex()),
        ("v of EIP-155", (body[:64] + bytes([v + 8])).hex()), ("the other v", (body[:64] + bytes([55 - v])).hex()),
        ("r is zero", (bytes(32) + body[32:]).hex()), ("s is zero", (r + bytes(32) + body[64:]).hex()),
        ("s is the order", (r + ORDER.to_bytes(32) + body[64:]).hex()),
        ("another key's signature", signature_of(proof, Account.from_key("0x" + "11" * 32))[2:]),
    ]:  # fmt: skip
        pointer = "/receipt/evidence/0/body"
        yield {"file": file, "name": name, "pointer": pointer, "operation": "set", "value": "0x" + value, "expect": "signature"}


def earlier(posted, seconds):
    """Value of the slot that says when a log was posted, with another time."""
    return hex(int(posted, 16) - (seconds << 128))


def attacks(proofs, patches):
    """What somebody would try who wants to be believed."""
    signed, audited, several = (proofs[f"{n}.json"] for n in ("signed", "audited", "several"))
    claim, more = signed["receipt"]["claim"], {}
    tokens, output = claim["completion_tokens"] + 1, int(claim["price_output"])
    more["/receipt/claim/completion_tokens"] = more["/receipt/claim/max_tokens"] = tokens
    more["/receipt/claim/price"] = str(int(claim["price_input"]) * claim["prompt_tokens"] + output * tokens)
    half = len(audited["ledger"]["account_proof"]) // 2
    audit = audited["ledger"]["audit"]
    rungs = {"/receipt/claim/rung_achieved": 4, "/receipt/claim/rung_requested": 4}
    lower = {"/receipt/claim/rung_achieved": 1, "/receipt/claim/rung_requested": 1}
    mode = {"mode": 4, "body": "0x01"}
    a, s = "audited.json", "signed.json"
    rows = [
        ("a higher rung", s, "patch", "", rungs, "signature"),
        ("a higher rung with its evidence", s, "patch", "", {**rungs, "/receipt/evidence": [*signed["receipt"]["evidence"], mode]}, "signature"),
        ("a higher rung with evidence and audit of another answer", s, "patch", "",
         {**rungs, "/receipt/evidence": [*signed["receipt"]["evidence"], mode], "/ledger": audited["ledger"], "/log": audited["log"]}, "signature"),
        ("the lower rung and no audit", a, "patch", "", {**lower, "/receipt/evidence": audited["receipt"]["evidence"][:1], "/ledger/audit": None}, "signature"),
        ("only the rung that was achieved is lower", a, "set", "/receipt/claim/rung_achieved", 1, "file"),
        ("only the rung that was asked for is lower", a, "set", "/receipt/claim/rung_requested", 1, "signature"),
        ("a rung that does not exist yet", a, "patch", "", {k: 5 for k in rungs}, "file"),
        ("a rung that nobody knows", a, "patch", "", {k: 99 for k in rungs}, "file"),
        ("no evidence of the audit", a, "remove", "/receipt/evidence/1", None, "signature"),
        ("evidence of an unknown mode", s, "add", "/receipt/evidence/-", {"mode": 9, "body": "0x"}, "signature"),
        ("evidence of an audit in a signed answer", s, "add", "/receipt/evidence/-", mode, "signature"),
        ("the signature twice", s, "add", "/receipt/evidence/-", signed["receipt"]["evidence"][0], "file"),
        ("evidence of the audit twice", a, "add", "/receipt/evidence/-", mode, "file"),
        ("the signature as evidence of an audit", a, "set", "/receipt/evidence/1/body", audited["receipt"]["evidence"][0]["body"], "signature"),
        ("nine pieces of evidence", s, "set", "/receipt/evidence", signed["receipt"]["evidence"] * 9, "file"),
        ("an audit in a signed answer", s, "add", "/ledger/audit", audit, "file"),
        ("the signed answer with the audited one's ledger", s, "take", "/ledger", a, "file"),
        ("evidence in another order", a, "set", "/receipt/evidence", audited["receipt"]["evidence"][::-1], "file"),
        ("another payer", a, "set", "/receipt/claim/payer", "0x" + "22" * 20, "signature"),
        ("nobody pays", a, "set", "/receipt/claim/payer", "0x" + "00" * 20, "signature"),
        ("one token more with its price, not signed again", s, "patch", "", more, "signature"),
        ("a lower price", s, "set", "/receipt/claim/price", "0", "price"),
        ("a price that overflows", s, "patch", "", {"/receipt/claim/price_input": str(2**128 - 1)}, "price"),
        ("tokens that are not paid", s, "set", "/receipt/claim/completion_tokens", 0, "price"),
        ("more tokens than were allowed", s, "set", "/receipt/claim/max_tokens", 0, "tokens"),
        ("a token that the model does not have", s, "set", "/disclosure/output_tokens/0", audited["manifest"]["vocab_size"], "model"),
        ("a separator among the tokens", s, "add", "/disclosure/output_tokens/0", 0xFFFFFFFF, "tokens"),
        ("a separator less", "several.json", "set", "/disclosure/output_tokens", [t for t in several["disclosure"]["output_tokens"] if t != 0xFFFFFFFF], "tokens"),
        ("one answer instead of two", "several.json", "set", "/receipt/claim/choices", 1, "signature"),
        ("no options", "several.json", "set", "/receipt/claim/options", "0x" + "00" * 32, "signature"),
        ("another arithmetic", s, "set", "/receipt/claim/arithmetic_class", 0, "model"),
        ("an answer that is an error", s, "set", "/disclosure/response", '{"error":{"message":"no"}}', "response"),
        ("a stream without its end", "streamed.json", "set", "/disclosure/response", proofs["streamed.json"]["disclosure"]["response"].removesuffix("data: [DONE]\n\n"), "response"),
        ("events without their end", "response.json", "set", "/disclosure/response", proofs["response.json"]["disclosure"]["response"].rsplit("event: ", 1)[0], "response"),
        ("the other file's receipt", s, "take", "/receipt", "other.json", "request"),
        ("the other file's claim", s, "take", "/receipt/claim", "other.json", "signature"),
        ("the other file's evidence", s, "take", "/receipt/evidence", "other.json", "signature"),
        ("the other file's answer", s, "take", "/disclosure", "other.json", "request"),
        ("the other file's nonce", s, "take", "/disclosure/nonce", "other.json", "request"),
        ("the other file's response", s, "take", "/disclosure/response", "other.json", "response"),
        ("the other file's place in the log", s, "take", "/log/index", "other.json", "ledger"),
        ("an older log", s, "take", "/log", a, "ledger"),
        ("a header of another block", s, "take", "/ledger/header", a, "finality"),
        ("a certificate of another block", s, "take", "/ledger/certificate", a, "finality"),
        ("header and certificate of another block", s, "patch", "", {f"/ledger/{p}": audited["ledger"][p] for p in ("header", "certificate")}, "finality"),
        ("another block with its validators, and not its proofs", s, "patch", "", {f"/ledger/{p}": audited["ledger"][p] for p in ("header", "certificate", "handovers")}, "ledger"),
        ("no change of the validators", a, "set", "/ledger/handovers", [], "finality"),
        ("a change of the validators twice", a, "set", "/ledger/handovers", audited["ledger"]["handovers"] * 2, "finality"),
        ("the old validators go on", a, "take", "/ledger/handovers", s, "finality"),
        ("another network's genesis", s, "take", "/genesis_header", "embeddings.json", "network"),
        ("another network's configuration", s, "take", "/network", "embeddings.json", "network"),
        ("another network", s, "patch", "", {f"/{p}": proofs["embeddings.json"][p] for p in ("network", "genesis_header")}, "network"),
        ("another network that the claim names", s, "patch", "", {
            **{f"/{p}": proofs["embeddings.json"][p] for p in ("network", "genesis_header")},
            "/receipt/claim/genesis": proofs["embeddings.json"]["receipt"]["claim"]["genesis"]}, "signature"),
        ("the header of genesis as the proof's", s, "set", "/ledger/header", signed["genesis_header"], "finality"),
        ("another model", s, "take", "/manifest", "embeddings.json", "model"),
        ("a larger vocabulary", s, "set", "/manifest/vocab_size", 1 << 31, "model"),
        ("a window of a second", a, "set", "/network/window_seconds", 1, "network"),
        ("no time for games", a, "set", "/network/game_seconds", 0, "network"),
        ("the account of another contract", a, "set", "/ledger/audit/disputes_proof", audit["audits_proof"], "audit"),
        ("disputes and audits exchanged", a, "swap", "/ledger/audit/disputes_proof", "audits_proof", "audit"),
        ("the log's account as that of the disputes", a, "set", "/ledger/audit/disputes_proof", audited["ledger"]["account_proof"], "audit"),
        ("a shorter account proof", a, "set", "/ledger/account_proof", audited["ledger"]["account_proof"][:half], "ledger"),
        ("a node more in an account proof", a, "add", "/ledger/account_proof/-", "0x80", "ledger"),
        ("a node more in a storage proof", a, "add", "/ledger/storage_proof/-", "0x80", "ledger"),
        ("the last node of a storage proof twice", a, "add", "/ledger/storage_proof/-", audited["ledger"]["storage_proof"][-1], "ledger"),
        ("an empty node in front", a, "add", "/ledger/storage_proof/0", "0x80", "ledger"),
        ("nothing shows the root", a, "set", "/ledger/storage_proof", [], "ledger"),
        ("the audit's account proof is missing", a, "set", "/ledger/audit/audits_proof", [], "audit"),
        ("no auditor found it right", a, "set", "/ledger/audit/right", "0x0", "audit"),
        ("an auditor found others right", a, "set", "/ledger/audit/right", hex(2**256 - 1), "audit"),
        ("it was lost", a, "set", "/ledger/audit/lost", "0x1", "audit"),
        ("it was disputed", a, "set", "/ledger/audit/disputed_at", "0x1", "audit"),
        ("a number beyond 256 bits", a, "set", "/ledger/audit/right", "0x1" + "0" * 64, "file"),
        ("a node more where nothing is lost", a, "add", "/ledger/audit/lost_proof/-", "0x80", "audit"),
        ("a node more where nothing is disputed", a, "add", "/ledger/audit/disputed_proof/-", "0x80", "audit"),
        ("a node more for the auditor's word", a, "add", "/ledger/audit/right_proof/-", "0x80", "audit"),
        ("it was posted long ago", a, "set", "/ledger/audit/posted", earlier(audit["posted"], 10**6), "audit"),
        ("it was posted a second earlier", a, "set", "/ledger/audit/posted", earlier(audit["posted"], 1), "audit"),
        ("it was never posted", a, "patch", "", {"/ledger/audit/posted": "0x0", "/ledger/audit/posted_proof": []}, "audit"),
        ("nothing shows when it was posted", a, "set", "/ledger/audit/posted_proof", [], "audit"),
        ("the root's slot as the time of posting", a, "set", "/ledger/audit/posted_proof", audited["ledger"]["storage_proof"], "audit"),
        ("another contract's slot as the time of posting", a, "set", "/ledger/audit/posted_proof", audit["right_proof"], "audit"),
        ("that nothing was lost as that nothing was posted", a, "patch", "",
         {"/ledger/audit/posted": "0x0", "/ledger/audit/posted_proof": audit["lost_proof"]}, "audit"),
        ("a node more for the time of posting", a, "add", "/ledger/audit/posted_proof/-", "0x80", "audit"),
        ("the time of posting of the open window", a, "patch", "",
         {f"/ledger/audit/{k}": patches["early"]["/ledger"]["audit"][k] for k in ("posted", "posted_proof")}, "audit"),
        ("a path that is too long", s, "set", "/log/path", ["0x" + "00" * 32] * 64, "file"),
        ("a proof of too many nodes", s, "set", "/ledger/account_proof", ["0x80"] * 66, "file"),
        ("a header of the open window", a, "patch", "", patches["early"], "audit"),
        ("a header of the open window without the audit", a, "patch", "", {**patches["early"], "/ledger": {k: v for k, v in patches["early"]["/ledger"].items() if k != "audit"}}, "audit"),
        ("the audit of the open window", a, "set", "/ledger/audit", patches["early"]["/ledger"]["audit"], "audit"),
        ("the seed of another answer", s, "set", "/receipt/claim/sampling/seed", 8, "signature"),
        ("an anchor beyond the proof", s, "set", "/receipt/claim/anchor_number", 1 << 40, "finality"),
    ]  # fmt: skip
    for name, file, operation, pointer, value, expect in rows:
        yield {"file": file, "name": name, "pointer": pointer, "operation": operation, "value": value, "expect": expect}
    for name, patch in patches.items():
        if name.startswith("by "):
            file = a if "audited" in name else s
            expect = "signature" if name in ("by a stranger, the same claim", "by a stranger, the audited claim") else "ledger"
            yield {"file": file, "name": name, "pointer": "", "operation": "patch", "value": patch, "expect": expect}


def all_mutations(proofs, patches):
    """The list, without those that change nothing."""
    found = of_every_field("audited.json", proofs["audited.json"])
    for file in ("signed.json", "audited.json"):
        found += spelling(file, proofs[file])
        found += other_signatures(file, proofs[file])
    found += attacks(proofs, patches)
    for mutation in found:
        assert mutated(mutation, proofs) != write_file(proofs[mutation["file"]]), mutation["name"]
    names = [(m["file"], m["name"]) for m in found]
    assert len(set(names)) == len(names), sorted(n for n in names if names.count(n) > 1)
    return json.loads(json.dumps(found))
