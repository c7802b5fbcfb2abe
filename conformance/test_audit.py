"""The rung `audited` and who may see answers, on a real network with its auditors."""

import contextlib
import time

import pytest
from eth_account import Account
from web3 import Web3
from web3.exceptions import Web3Exception

import proof_check
from claims import auditor_pass, parts_of
from court import HI, WINDOW, key_of, until
from devnet import og_verify

RIGHT = 0


def where(node_api, answer):
    """(index in the log, size of the log on the ledger) of an answer of this node."""
    assert answer.status_code == 200, answer.text
    index = node_api.get(f"/og/v1/receipts/{answer.headers['og-receipt-id']}").json()["index"]
    checkpoint = lambda: node_api.get("/og/v1/log/checkpoint").json()["posted_size"]  # noqa: E731
    return index, until(lambda: checkpoint() > index and checkpoint(), 60, "the log is posted")


def batch_of(contracts, node, index):
    """Size of the log of the batch that a receipt is in."""
    log = contracts.ReceiptLog

    def find():
        for event in log.events.CheckpointPosted.get_logs(from_block=0, argument_filters={"node": node}):
            size = event["args"]["size"]
            if log.functions.batch(node, size).call()[2] <= index < size:
                return size
        return None

    return until(find, 60, "the batch is posted")


@pytest.fixture(scope="module")
def model_id(node_api):
    return node_api.get("/og/v1/info").json()["models"][0]["id"]


@pytest.fixture(scope="module")
def asked(devnet, http, model, contracts, ask_node):
    """Answers at the beginning of this file, whose windows close while other tests run."""
    audited = [
        http.post("/v1/chat/completions", json={"model": model, **HI}, headers={"og-assurance": "audited"}) for _ in range(6)
    ]
    assert all(a.status_code == 200 and a.headers["og-assurance"] == "audited" for a in audited), audited[0].text
    before = {n: contracts.Audits.functions.okCount(n).call() for n in devnet.ready["nodes"]}
    return {"at": time.time(), "audited": [a.headers["og-receipt-id"] for a in audited], "ok": before}


def test_what_was_just_answered_is_not_settled(asked, http):
    answer = until(
        lambda: (
            (a := http.get(f"/og/v1/receipts/{asked['audited'][0]}/proof")).json()["error"]["code"] != "not_finalised_yet" and a
        ),
        60,
        "the log is posted",
    )
    assert answer.status_code == 425 and answer.json()["error"]["code"] == "not_settled_yet", answer.text
    assert time.time() < asked["at"] + WINDOW


def revealed(contracts, nodes):
    """{(node, index): auditors that found it right} and all verdicts that say something else."""
    right, wrong = {}, []
    for event in contracts.Audits.events.Revealed.get_logs(from_block=0):
        args = event["args"]
        for index, verdict in zip(args["indices"], args["verdicts"], strict=True):
            if verdict == RIGHT:
                right.setdefault((args["node"].lower(), index), set()).add(args["auditor"])
            elif args["node"] in nodes:
                wrong.append(args)
    return right, wrong


def test_auditors_are_drawn_commit_and_find_answers_right(asked, devnet, contracts, model_id):
    nodes = devnet.ready["nodes"]
    right, wrong = until(lambda: (r := revealed(contracts, nodes))[0] and r, 60, "an auditor reveals")
    assert not wrong, "an honest node was called wrong"
    (node, _), auditors = next(iter(right.items()))
    assert auditors <= set(devnet.ready["auditors"])
    audits = contracts.Audits
    events = audits.events.Committed.get_logs(from_block=0)
    assert any(e["args"]["node"].lower() == node and e["args"]["auditor"] in auditors for e in events)
    node = Web3.to_checksum_address(node)
    found = {index for (n, index) in right if n == node.lower()}
    assert audits.functions.okCount(node).call() >= len(found) > 0
    index = min(found)
    size = batch_of(contracts, node, index)
    for auditor in right[node.lower(), index]:
        assert audits.functions.drawn(node, size, index, model_id, auditor).call()


def test_a_signed_answer_is_shown_to_nobody(ask_node, node_api, contracts, devnet):
    index, size = where(node_api, ask_node())
    genesis = node_api.get("/og/v1/info").json()["genesis"]
    for number in range(len(devnet.ready["auditors"])):
        header = auditor_pass(key_of(devnet, "auditors", number), genesis, node_api.address, index, int(time.time()))
        for headers in ({}, {"og-auditor": header}):
            shown = node_api.get(f"/og/v1/audit/{index}", params={"size": size}, headers=headers).json()
            assert shown["disclosure"] is None and shown["disclose"] == "none"
            assert shown["inclusion"]["index"] == index and shown["inclusion"]["size"] == size


@pytest.mark.parametrize("rung", ["signed", "audited"])
def test_a_public_answer_is_shown_to_anybody(ask_node, node_api, rung):
    answer = ask_node(og_disclose="public", og_assurance=rung)
    index, size = where(node_api, answer)
    shown = node_api.get(f"/og/v1/audit/{index}", params={"size": size}).json()
    assert shown["disclose"] == "public" and shown["disclosure"]["response"] == answer.text
    assert "Hi" in shown["disclosure"]["request"]
    claim, _ = parts_of(bytes.fromhex(shown["receipt"][2:]))
    opened = proof_check.keccak(b"og/response/1" + bytes.fromhex(shown["disclosure"]["nonce"][2:]) + answer.content)
    assert opened in claim


