"""The rung `audited`, who may see answers, payments through the escrow, and disputes, on a real network and with the real contracts."""

import contextlib
import json
import random
import re
import subprocess
import time

import httpx
import pytest
from eth_account import Account
from web3 import Web3
from web3.logs import DISCARD
from web3.exceptions import ContractLogicError, Web3Exception

import proof_check
from claims import auditor_pass, checkpoint_signature, claim_bytes, parts_of, sign_digest, signed_claim, voucher
from conftest import COIN, connect, fund, send
from devnet import OG, Devnet, free_port, og_verify

HI = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
# The rules of a development network (seconds).
WINDOW, MOVE, AUDITED, SETTLE = 90, 15, 60, 30
RIGHT = 0
BURN = "0x000000000000000000000000000000000000dEaD"


def until(what, seconds, why):
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"{why}: not within {seconds} s"
        time.sleep(0.3)
    return value


def key_of(devnet, kind, number):
    return Account.from_key((devnet.data / kind / str(number) / f"{kind.removesuffix('s')}.key").read_text().strip())


@pytest.fixture(scope="module")
def node(devnet):
    """The first node's own interface; `address` is its account."""
    with httpx.Client(base_url=devnet.ready["node_urls"][0].rstrip("/"), timeout=120) as client:
        client.address = devnet.ready["nodes"][0]
        assert client.get("/og/v1/info").json()["node"].lower() == client.address.lower()
        yield client


