"""The assurance `replicated`: several nodes answer, and what most of them say is the answer."""

import json
import secrets
import subprocess
import time

import httpx
import pytest
from eth_utils import keccak

import proof_check
from devnet import OG, free_port, og, og_receipt, og_verify

QUESTION = "Can I get a large latte with oat milk?"
WANTED = {"og-assurance": "replicated"}


def body(model, **more):
    return {"model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12, **more}


def ask(http, model, headers=None, **more):
    return http.post("/v1/chat/completions", json=body(model, **more), headers=WANTED | (headers or {}))


def proved(devnet, receipt_id, tmp_path):
    """The checked proof file of an answer, and what `og verify` says of it."""
    data = og_receipt(devnet, receipt_id)
    path = tmp_path / "proof.json"
    path.write_bytes(data)
    return proof_check.check(data), og_verify(path, "--network", devnet.ready["network"], "--replay")


def group_of(proof):
    """How many agree of how many, by the checker that shares no code with the network."""
    first, second = proof["receipt"]["evidence"]
    assert (first["mode"], second["mode"]) == (1, 3)
    return proof_check.check_group(proof["receipt"]["claim"], proof_check.raw(second["body"]))


def owed(folder):
    """What a proxy owes each node in all, in wei: what it vouched for, and answers that it has not seen in the node's log yet."""
    accounts = json.loads((folder / "owed.totals").read_text())
    prices = lambda account: (int(e["price"], 16) for entry in account["open"].values() if entry != "Asked" for e in entry.values())  # noqa: E731
    return {node.lower(): int(account["total"], 16) + sum(prices(account)) for node, account in accounts.items()}


def test_three_nodes_agree(http, model, devnet, tmp_path):
    assert ask(http, model).status_code == 200
    before = owed(devnet.data / "proxy")
    # No seed and a temperature: without the proxy's seed no two nodes would agree.
    response = ask(http, model, temperature=0.9)
    assert response.status_code == 200, response.text
    assert response.headers["og-replicas"] == "agreed 3 of 3"
    assert response.headers["og-assurance"] == "replicated"
    assert response.json()["choices"][0]["message"]["content"].strip()
    summary = json.loads(response.headers["og-verified"])
    assert sorted(summary["replicas"]["agreed"]) == sorted(devnet.ready["nodes"])
    assert response.headers["og-node"].lower() == min(n.lower() for n in devnet.ready["nodes"])
    assert int(summary["price_total_wei"]) == 3 * int(summary["price_wei"])
    after = owed(devnet.data / "proxy")
    assert {n: after[n] - before[n] for n in after} == {n.lower(): int(summary["price_wei"]) for n in devnet.ready["nodes"]}
    proof, verdict = proved(devnet, response.headers["og-receipt-id"], tmp_path)
    assert group_of(proof) == (3, 3)
    assert proof["receipt"]["claim"]["payer"].lower() == devnet.ready["keys"][-1]["address"].lower()
    assert proof["disclosure"]["response"] == response.text
    assert verdict.returncode == 0, verdict.stdout
    assert "3 of 3 nodes" in verdict.stdout and "assurance `replicated`" in verdict.stdout
    assert not list((devnet.data / "proxy" / "disputes").iterdir())


def test_every_node_gets_coins_in_the_escrow(devnet, model, tmp_path):
    # Nobody has deposited anything for this account: every node refuses at first.
    key, port = tmp_path / "pay.key", free_port()
    key.write_text(devnet.ready["keys"][-2]["private_key"])
    key.chmod(0o600)
    command = [
        OG, "proxy", "--rpc", devnet.rpc_url, "--data", tmp_path / "proxy", "--listen", f"127.0.0.1:{port}", "--pay", key,
        "--deposit", "10",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as proxy:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, transport=httpx.HTTPTransport(retries=9)) as new:
                response = ask(new, model)
        finally:
            proxy.terminate()
    assert response.status_code == 200, response.text
    assert response.headers["og-replicas"] == "agreed 3 of 3"
    price = int(json.loads(response.headers["og-verified"])["price_wei"])
    assert owed(tmp_path / "proxy") == {n.lower(): price for n in devnet.ready["nodes"]}


def test_seed_of_the_client_wins(http, model):
    answers = [ask(http, model, temperature=0.9, seed=7) for _ in range(2)]
    assert [json.loads(a.headers["og-verified"])["seed"] for a in answers] == [7, 7]
    texts = {a.json()["choices"][0]["message"]["content"] for a in answers}
    assert len(texts) == 1 and all(a.headers["og-replicas"] == "agreed 3 of 3" for a in answers)


def test_two_nodes_without_a_bound_on_tokens(http, model):
    request = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "n": 2}
    response = http.post("/v1/chat/completions", json=request, headers=WANTED | {"og-replicas": "2"})
    assert response.status_code == 200, response.text
    assert response.headers["og-replicas"] == "agreed 2 of 2" and len(response.json()["choices"]) == 2