@pytest.fixture(scope="module")
def drawn(ask_node, node_api, contracts, devnet, model_id):
    """An answer for auditors for which some auditor is drawn and some is not, when there are such: (index, size, in, out)."""
    for _ in range(12):
        index, _ = where(node_api, ask_node(og_disclose="auditors", og_assurance="audited"))
        size = batch_of(contracts, node_api.address, index)

        def draw(key, index=index, size=size):
            with contextlib.suppress(Web3Exception):
                return "yes" if contracts.Audits.functions.drawn(node_api.address, size, index, model_id, key.address).call() else "no"
            return None

        keys = [key_of(devnet, "auditors", i) for i in range(len(devnet.ready["auditors"]))]
        found = {key: until(lambda key=key: draw(key), 60, "the draw is known") for key in keys}
        inside, outside = ([key for key in keys if found[key] == word] for word in ("yes", "no"))
        if inside and outside:
            return index, size, inside[0], outside[0]
    raise AssertionError("in twelve answers nobody was drawn, or always both")


def test_an_answer_for_auditors_is_shown_to_the_drawn_only(drawn, node_api):
    index, size, inside, outside = drawn
    genesis, now = node_api.get("/og/v1/info").json()["genesis"], int(time.time())

    def show(header=None, index=index):
        headers = {"og-auditor": header} if header else {}
        return node_api.get(f"/og/v1/audit/{index}", params={"size": size}, headers=headers)

    good = auditor_pass(inside, genesis, node_api.address, index, now)
    shown = show(good)
    assert shown.status_code == 200 and shown.json()["disclosure"]["request"], shown.text
    nobody = show()
    assert nobody.status_code == 200 and nobody.json()["disclosure"] is None and nobody.json()["disclose"] == "auditors"
    stranger = Account.create()
    who, when, signature = good.split(" ")
    bad = {
        "a stranger's": auditor_pass(stranger, genesis, node_api.address, index, now),
        "that of an auditor who is not drawn": auditor_pass(outside, genesis, node_api.address, index, now),
        "an old one": auditor_pass(inside, genesis, node_api.address, index, now - 300),
        "one of the future": auditor_pass(inside, genesis, node_api.address, index, now + 300),
        "one for another receipt": auditor_pass(inside, genesis, node_api.address, index + 1, now),
        "one for another node": auditor_pass(inside, genesis, stranger.address, index, now),
        "one for another network": auditor_pass(inside, "0x" + "11" * 32, node_api.address, index, now),
        "a stranger's in an auditor's name": " ".join(
            [who, when, auditor_pass(stranger, genesis, node_api.address, index, now).split(" ")[2]]
        ),
        "one with another time": f"{who} {now + 1} {signature}",
        "one with a changed byte": f"{who} {when} {signature[:-4]}{int(signature[-4:-2], 16) ^ 1:02x}{signature[-2:]}",
    }
    for name, header in bad.items():
        answer = show(header)
        assert answer.status_code == 403 and "disclosure" not in answer.text, f"{name}: {answer.status_code}"
        assert answer.json()["error"]["code"] == "forbidden"
    for header in ("x", f"{who} {when}", f"{who} now {signature}", f"{who} {when} {signature}00"):
        assert show(header).status_code == 400, header
    assert show(index=10**9).status_code == 404
    assert node_api.get(f"/og/v1/audit/{index}").status_code == 400


def test_what_is_audited_must_be_shown_to_auditors(ask_node):
    answer = ask_node(og_assurance="audited", og_disclose="none")
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "og-disclose", answer.text
    assert ask_node(og_disclose="friends").status_code == 400
    assert ask_node(og_assurance="proved").status_code in (400, 422, 501)


# What takes the longest is looked at last.


def test_after_the_window_the_proof_says_what_became_of_it(asked, http, devnet, contracts, tmp_path):
    """It holds for both checkers, and says whether an auditor found the answer right or none was drawn."""
    found, words = {}, {True: "found it right", False: "nobody refuted it"}
    for receipt_id in asked["audited"]:

        def proof(receipt_id=receipt_id):
            answer = http.get(f"/og/v1/receipts/{receipt_id}/proof", params={"wait": 10})
            assert answer.status_code == 200 or answer.json()["error"]["code"] == "not_settled_yet", answer.text
            assert answer.status_code == 200 or time.time() < asked["at"] + WINDOW + 20
            return answer.status_code == 200 and answer.content

        data = until(proof, WINDOW + 60, "the window closes")
        file = tmp_path / "proof.json"
        file.write_bytes(data)
        done = og_verify(file, "--network", devnet.ready["network"])
        assert done.returncode == 0, done.stdout
        checked = proof_check.check(data, devnet.ready["network"])
        node, index = checked["receipt"]["claim"]["node"], checked["log"]["index"]
        right = bool(int(checked["ledger"]["audit"]["right"], 16) >> index % 256 & 1)
        assert words[right] in done.stdout and (right or words[True] not in done.stdout)
        found[node, index] = right
    assert time.time() > asked["at"] + WINDOW
    revealed_right, _ = revealed(contracts, devnet.ready["nodes"])
    assert {place: place in revealed_right for place in found} == found
    assert any(found.values()), "six answers, and no auditor was drawn for one of them"
    ok = {n: contracts.Audits.functions.okCount(n).call() for n in devnet.ready["nodes"]}
    assert sum(ok.values()) > sum(asked["ok"].values()) and "audited" in done.stdout
