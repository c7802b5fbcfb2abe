"""Proof files, checked by `og verify` and by an implementation that shares no code with it."""

import json
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import proof_check
from devnet import og, og_chat, og_receipt, og_verify

QUESTION = "Can I get a large latte with oat milk?"


def fetch(http, receipt_id, seconds=120):
    """The proof file of a receipt, through HTTP."""
    deadline = time.monotonic() + seconds
    while True:
        response = http.get(f"/og/v1/receipts/{receipt_id}/proof", params={"wait": 30})
        if response.status_code == 200:
            return response.content
        assert response.status_code == 425, response.text
        assert response.json()["error"]["code"] == "not_finalised_yet"
        assert time.monotonic() < deadline, f"no proof after {seconds} s"


def answered(ai, model, stream):
    """Receipt id of a new answer, and the raw body that the client received."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12, "temperature": 0.7, "seed": 3}
    raw = ai.chat.completions.with_raw_response.create(**body, stream=stream)
    if not stream:
        return raw.headers["og-receipt-id"], raw.http_response.text
    text = "".join(c.choices[0].delta.content or "" for c in raw.parse() if c.choices)
    return raw.headers["og-receipt-id"], text


@pytest.fixture(scope="module")
def proof(ai, model, http):
    """Proof file of one plain answer."""
    return fetch(http, answered(ai, model, stream=False)[0])


@pytest.fixture
def verify(tmp_path):
    """`verify(bytes, *flags)` runs `og verify` on a file with these bytes."""

    def run(data, *flags):
        path = tmp_path / f"{random.getrandbits(64):x}.json"
        path.write_bytes(data)
        done = og_verify(path, *flags)
        path.unlink()
        assert "panicked" not in done.stderr and done.returncode != 101, done.stderr
        return done

    return run


@pytest.mark.parametrize("stream", [False, True])
def test_an_independent_checker_accepts(ai, model, http, devnet, verify, stream):
    receipt_id, received = answered(ai, model, stream)
    data = fetch(http, receipt_id)
    proof = proof_check.check(data)
    claim, opened = proof["receipt"]["claim"], proof["disclosure"]
    assert proof_check.receipt_id(claim) == receipt_id
    assert claim["chain_id"] == devnet.chain_id and claim["sampling"]["seed"] == 3 and claim["max_tokens"] == 12
    assert QUESTION in opened["request"]
    if stream:
        assert opened["response"].endswith("data: [DONE]\n\n")
        chunks = [json.loads(line[6:]) for line in opened["response"].split("\n\n") if line.startswith("data: {")]
        assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]) == received
    else:
        assert opened["response"] == received
        assert json.loads(received)["usage"]["completion_tokens"] == claim["completion_tokens"]
    assert verify(data).returncode == 0
    again = verify(data, "--replay")
    assert again.returncode == 0 and "replay" in again.stdout, again.stdout


def test_verify_prints_every_check(proof, verify, w3):
    plain, machine = verify(proof), verify(proof, "--json")
    assert plain.returncode == machine.returncode == 0, plain.stderr
    report = json.loads(machine.stdout)
    assert len(report["checks"]) >= 10
    for check in report["checks"]:
        assert check["name"] in plain.stdout, check
        assert check["detail"].strip() and check["outcome"].lower() in ("pass", "note")
    # Without a pin, and only there, something is trusted instead of checked.
    assert [c["name"] for c in report["checks"] if c["outcome"] == "note"] == ["keys", "pin"]
    genesis = "0x" + w3.eth.get_block(0)["hash"].hex().removeprefix("0x")
    assert genesis in plain.stdout, "without a pin the report says which network is trusted"
    assert verify(proof, "--genesis", genesis).returncode == 0
    assert verify(proof, "--genesis", "0x" + "11" * 32).returncode != 0


def positions(data, count=200):
    """Places to damage: the first of every kind of character and of every field, then a random sample."""
    kinds = {data.index(byte) for byte in set(data)}
    fields = {match.end() + step for match in re.finditer(rb'": "?(0x)?', data) for step in (0, 1)}
    chosen = kinds | set(random.Random(1).sample(sorted(fields), min(len(fields), 80))) | {0, len(data) - 1}
    rest = [i for i in range(len(data)) if i not in chosen]
    return sorted(chosen | set(random.Random(2).sample(rest, max(0, count - len(chosen)))))


def test_every_changed_byte_is_noticed(proof, verify):
    def damaged(position):
        for mask in (1, 0x20):
            data = bytearray(proof)
            data[position] ^= mask
            if verify(bytes(data)).returncode == 0:
                return position, mask
        return None

    with ThreadPoolExecutor(2) as pool:
        missed = [found for found in pool.map(damaged, positions(proof)) if found]
    assert not missed, f"og verify accepted changes at {missed}"


def test_other_damage_is_noticed(proof, verify):
    swapped = json.loads(proof)
    swapped["log"]["index"] += 1
    reordered = json.dumps(json.loads(proof), sort_keys=True).encode()
    for data in (b"", b"{}", b"null", proof[:-1], proof + b"\n", proof[: len(proof) // 2], proof * 2, reordered,
                 json.dumps(swapped, indent=2).encode() + b"\n", b"[" * 1_000_000, b" " * (17 << 20)):  # fmt: skip
        done = verify(data)
        assert done.returncode != 0 and (done.stderr + done.stdout).strip()


def test_parts_of_two_proofs_do_not_mix(ai, model, http, proof, verify):
    other = json.loads(fetch(http, answered(ai, model, stream=False)[0]))
    for part in ("receipt", "disclosure"):
        mixed = json.loads(proof)
        mixed[part] = other[part]
        assert verify(json.dumps(mixed, indent=2, ensure_ascii=False).encode() + b"\n").returncode != 0


def test_the_spelling_of_the_mixing_test_is_canonical(proof):
    """Otherwise the test above would only show that another spelling is refused."""
    assert json.dumps(json.loads(proof), indent=2, ensure_ascii=False).encode() + b"\n" == proof


def test_chat_receipt_and_verify_on_the_command_line(devnet, tmp_path):
    answer = json.loads(og_chat(devnet, "Hi", "--json").stdout)
    assert answer["answer"].strip() and re.fullmatch(r"0x[0-9a-f]{64}", answer["receipt_id"])
    plain = og_chat(devnet, "Hi")
    assert plain.returncode == 0 and plain.stdout.strip()
    assert re.search(r"0x[0-9a-f]{64}", plain.stdout + plain.stderr), "a person needs the id of the receipt"
    path = tmp_path / "proof.json"
    path.write_bytes(og_receipt(devnet, answer["receipt_id"]))
    assert og_verify(path).returncode == 0


def test_command_line_mistakes(devnet, tmp_path):
    for arguments in (
        ("verify", tmp_path / "missing.json"), ("verify", tmp_path), ("nonsense",), ("devnet", "--no-such-flag"),
        ("receipt", "get", "--proxy", devnet.proxy_url, "0x" + "00" * 32), ("receipt", "get", "--proxy", devnet.proxy_url, "x"),
        ("chat", "--proxy", "http://127.0.0.1:1", "Hi"),
    ):  # fmt: skip
        done = og(*arguments)
        assert done.returncode not in (0, 101), arguments
        assert done.stderr.strip() and "panicked" not in done.stderr, arguments
    assert og("--help").returncode == 0 and og("--version").returncode == 0
