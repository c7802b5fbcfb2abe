"""A node's own HTTP interface, as a proxy written by somebody else would use it."""

import json
import secrets

import httpx
import pytest
import rlp
from eth_utils import keccak

BODY = b'{"messages":[{"role":"user","content":"Hi"}],"max_tokens":8,"temperature":0,  "model":"%s"}'


@pytest.fixture(scope="module")
def node(devnet):
    with httpx.Client(base_url=devnet.ready["node_urls"][0].rstrip("/"), timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def body(model):
    return BODY % model.encode()


def ask(node, body, **headers):
    return node.post("/v1/chat/completions", content=body, headers={"content-type": "application/json", **headers})


def commitment(domain, nonce, data):
    return keccak(domain + bytes.fromhex(nonce[2:]) + data)


def claim_of(seal):
    """Fields of the claim in a seal's receipt, undecoded."""
    claim, evidence = rlp.decode(bytes.fromhex(seal["receipt"][2:]))
    assert len(claim) == 26 and evidence
    return claim


def test_info(node, devnet, w3):
    info = node.get("/og/v1/info").json()
    assert info["chain_id"] == devnet.chain_id
    assert bytes.fromhex(info["genesis"][2:]) == bytes(w3.eth.get_block(0)["hash"])
    for served in info["models"]:
        assert "0x" + keccak(bytes.fromhex(served["manifest"][2:])).hex() == served["id"]
        assert served["name"] and served["context_length"] > 0
    assert node.get("/health").status_code == 200 and "# TYPE" in node.get("/metrics").text


def test_sealed_answer(node, body):
    nonce = "0x" + secrets.token_hex(32)
    response = ask(node, body, **{"og-nonce": nonce, "og-proof": "inline"})
    assert response.status_code == 200 and response.headers["content-type"].startswith("application/vnd.og.sealed+json")
    assert response.headers["og-nonce"] == nonce
    sealed = response.json()
    claim = claim_of(sealed["seal"])
    assert claim[4] == commitment(b"og/request/1", nonce, body)
    assert claim[5] == commitment(b"og/response/1", nonce, sealed["response"].encode())
    usage = json.loads(sealed["response"])["usage"]
    assert usage["prompt_tokens"] == len(sealed["seal"]["prompt_tokens"]) == int.from_bytes(claim[8])
    assert usage["completion_tokens"] == len(sealed["seal"]["output_tokens"]) == int.from_bytes(claim[9])
    price = usage["prompt_tokens"] * int(response.headers["og-price-input"])
    price += usage["completion_tokens"] * int(response.headers["og-price-output"])
    assert int.from_bytes(claim[17]) == price
    known = node.get(f"/og/v1/receipts/{response.headers['og-receipt-id']}").json()
    assert known["receipt"] == sealed["seal"]["receipt"] and known["index"] >= 0


def test_stream_commits_to_every_byte(node, model):
    nonce = "0x" + secrets.token_hex(32)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 8})
    response = ask(node, body.encode(), **{"og-nonce": nonce})
    end = response.content.index(b"data: [DONE]\n\n") + len(b"data: [DONE]\n\n")
    committed, rest = response.content[:end], response.content[end:].decode()
    assert rest.startswith(": og-seal {") and rest.endswith("\n\n") and rest.count("\n") == 2
    claim = claim_of(json.loads(rest.removeprefix(": og-seal ")))
    assert claim[4] == commitment(b"og/request/1", nonce, body.encode())
    assert claim[5] == commitment(b"og/response/1", nonce, committed)


def test_plain_answer_has_its_receipt_in_a_header(node, body):
    response = ask(node, body)
    assert response.status_code == 200 and response.json()["object"] == "chat.completion"
    claim = claim_of({"receipt": response.headers["og-receipt"]})
    assert claim[5] == commitment(b"og/response/1", response.headers["og-nonce"], response.content)


def test_the_same_request_twice(node, body):
    nonce = "0x" + secrets.token_hex(32)
    assert ask(node, body, **{"og-nonce": nonce}).status_code == 200
    again = ask(node, body, **{"og-nonce": nonce})
    assert again.status_code == 409 and again.json()["error"]["code"] == "duplicate_request"


@pytest.mark.parametrize("nonce", ["", "0x", "0x12", "11" * 32, "0x" + "zz" * 32, "0x" + "11" * 33])
def test_bad_nonces(node, body, nonce):
    assert ask(node, body, **{"og-nonce": nonce}).status_code == 400


def test_log(node, body):
    ask(node, body)
    checkpoint = node.get("/og/v1/log/checkpoint").json()
    assert checkpoint["size"] >= 1 and checkpoint["posted_size"] <= checkpoint["size"]
    assert len(checkpoint["root"]) == 66
    size = checkpoint["size"]
    proof = node.get("/og/v1/log/inclusion", params={"index": size - 1, "size": size}).json()
    assert (proof["index"], proof["size"]) == (size - 1, size) and isinstance(proof["path"], list)
    for index, bad in ((size, size), (0, size + 10**6), (0, 0), (-1, size), ("x", size)):
        assert node.get("/og/v1/log/inclusion", params={"index": index, "size": bad}).status_code == 400
    assert node.get(f"/og/v1/receipts/0x{'00' * 32}").status_code == 404