@pytest.fixture(scope="module")
def ask(node, model):
    """`ask(**headers)` asks the first node itself."""

    def run(**headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return node.post("/v1/chat/completions", json={"model": model, **HI}, headers=headers)

    return run


def where(node, answer):
    """(index in the log, size of the log on the ledger) of an answer of this node."""
    assert answer.status_code == 200, answer.text
    index = node.get(f"/og/v1/receipts/{answer.headers['og-receipt-id']}").json()["index"]
    checkpoint = lambda: node.get("/og/v1/log/checkpoint").json()["posted_size"]  # noqa: E731
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


def transact(w3, key, call, value=0):
    """Sends a call of a contract; its receipt, which must be good."""
    data = call._encode_transaction_data()
    receipt = send(w3, key, to=call.address, data=data, value=value, gas=5_000_000)
    assert receipt["status"] == 1, call.fn_name
    return receipt


def refused(w3, key, call, error, value=0):
    """The call must revert with this error of the contracts; `None` for the referee's own words."""
    with pytest.raises((ContractLogicError, Web3Exception)) as caught:
        call.call({"from": key.address, "value": value})
    selector = Web3.keccak(text=error)[:4].hex()
    said = str(getattr(caught.value, "data", "") or "") + str(caught.value)
    assert selector in said, f"expected {error} ({selector}), got {said}"


@pytest.fixture(scope="module")
def asked(devnet, http, model, contracts, ask):
    """Answers at the beginning of this file, whose windows close while other tests run."""
    audited = [http.post("/v1/chat/completions", json={"model": model, **HI}, headers={"og-assurance": "audited"}) for _ in range(6)]
    assert all(a.status_code == 200 and a.headers["og-assurance"] == "audited" for a in audited), audited[0].text
    before = {n: contracts.Audits.functions.okCount(n).call() for n in devnet.ready["nodes"]}
    return {"at": time.time(), "audited": [a.headers["og-receipt-id"] for a in audited], "ok": before}


@pytest.fixture(scope="module")
def paid(w3, devnet, contracts, node, ask):
    """An account that has paid the first node for an answer; what it owes."""
    key = fund(w3, devnet)
    transact(w3, key, contracts.Escrow.functions.deposit(node.address), value=COIN)
    promise = lambda total: voucher(key, node.address, total, devnet.chain_id, contracts.Escrow.address)  # noqa: E731
    answer = ask(og_payment=promise(0))
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    price = usage["prompt_tokens"] * int(answer.headers["og-price-input"]) + usage["completion_tokens"] * int(answer.headers["og-price-output"])
    claim, _ = parts_of(bytes.fromhex(answer.headers["og-receipt"][2:]))
    assert bytes.fromhex(key.address[2:]) in claim, "the receipt names who pays"
    taken = node.post("/og/v1/payments", headers={"og-payment": promise(price)})
    assert taken.status_code == 200, taken.text
    return {"key": key, "price": price, "promise": promise}


def test_what_was_just_answered_is_not_settled(asked, http):
    answer = until(lambda: (a := http.get(f"/og/v1/receipts/{asked['audited'][0]}/proof")).json()["error"]["code"] != "not_finalised_yet" and a, 60, "the log is posted")
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


def test_auditors_are_drawn_commit_and_find_answers_right(asked, devnet, contracts):
    nodes = devnet.ready["nodes"]
    right, wrong = until(lambda: (r := revealed(contracts, nodes))[0] and r, AUDITED, "an auditor reveals")
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
        assert audits.functions.drawn(node, size, index, auditor).call()


def test_a_signed_answer_is_shown_to_nobody(ask, node, contracts, devnet):
    index, size = where(node, ask())
    genesis = node.get("/og/v1/info").json()["genesis"]
    for number in range(len(devnet.ready["auditors"])):
        header = auditor_pass(key_of(devnet, "auditors", number), genesis, node.address, index, int(time.time()))
        for headers in ({}, {"og-auditor": header}):
            shown = node.get(f"/og/v1/audit/{index}", params={"size": size}, headers=headers).json()
            assert shown["disclosure"] is None and shown["disclose"] == "none"
            assert shown["inclusion"]["index"] == index and shown["inclusion"]["size"] == size


@pytest.mark.parametrize("rung", ["signed", "audited"])
def test_a_public_answer_is_shown_to_anybody(ask, node, rung):
    answer = ask(og_disclose="public", og_assurance=rung)
    index, size = where(node, answer)
    shown = node.get(f"/og/v1/audit/{index}", params={"size": size}).json()
    assert shown["disclose"] == "public" and shown["disclosure"]["response"] == answer.text
    assert "Hi" in shown["disclosure"]["request"]
    claim, _ = parts_of(bytes.fromhex(shown["receipt"][2:]))
    opened = proof_check.keccak(b"og/response/1" + bytes.fromhex(shown["disclosure"]["nonce"][2:]) + answer.content)
    assert opened in claim


@pytest.fixture(scope="module")
def drawn(ask, node, contracts, devnet):
    """An answer for auditors for which some auditor is drawn and some is not, when there are such: (index, size, in, out)."""
    for _ in range(12):
        index, _ = where(node, ask(og_disclose="auditors", og_assurance="audited"))
        size = batch_of(contracts, node.address, index)

        def draw(key, index=index, size=size):
            with contextlib.suppress(Web3Exception):
                return "yes" if contracts.Audits.functions.drawn(node.address, size, index, key.address).call() else "no"
            return None

        keys = [key_of(devnet, "auditors", i) for i in range(len(devnet.ready["auditors"]))]
        found = {key: until(lambda key=key: draw(key), 60, "the draw is known") for key in keys}
        inside, outside = ([key for key in keys if found[key] == word] for word in ("yes", "no"))
        if inside and outside:
            return index, size, inside[0], outside[0]
    raise AssertionError("in twelve answers nobody was drawn, or always both")


def test_an_answer_for_auditors_is_shown_to_the_drawn_only(drawn, node):
    index, size, inside, outside = drawn
    genesis, now = node.get("/og/v1/info").json()["genesis"], int(time.time())

    def show(header=None, index=index):
        headers = {"og-auditor": header} if header else {}
        return node.get(f"/og/v1/audit/{index}", params={"size": size}, headers=headers)

    good = auditor_pass(inside, genesis, node.address, index, now)
    shown = show(good)
    assert shown.status_code == 200 and shown.json()["disclosure"]["request"], shown.text
    nobody = show()
    assert nobody.status_code == 200 and nobody.json()["disclosure"] is None and nobody.json()["disclose"] == "auditors"
    stranger = Account.create()
    who, when, signature = good.split(" ")
    bad = {
        "a stranger's": auditor_pass(stranger, genesis, node.address, index, now),
        "that of an auditor who is not drawn": auditor_pass(outside, genesis, node.address, index, now),
        "an old one": auditor_pass(inside, genesis, node.address, index, now - 300),
        "one of the future": auditor_pass(inside, genesis, node.address, index, now + 300),
        "one for another receipt": auditor_pass(inside, genesis, node.address, index + 1, now),
        "one for another node": auditor_pass(inside, genesis, stranger.address, index, now),
        "one for another network": auditor_pass(inside, "0x" + "11" * 32, node.address, index, now),
        "a stranger's in an auditor's name": " ".join([who, when, auditor_pass(stranger, genesis, node.address, index, now).split(" ")[2]]),
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
    assert node.get(f"/og/v1/audit/{index}").status_code == 400


def test_what_is_audited_must_be_shown_to_auditors(ask):
    answer = ask(og_assurance="audited", og_disclose="none")
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "og-disclose", answer.text
    assert ask(og_disclose="friends").status_code == 400
    assert ask(og_assurance="proved").status_code in (400, 422, 501)


def test_a_voucher_is_settled(paid, contracts, node, devnet):
    escrow, client = contracts.Escrow, paid["key"].address
    pocket = lambda: escrow.functions.pocketOf(client, node.address).call()  # noqa: E731
    until(lambda: pocket()[1] == paid["price"], SETTLE, "the node takes what was promised")
    assert pocket()[0] == COIN - paid["price"]
    (event,) = escrow.events.VoucherSettled.get_logs(from_block=0, argument_filters={"client": client, "node": node.address})
    assert event["args"]["amount"] == event["args"]["total"] == paid["price"]
    settled = escrow.events.Settled.get_logs(from_block=event["blockNumber"], argument_filters={"node": node.address})
    (own,) = [e["args"] for e in settled if e["transactionHash"] == event["transactionHash"]]
    # 13 in 1000 go to auditors; other clients may have been settled with it.
    taken = own["amount"] + own["audit"]
    assert taken >= paid["price"] and own["audit"] == taken * 13 // 1000
    time_of = connect(devnet).eth.get_block(event["blockNumber"])["timestamp"]
    assert own["releaseAt"] == time_of + WINDOW
    paid["bucket"] = own["index"], own["releaseAt"]


def test_payments_that_are_refused(ask, paid, devnet, node, contracts, w3):
    key, escrow = paid["key"], contracts.Escrow.address
    stranger, chain_id = Account.create(), devnet.chain_id
    who, total, signature = paid["promise"](paid["price"]).split(" ")
    forged = {
        "signed by another": f"{who} {total} {voucher(stranger, node.address, paid['price'], chain_id, escrow).split(' ')[2]}",
        "a larger total": f"{who} {paid['price'] + 1} {signature}",
        "for another node": voucher(key, devnet.ready["nodes"][1], paid["price"], chain_id, escrow),
        "of another network": voucher(key, node.address, paid["price"], chain_id + 1, escrow),
        "of another escrow": voucher(key, node.address, paid["price"], chain_id, stranger.address),
        "of another domain": voucher(key, node.address, paid["price"], chain_id, escrow, name="og log"),
        "an empty pocket": voucher(stranger, node.address, 0, chain_id, escrow),
        "a promise without a pocket": voucher(stranger, node.address, COIN, chain_id, escrow),
    }
    for name, header in forged.items():
        answer = ask(og_payment=header)
        assert answer.status_code == 402 and answer.json()["error"]["code"] == "payment_required", f"{name}: {answer.text}"
    for header in ("x", f"{who} {total}", f"{who} -1 {signature}", f"{who} {total} 0x00"):
        assert ask(og_payment=header).status_code == 400, header
        assert node.post("/og/v1/payments", headers={"og-payment": header}).status_code == 400
    assert node.post("/og/v1/payments").status_code == 400
    # A pocket that holds less than an answer may cost.
    poor = fund(w3, devnet, COIN)
    transact(w3, poor, contracts.Escrow.functions.deposit(node.address), value=1000)
    assert ask(og_payment=voucher(poor, node.address, 0, chain_id, escrow)).status_code == 402


def test_an_old_voucher_takes_nothing_back(ask, paid, contracts, node):
    """Totals only grow: an older promise is no fault, and takes nothing away."""
    assert ask(og_payment=paid["promise"](0)).status_code == 200
    assert contracts.Escrow.functions.pocketOf(paid["key"].address, node.address).call()[1] >= paid["price"]


@pytest.fixture(scope="module")
def dear(tmp_path_factory):
    """A node whose tokens are so dear that one answer is more than a client may owe, and which serves nobody for nothing."""
    folder = tmp_path_factory.mktemp("dear")
    net = Devnet(folder / "net", "--validators", "1", "--nodes", "1", "--auditors", "0")
    net.folder.mkdir()
    data, process = folder / "node", None
    try:
        net.start()
        data.mkdir(mode=0o700)
        w3, key, port = connect(net), Account.create(), free_port()
        (data / "node.key").write_text(key.key.hex().removeprefix("0x") + "\n")
        (data / "node.key").chmod(0o600)
        rich = Account.from_key(net.ready["keys"][0]["private_key"])
        send(w3, rich, to=key.address, value=200 * COIN)
        url = f"http://127.0.0.1:{port}"
        arguments = ["--rpc", net.rpc_url, "--data", data, "--listen", f"127.0.0.1:{port}", "--price-output", 10**15, "--require-payment"]
        with (folder / "node.log").open("wb") as log:
            process = subprocess.Popen([OG, "node", *map(str, arguments)], stdout=log, stderr=subprocess.STDOUT)

        def ready():
            assert process.poll() is None, (folder / "node.log").read_text()
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{url}/health").status_code == 200
            return False

        until(ready, 120, "the node is ready")
        yield net, url, key.address
    finally:
        if process is not None:
            process.kill()
            process.wait()
        net.kill()


def test_who_owes_much_must_promise_before_the_next_answer(dear):
    net, url, address = dear
    w3 = connect(net)
    escrow = net.ready["contracts"]["Escrow"]
    body = {"model": net.ready["model"]["name"], **HI}
    key = fund(w3, net, 10 * COIN)
    assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120).status_code == 402, "it wants to be paid"
    data = Web3.keccak(text="deposit(address)")[:4] + bytes(12) + bytes.fromhex(address[2:])
    assert send(w3, key, to=Web3.to_checksum_address(escrow), data=data, value=COIN, gas=200_000)["status"] == 1

    def ask(total):
        header = voucher(key, address, total, net.chain_id, Web3.to_checksum_address(escrow))
        return httpx.post(f"{url}/v1/chat/completions", json=body, headers={"og-payment": header}, timeout=120)

    first = ask(0)
    assert first.status_code == 200, first.text
    usage = first.json()["usage"]
    due = usage["prompt_tokens"] * 10**9 + usage["completion_tokens"] * 10**15
    assert due > 10**15, "one answer is more than may be owed"
    late = ask(0)
    assert late.status_code == 402 and str(due) in late.json()["error"]["message"], late.text
    assert ask(due - 10**15 - 1).status_code == 402
    assert ask(due).status_code == 200


# Disputes.


@pytest.fixture(scope="module")
def liar(w3, devnet, contracts):
    """A node of this test: staked, without an offer, so that nobody asks it. It can lose three times."""
    key = fund(w3, devnet, 400 * COIN)
    transact(w3, key, contracts.NodeRegistry.functions.register("http://127.0.0.1:1"), value=300 * COIN)
    return key


@pytest.fixture(scope="module")
def template(devnet, model):
    """Fields of a sound claim, to be changed."""
    info = httpx.get(devnet.ready["node_urls"][0].rstrip("/") + "/og/v1/info").json()
    zero = "0x" + "00" * 32
    hashes = {name: "0x" + random.Random(name).randbytes(32).hex() for name in ("request_hash", "response_hash", "prompt_hash", "output_hash", "trace_root")}

    def make(**changes):
        return {
            "chain_id": info["chain_id"], "genesis": info["genesis"], "model": info["models"][0]["id"], **hashes, "prompt_tokens": 3,
            "completion_tokens": 2, "max_tokens": 8, "choices": 1, "options": zero, "price_input": "10", "price_output": "20",
            "price": "70", "payer": "0x" + "00" * 20, "anchor_number": 1, "anchor_hash": zero, "time_ms": int(time.time() * 1000),
            "sampling": {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "top_k": 0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": 1},
            "arithmetic_class": 1, "arithmetic_version": 3, "rung_requested": 4, "rung_achieved": 4, **changes,
        }  # fmt: skip

    return make


def test_claims_are_encoded_as_in_receipts(asked, http, devnet):
    """Otherwise the refusals below would only show that the bytes are no claim."""
    known = http.get(f"/og/v1/receipts/{asked['audited'][0]}").json()
    claim, signature = parts_of(bytes.fromhex(known["receipt"][2:]))
    node = Web3.to_checksum_address("0x" + proof_check.rlp.decode(claim)[2].hex())
    assert node in devnet.ready["nodes"] and len(signature) == 65
    vectors = json.loads((proof_check.Path(__file__).parent / "vectors" / "audited.json").read_text())["receipt"]
    made = claim_bytes(vectors["claim"])
    assert len(proof_check.rlp.decode(made)) == len(proof_check.rlp.decode(claim)) == 26


def stake_of(contracts, node):
    return contracts.NodeRegistry.functions.nodeInfo(node).call()[1]


def test_claims_that_are_not_this_networks_are_refused(w3, devnet, contracts, liar, template, account):
    disputes = contracts.Disputes.functions
    bond, claim = disputes.bondFor(liar.address).call(), template()
    good, signature = signed_claim(liar, claim)
    # The unchanged one would be heard.
    disputes.open(good, signature, b"\0").call({"from": account.address, "value": bond})
    other = Account.create()
    flip = lambda data, at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]  # noqa: E731
    bad = {
        "another chain id": signed_claim(liar, claim, chain_id=claim["chain_id"] + 1),
        "another genesis": signed_claim(liar, claim, genesis="0x" + "11" * 32),
        "another's signature": (good, sign_digest(other, proof_check.digest(proof_check.typed_claim({**claim, "node": liar.address.lower()})))),
        "a byte more": (good + b"\0", signature), "a byte less": (good[:-1], signature), "no claim": (b"", signature),
        "a short signature": (good, signature[:-1]), "v as 0 or 1": (good, signature[:64] + bytes([signature[64] - 27])),
        "the other v": (good, signature[:64] + bytes([55 - signature[64]])),
        "a high s": (good, signature[:32] + (proof_check.HALF_ORDER * 2 + 1 - int.from_bytes(signature[32:64])).to_bytes(32) + bytes([55 - signature[64]])),
        **{f"byte {at} of the claim": (flip(good, at), signature) for at in range(2, len(good), 7)},
    }  # fmt: skip
    for name, (claim_data, by) in bad.items():
        with pytest.raises((ContractLogicError, Web3Exception)):
            disputes.open(claim_data, by, b"\0").call({"from": account.address, "value": bond})
            pytest.fail(f"{name} was heard")
    refused(w3, account, disputes.open(good, signature, b"\0"), "WrongBond(uint256,uint256)", value=bond - 1)
    old = signed_claim(liar, claim, time_ms=claim["time_ms"] - (WINDOW + 60) * 1000)
    refused(w3, account, disputes.open(*old, b"\0"), "OutsideWindow(uint64)", value=bond)
    early = signed_claim(liar, claim, time_ms=claim["time_ms"] + 3600 * 1000)
    refused(w3, account, disputes.open(*early, b"\0"), "OutsideWindow(uint64)", value=bond)
    nobody = signed_claim(other, claim)
    refused(w3, account, disputes.open(*nobody, b"\0"), "NotBonded(address)", value=bond)
    for opening in (b"", b"\0\0", b"\2", b"\1"):
        with pytest.raises((ContractLogicError, Web3Exception)):
            disputes.open(good, signature, opening).call({"from": account.address, "value": bond})
            pytest.fail(f"the allegation {opening} was heard")


def test_a_claim_that_contradicts_itself_is_lost_at_once(w3, devnet, contracts, liar, template):
    disputes, challenger, second = contracts.Disputes, fund(w3, devnet), fund(w3, devnet)
    claim, before, burnt = template(), stake_of(contracts, liar.address), w3.eth.get_balance(BURN)
    wrong = signed_claim(liar, claim, price="71")
    bond = disputes.functions.bondFor(liar.address).call()
    receipt = transact(w3, challenger, disputes.functions.open(*wrong, b"\0"), value=bond)
    (ended,) = disputes.events.Ended().process_receipt(receipt, errors=DISCARD)
    assert ended["args"]["nodeLost"] and not ended["args"]["timedOut"]
    taken = before - stake_of(contracts, liar.address)
    bounty = disputes.functions.balances(challenger.address).call() - bond
    assert taken == disputes.functions.FRAUD_SLASH().call() > 0 and bounty == taken // 10
    assert w3.eth.get_balance(BURN) - burnt == taken - bounty
    receipt_id = proof_check.raw(proof_check.receipt_id({**claim, "node": liar.address.lower()}))
    finding, slashed = disputes.functions.lost(liar.address, receipt_id).call()
    assert (finding, slashed) == (2, taken)
    # Nobody can have it punished twice, and the winner takes its coins.
    refused(w3, second, disputes.functions.open(*wrong, b"\0"), "AlreadyLost()", value=bond)
    held = w3.eth.get_balance(challenger.address)
    transact(w3, challenger, disputes.functions.withdraw())
    assert w3.eth.get_balance(challenger.address) > held + bond + bounty - COIN // 100
    refused(w3, challenger, disputes.functions.withdraw(), "NothingToWithdraw()")
    assert disputes.functions.openCount(liar.address).call() == 0


def test_two_claims_under_one_receipt_id_slash_once(w3, devnet, contracts, liar, template):
    disputes, reporter = contracts.Disputes, fund(w3, devnet)
    claim = template(request_hash="0x" + "22" * 32)
    one, two, three = (signed_claim(liar, claim, response_hash="0x" + d * 32) for d in ("11", "22", "33"))
    other = signed_claim(liar, claim, request_hash="0x" + "23" * 32)
    refused(w3, reporter, disputes.functions.equivocation(*one, *one), "NoContradiction()")
    refused(w3, reporter, disputes.functions.equivocation(*one, *other), "NoContradiction()")
    before = stake_of(contracts, liar.address)
    transact(w3, reporter, disputes.functions.equivocation(*one, *two))
    taken = before - stake_of(contracts, liar.address)
    assert taken == disputes.functions.FRAUD_SLASH().call()
    assert disputes.functions.balances(reporter.address).call() == taken // 10
    for pair in ((one, two), (two, one), (one, three), (two, three)):
        refused(w3, reporter, disputes.functions.equivocation(*pair[0], *pair[1]), "AlreadyPunished()")
    forged = (two[0], sign_digest(Account.create(), Web3.keccak(two[0])))
    with pytest.raises((ContractLogicError, Web3Exception)):
        disputes.functions.equivocation(*one, *forged).call({"from": reporter.address})


def test_two_roots_of_one_size_slash_once(w3, devnet, contracts, liar):
    disputes, reporter, size = contracts.Disputes, fund(w3, devnet), 7
    roots = [bytes([i]) * 32 for i in (1, 2, 3)]
    by = lambda key, root, size=size: checkpoint_signature(key, devnet.chain_id, liar.address, size, root)  # noqa: E731
    signatures = [by(liar, root) for root in roots]
    report = lambda a, b, size=size: disputes.functions.logEquivocation(liar.address, size, roots[a], signatures[a], roots[b], signatures[b])  # noqa: E731
    call = disputes.functions.logEquivocation
    refused(w3, reporter, report(0, 0), "NoContradiction()")
    refused(w3, reporter, report(0, 1, size=8), "BadCheckpoint(bytes32)")
    refused(w3, reporter, call(liar.address, size, roots[0], signatures[0], roots[1], by(Account.create(), roots[1])), "BadCheckpoint(bytes32)")
    refused(w3, reporter, call(liar.address, size, roots[0], signatures[0], roots[1], b""), "BadCheckpoint(bytes32)")
    before = stake_of(contracts, liar.address)
    transact(w3, reporter, report(0, 1))
    assert before - stake_of(contracts, liar.address) == disputes.functions.FRAUD_SLASH().call()
    for a, b in ((0, 1), (1, 0), (0, 2)):
        refused(w3, reporter, report(a, b), "AlreadyPunished()")


def test_a_root_that_differs_from_the_posted_one_slashes(w3, devnet, contracts):
    """One signature is enough when the ledger has the other root."""
    disputes, reporter, key = contracts.Disputes, fund(w3, devnet), fund(w3, devnet, 200 * COIN)
    transact(w3, key, contracts.NodeRegistry.functions.register("http://127.0.0.1:1"), value=150 * COIN)
    posted, other = b"\x05" * 32, b"\x06" * 32
    transact(w3, key, contracts.ReceiptLog.functions.append(0, 3, posted))
    signed = lambda root: checkpoint_signature(key, devnet.chain_id, key.address, 3, root)  # noqa: E731
    call = disputes.functions.logEquivocation
    refused(w3, reporter, call(key.address, 3, posted, signed(posted), posted, b""), "NoContradiction()")
    transact(w3, reporter, call(key.address, 3, other, signed(other), posted, b""))
    assert stake_of(contracts, key.address) == 100 * COIN
    refused(w3, reporter, call(key.address, 3, other, signed(other), posted, b""), "AlreadyPunished()")


def test_a_spam_challenge_fails_by_itself(w3, devnet, contracts, ask, node):
    """Somebody disputes an honest answer and then cannot move: the node's program answers, and ends the game in time."""
    disputes, spammer = contracts.Disputes, fund(w3, devnet)
    claim, signature = parts_of(bytes.fromhex(ask(og_assurance="audited").headers["og-receipt"][2:]))
    bond, stake, burnt = disputes.functions.bondFor(node.address).call(), stake_of(contracts, node.address), w3.eth.get_balance(BURN)
    mine = disputes.functions.balances(node.address).call()
    wealth = w3.eth.get_balance(node.address)
    receipt = transact(w3, spammer, disputes.functions.open(claim, signature, b"\0"), value=bond)
    (opened,) = disputes.events.Opened().process_receipt(receipt, errors=DISCARD)
    game, args = opened["args"]["id"], opened["args"]
    assert (args["node"], args["defender"], args["turn"]) == (node.address, node.address, 1)
    refused(w3, spammer, disputes.functions.open(claim, signature, b"\0"), "AlreadyTried()", value=2 * bond)
    assert disputes.functions.bondFor(node.address).call() == 2 * bond, "each open dispute makes the next one dearer"
    # The node's program moves without anybody's help.
    moves = until(lambda: disputes.events.Moved.get_logs(from_block=receipt["blockNumber"], argument_filters={"id": game}), MOVE, "the node moves")
    state = moves[-1]["args"]["state"]
    assert moves[-1]["args"]["turn"] == 0, "the challenger is on turn"
    for nonsense in (b"", b"\x01", b"\x01\xff", b"\x05", b"\x0c", bytes(100)):
        with pytest.raises((ContractLogicError, Web3Exception)):
            disputes.functions.move(game, state, nonsense).call({"from": spammer.address})
            pytest.fail(f"the move {nonsense} was allowed")
    refused(w3, node_key := key_of(devnet, "nodes", 0), disputes.functions.move(game, state, b"\x01\x80"), "NotYourTurn()")
    assert node_key.address == node.address
    refused(w3, spammer, disputes.functions.move(game, moves[-1]["args"]["move"], b"\x01\x80"), "WrongState()")
    refused(w3, spammer, disputes.functions.timeout(game), "NotLate(uint64)")
    ended = until(lambda: disputes.events.Ended.get_logs(from_block=receipt["blockNumber"], argument_filters={"id": game}), 2 * MOVE + 15, "the node ends the game")
    assert not ended[0]["args"]["nodeLost"] and ended[0]["args"]["timedOut"]
    assert w3.eth.get_transaction(ended[0]["transactionHash"])["from"] == node.address
    assert stake_of(contracts, node.address) == stake and disputes.functions.openCount(node.address).call() == 0
    # Half of the bond is the node's, half is burnt.
    assert w3.eth.get_balance(BURN) - burnt == bond - bond // 2
    won = disputes.functions.balances(node.address).call() - mine
    assert won == bond // 2 or w3.eth.get_balance(node.address) > wealth + bond // 2 - COIN // 100
    assert disputes.functions.balances(spammer.address).call() == 0
    refused(w3, spammer, disputes.functions.open(claim, signature, b"\0"), "AlreadyTried()", value=bond)


def test_the_node_takes_what_it_won(contracts, node):
    """The bonds of lost challenges do not stay in the contract for ever. Follows the test above."""
    until(lambda: contracts.Disputes.functions.balances(node.address).call() == 0, 20, "the node withdraws")


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
    assert sum(ok.values()) > sum(asked["ok"].values()) and re.search("audited", done.stdout)


def test_earnings_are_released_after_the_window(paid, contracts, node, w3):
    index, release_at = paid["bucket"]
    events = lambda: contracts.Escrow.events.Released.get_logs(from_block=0, argument_filters={"node": node.address, "index": index})  # noqa: E731
    (released, *_) = until(events, WINDOW + 60, "the bucket is paid")
    assert w3.eth.get_block(released["blockNumber"])["timestamp"] >= release_at
    assert released["args"]["amount"] >= paid["price"] * 987 // 1000
    assert contracts.Escrow.functions.bucketOf(node.address, index).call()[0] == 0