def test_too_few_nodes(http, model):
    response = ask(http, model, {"og-replicas": "7"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "assurance_unavailable"
    assert ask(http, model, {"og-replicas": "9"}).json()["error"]["code"] == "invalid_value"


def test_mistakes_are_named_as_by_a_single_node(http, model):
    response = ask(http, model, temperature=9)
    assert response.status_code == 400 and response.json()["error"]["param"] == "temperature"


def test_streams(ai, model, devnet, tmp_path):
    raw = ai.chat.completions.with_raw_response.create(
        **body(model, temperature=0, stream=True, stream_options={"include_usage": True}), extra_headers=WANTED
    )
    chunks = list(raw.parse())
    assert raw.headers["og-replicas"] == "agreed 3 of 3"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices).strip()
    assert chunks[-1].usage.completion_tokens > 0
    proof, verdict = proved(devnet, raw.headers["og-receipt-id"], tmp_path)
    assert group_of(proof) == (3, 3) and verdict.returncode == 0, verdict.stdout


@pytest.mark.parametrize(("path", "extra"), [("/v1/completions", {"prompt": "Hi"}), ("/v1/responses", {"input": "Hi"})])
def test_other_endpoints(http, model, path, extra):
    response = http.post(path, json={"model": model, **extra}, headers=WANTED)
    assert response.status_code == 200, response.text
    assert response.headers["og-replicas"] == "agreed 3 of 3"


def test_a_proof_that_leaves_somebody_out_is_refused(http, model, devnet, tmp_path):
    data = og_receipt(devnet, ask(http, model).headers["og-receipt-id"])
    proof = json.loads(data)
    evidence = proof["receipt"]["evidence"][1]
    second = proof_check.rlp.decode(proof_check.raw(evidence["body"]))
    shorter = [second[0], second[1], second[2][:2], second[3][:2]]
    spoilt = data.replace(evidence["body"].encode(), ("0x" + proof_check.rlp.encode(shorter).hex()).encode())
    assert spoilt != data
    path = tmp_path / "spoilt.json"
    path.write_bytes(spoilt)
    verdict = og_verify(path)
    assert verdict.returncode == 1 and "left out" in verdict.stdout, verdict.stdout


def test_og_chat(devnet):
    done = og("chat", "--proxy", devnet.proxy_url, "--assurance", "replicated", "--max-tokens", 8, "Hi")
    assert done.returncode == 0, done.stderr
    assert "verified: replicated (3 of 3 nodes agree)" in done.stdout, done.stdout
    done = og("chat", "--proxy", devnet.proxy_url, "--assurance", "replicated", "--replicas", 7, "Hi")
    assert done.returncode == 2 and "serve the model" in done.stderr, (done.returncode, done.stderr)


@pytest.fixture
def pair(devnet):
    """Two nodes in the order of their addresses, asked without the proxy."""
    nodes = sorted(zip([n.lower() for n in devnet.ready["nodes"]], devnet.ready["node_urls"], strict=True))[:2]
    with httpx.Client(timeout=120) as client:
        yield client, [n for n, _ in nodes], [u.rstrip("/") for _, u in nodes]


def test_nodes_keep_their_answers_back(pair, model, devnet):
    client, nodes, urls = pair
    nonce, request = secrets.token_bytes(32), json.dumps(body(model)).encode()
    request_hash = keccak(b"og/request/1" + nonce + request)
    group = keccak(b"og/group/1" + request_hash + b"".join(bytes.fromhex(n[2:]) for n in nodes))
    headers = WANTED | {
        "content-type": "application/json", "og-nonce": "0x" + nonce.hex(), "og-group": "0x" + group.hex(),
        "og-time-ms": str(time.time_ns() // 10**6), "og-seed": "1",
    }  # fmt: skip
    chat = [f"{u}/v1/chat/completions" for u in urls]
    late = client.post(chat[0], content=request, headers=headers | {"og-time-ms": str(time.time_ns() // 10**6 - 60_000)})
    assert late.status_code == 400 and "og-time-ms" in late.json()["error"]["message"]
    for name in ("og-nonce", "og-time-ms", "og-seed"):
        without = {k: v for k, v in headers.items() if k != name}
        assert client.post(chat[0], content=request, headers=without).json()["error"]["param"] == name
    alone = {k: v for k, v in headers.items() if k != "og-group"}
    assert client.post(chat[0], content=request, headers=alone).json()["error"]["code"] == "assurance_unavailable"

    places = [client.get(f"{u}/og/v1/log/checkpoint").json()["size"] for u in urls]
    committed = [client.post(url, content=request, headers=headers) for url in chat]
    assert [c.status_code for c in committed] == [200, 200], committed[0].text
    commitments = [c.json() for c in committed]
    assert [c["node"].lower() for c in commitments] == nodes and set(commitments[0]) == {"node", "commitment", "signature"}
    ids = [c.headers["og-receipt-id"] for c in committed]
    # Nothing of the answer can be had, neither here nor in the log.
    shown = [client.get(f"{u}/og/v1/receipts/{i}").status_code for u, i in zip(urls, ids, strict=True)]
    assert shown == [404, 404]
    audits = [f"{u}/og/v1/audit/{i}?size={i + 1}" for u, i in zip(urls, places, strict=True)]
    early = [client.get(url) for url in audits]
    assert [(e.status_code, e.json()["error"]["code"]) for e in early] == [(425, "kept_back")] * 2
    # Auditors, who are drawn for it at once, do not take that for a fault.
    time.sleep(14)
    call = {"jsonrpc": "2.0", "id": 1, "method": "eth_getLogs"}
    ours = [f"0x{n[2:]:0>64}" for n in nodes]
    jury = {"address": devnet.ready["contracts"]["Jury"], "topics": [None, None, ours], "fromBlock": "0x0", "toBlock": "latest"}
    assert client.post(devnet.rpc_url, json=call | {"params": [jury]}).json()["result"] == []
    reveals = [f"{u}/og/v1/reveal/{i}" for u, i in zip(urls, ids, strict=True)]
    for bad in (
        {"nodes": nodes, "commitments": commitments[:1]},
        {"nodes": nodes, "commitments": commitments[1:]},
        {"nodes": nodes, "commitments": [commitments[0], commitments[0]]},
        {"nodes": nodes[::-1], "commitments": commitments},
        {"nodes": nodes[:1], "commitments": commitments},
        {"nodes": nodes, "commitments": [commitments[0], commitments[1] | {"signature": commitments[0]["signature"]}]},
        {},
    ):
        assert client.post(reveals[0], json=bad).status_code == 400, bad
    assert client.post(reveals[0].replace(ids[0], ids[1]), json={"nodes": nodes, "commitments": commitments}).status_code == 404

    opened = [client.post(url, json={"nodes": nodes, "commitments": commitments}) for url in reveals]
    assert [o.status_code for o in opened] == [200, 200], opened[0].text
    outputs = set()
    for node, commitment, answer in zip(nodes, commitments, opened, strict=True):
        claim = proof_check.claim_of(proof_check.rlp.decode(proof_check.raw(answer.json()["seal"]["receipt"]))[0])
        hidden = [bytes.fromhex(claim[k][2:]) for k in ("output_hash", "trace_root")]
        salt = bytes.fromhex(answer.json()["salt"][2:])
        expected = keccak(b"og/commit/1" + group + bytes.fromhex(node[2:]) + b"".join(hidden) + salt)
        assert "0x" + expected.hex() == commitment["commitment"]
        outputs.add((claim["output_hash"], claim["trace_root"], claim["prompt_hash"]))
    assert len(outputs) == 1
    for url, answer in zip(audits, opened, strict=True):
        shown = client.get(url).json()
        assert shown["receipt"] == answer.json()["seal"]["receipt"]
        # Nobody asked for more to be shown.
        assert (shown["disclose"], shown["disclosure"]) == ("none", None)
    shown = [client.get(f"{u}/og/v1/receipts/{i}").status_code for u, i in zip(urls, ids, strict=True)]
    assert shown == [200, 200]
