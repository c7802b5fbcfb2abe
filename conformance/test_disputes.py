"""Disputes on a real network: claims of a node of this test that it must lose, and a challenge that is only spam."""

import json
import random
import time
from hashlib import sha256
from types import SimpleNamespace

import httpx
import pytest
import rlp
from eth_account import Account
from web3 import Web3
from web3.exceptions import ContractLogicError, Web3Exception
from web3.logs import DISCARD

import proof_check
from claims import checkpoint_signature, claim_bytes, parts_of, sign_digest, signed_claim
from conftest import COIN, fund
from court import CLOCK, HI, WINDOW, announce, announce_dispute, key_of, refused, transact, until
from devnet import ROOT, og_verify
from proof_file import read_file, write_file
from test_proof import fetch

BURN = "0x000000000000000000000000000000000000dEaD"


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
    hashes = {
        name: "0x" + random.Random(name).randbytes(32).hex()
        for name in ("request_hash", "response_hash", "prompt_hash", "output_hash", "trace_root")
    }

    def make(**changes):
        return {
            "chain_id": info["chain_id"], "genesis": info["genesis"], "model": info["models"][0]["id"], **hashes, "prompt_tokens": 3,
            "completion_tokens": 2, "max_tokens": 8, "choices": 1, "options": zero, "price_input": "10", "price_output": "20",
            "price": "70", "payer": "0x" + "00" * 20, "anchor_number": 1, "anchor_hash": zero, "time_ms": int(time.time() * 1000),
            "sampling": {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "top_k": 0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": 1},
            "arithmetic_class": 1, "arithmetic_version": 3, "rung_requested": 4, "rung_achieved": 4, **changes,
        }  # fmt: skip

    return make


def test_claims_are_encoded_as_in_receipts(node_api, ask_node):
    """Otherwise the refusals below would only show that the bytes are no claim."""
    claim, signature = parts_of(bytes.fromhex(ask_node().headers["og-receipt"][2:]))
    fields = rlp.decode(claim)
    assert "0x" + fields[2].hex() == node_api.address.lower() and len(signature) == 65
    made = json.loads((ROOT / "conformance" / "vectors" / "audited.json").read_text())["receipt"]
    signable = proof_check.typed_claim(made["claim"])
    assert Account.recover_message(signable, signature=made["evidence"][0]["body"]).lower() == made["claim"]["node"]
    assert len(rlp.decode(claim_bytes(made["claim"]))) == len(fields) == 26


def stake_of(contracts, node):
    return contracts.NodeRegistry.functions.nodeInfo(node).call()[1]


def test_claims_that_are_not_this_networks_are_refused(w3, devnet, contracts, liar, template, account):
    disputes = contracts.Disputes.functions
    bond, claim = disputes.BOND().call(), template()
    good, signature = signed_claim(liar, claim)
    id_of = lambda node, request=claim["request_hash"]: proof_check.receipt_id({**claim, "request_hash": request, "node": node.lower()})  # noqa: E731
    salt = announce_dispute(w3, contracts, account, liar.address, id_of(liar.address))
    # The unchanged one would be heard.
    disputes.open(good, signature, b"\0", salt).call({"from": account.address, "value": bond})
    refused(w3, account, disputes.open(good, signature, b"\0", bytes(32)), "NotAnnounced()", value=bond)
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
            disputes.open(claim_data, by, b"\0", salt).call({"from": account.address, "value": bond})
            pytest.fail(f"{name} was heard")
    salt = announce_dispute(w3, contracts, account, liar.address, id_of(liar.address))
    refused(w3, account, disputes.open(good, signature, b"\0", salt), "WrongBond(uint256,uint256)", value=bond - 1)
    old = signed_claim(liar, claim, time_ms=claim["time_ms"] - (WINDOW + 60) * 1000)
    refused(w3, account, disputes.open(*old, b"\0", salt), "OutsideWindow(uint64)", value=bond)
    early = signed_claim(liar, claim, time_ms=claim["time_ms"] + 3600 * 1000)
    refused(w3, account, disputes.open(*early, b"\0", salt), "OutsideWindow(uint64)", value=bond)
    nobody = signed_claim(other, claim)
    salt = announce_dispute(w3, contracts, account, other.address, id_of(other.address))
    refused(w3, account, disputes.open(*nobody, b"\0", salt), "NotBonded(address)", value=bond)
    for opening in (b"", b"\0\0", b"\2", b"\1"):
        with pytest.raises((ContractLogicError, Web3Exception)):
            disputes.open(good, signature, opening, salt).call({"from": account.address, "value": bond})
            pytest.fail(f"the allegation {opening} was heard")


def test_a_claim_that_contradicts_itself_is_lost_at_once(w3, devnet, contracts, liar, template):
    disputes, challenger, second = contracts.Disputes, fund(w3, devnet), fund(w3, devnet)
    claim, before, burnt = template(), stake_of(contracts, liar.address), w3.eth.get_balance(BURN)
    wrong = signed_claim(liar, claim, price="71")
    bond = disputes.functions.BOND().call()
    receipt_id = proof_check.receipt_id({**claim, "node": liar.address.lower()})
    # Who sees the opening before it is in a block has announced nothing.
    salt = announce_dispute(w3, contracts, challenger, liar.address, receipt_id)
    refused(w3, second, disputes.functions.open(*wrong, b"\0", salt), "NotAnnounced()", value=bond)
    late = announce_dispute(w3, contracts, second, liar.address, receipt_id)
    receipt = transact(w3, challenger, disputes.functions.open(*wrong, b"\0", salt), value=bond)
    (ended,) = disputes.events.Ended().process_receipt(receipt, errors=DISCARD)
    assert ended["args"]["nodeLost"] and not ended["args"]["timedOut"]
    taken = before - stake_of(contracts, liar.address)
    bounty = disputes.functions.balances(challenger.address).call() - bond
    assert taken == disputes.functions.FRAUD_SLASH().call() > 0 and bounty == taken // 10
    assert w3.eth.get_balance(BURN) - burnt == taken - bounty
    finding, slashed = disputes.functions.lost(liar.address, proof_check.raw(receipt_id)).call()
    assert (finding, slashed) == (2, taken)
    # Nobody can have it punished twice, and the winner takes its coins.
    refused(w3, second, disputes.functions.open(*wrong, b"\0", late), "AlreadyLost()", value=bond)
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
    receipt_id = proof_check.raw(proof_check.receipt_id({**claim, "node": liar.address.lower()}))
    subject = disputes.functions.equivocationSubject(liar.address, receipt_id).call()
    salt = announce(w3, contracts, reporter, subject)
    refused(w3, reporter, disputes.functions.equivocation(*one, *one, salt), "NoContradiction()")
    refused(w3, reporter, disputes.functions.equivocation(*one, *other, salt), "NoContradiction()")
    refused(w3, reporter, disputes.functions.equivocation(*one, *two, bytes(32)), "NotAnnounced()")
    before = stake_of(contracts, liar.address)
    transact(w3, reporter, disputes.functions.equivocation(*one, *two, salt))
    taken = before - stake_of(contracts, liar.address)
    assert taken == disputes.functions.FRAUD_SLASH().call()
    assert disputes.functions.balances(reporter.address).call() == taken // 10
    for pair in ((one, two), (two, one), (one, three), (two, three)):
        refused(w3, reporter, disputes.functions.equivocation(*pair[0], *pair[1], salt), "AlreadyPunished()")
    forged = (two[0], sign_digest(Account.create(), Web3.keccak(two[0])))
    with pytest.raises((ContractLogicError, Web3Exception)):
        disputes.functions.equivocation(*one, *forged, salt).call({"from": reporter.address})


def test_two_roots_of_one_size_slash_once(w3, devnet, contracts, liar):
    disputes, reporter, size = contracts.Disputes, fund(w3, devnet), 7
    roots = [bytes([i]) * 32 for i in (1, 2, 3)]
    by = lambda key, root, size=size: checkpoint_signature(key, devnet.chain_id, devnet.genesis, liar.address, size, root)  # noqa: E731
    signatures = [by(liar, root) for root in roots]
    salt = announce(w3, contracts, reporter, disputes.functions.forkSubject(liar.address, size).call())

    def call(*args):
        return disputes.functions.logEquivocation(*args, salt)

    def report(a, b, size=size):
        return call(liar.address, size, roots[a], signatures[a], roots[b], signatures[b])

    refused(w3, reporter, report(0, 0), "NoContradiction()")
    refused(w3, reporter, report(0, 1, size=8), "BadCheckpoint(bytes32)")
    refused(
        w3,
        reporter,
        call(liar.address, size, roots[0], signatures[0], roots[1], by(Account.create(), roots[1])),
        "BadCheckpoint(bytes32)",
    )
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
    signed = lambda root: checkpoint_signature(key, devnet.chain_id, devnet.genesis, key.address, 3, root)  # noqa: E731
    salt = announce(w3, contracts, reporter, disputes.functions.forkSubject(key.address, 3).call())
    call = lambda *args: disputes.functions.logEquivocation(*args, salt)  # noqa: E731
    refused(w3, reporter, call(key.address, 3, posted, signed(posted), posted, b""), "NoContradiction()")
    transact(w3, reporter, call(key.address, 3, other, signed(other), posted, b""))
    assert stake_of(contracts, key.address) == 100 * COIN
    refused(w3, reporter, call(key.address, 3, other, signed(other), posted, b""), "AlreadyPunished()")


def test_a_spam_challenge_fails_by_itself(w3, devnet, contracts, ask_node, node_api):
    """Somebody disputes an honest answer and then cannot move: the node's program answers, and ends the game in time."""
    disputes, spammer = contracts.Disputes, fund(w3, devnet)
    headers = ask_node(og_assurance="audited").headers
    claim, signature = parts_of(bytes.fromhex(headers["og-receipt"][2:]))
    bond, stake = disputes.functions.BOND().call(), stake_of(contracts, node_api.address)
    mine = disputes.functions.balances(node_api.address).call()
    wealth = w3.eth.get_balance(node_api.address)
    salt = announce_dispute(w3, contracts, spammer, node_api.address, headers["og-receipt-id"])
    receipt = transact(w3, spammer, disputes.functions.open(claim, signature, b"\0", salt), value=bond)
    (opened,) = disputes.events.Opened().process_receipt(receipt, errors=DISCARD)
    game, args = opened["args"]["id"], opened["args"]
    assert (args["node"], args["defender"], args["turn"]) == (node_api.address, node_api.address, 1)
    again = announce_dispute(w3, contracts, spammer, node_api.address, headers["og-receipt-id"])
    refused(w3, spammer, disputes.functions.open(claim, signature, b"\0", again), "AlreadyTried()", value=bond)
    # The node's program moves without anybody's help.
    moves = until(
        lambda: disputes.events.Moved.get_logs(from_block=receipt["blockNumber"], argument_filters={"id": game}),
        CLOCK,
        "the node moves",
    )
    state = moves[-1]["args"]["state"]
    assert moves[-1]["args"]["turn"] == 0, "the challenger is on turn"
    for nonsense in (b"", b"\x01", b"\x01\xff", b"\x05", b"\x0c", bytes(100)):
        with pytest.raises((ContractLogicError, Web3Exception)):
            disputes.functions.move(game, state, nonsense).call({"from": spammer.address})
            pytest.fail(f"the move {nonsense} was allowed")
    refused(w3, node_key := key_of(devnet, "nodes", 0), disputes.functions.move(game, state, b"\x01\x80"), "NotYourTurn()")
    assert node_key.address == node_api.address
    refused(w3, spammer, disputes.functions.move(game, moves[-1]["args"]["move"], b"\x01\x80"), "WrongState()")
    refused(w3, spammer, disputes.functions.timeout(game), "NotLate(uint64)")
    ended = until(
        lambda: disputes.events.Ended.get_logs(from_block=receipt["blockNumber"], argument_filters={"id": game}),
        CLOCK + 30,
        "the node ends the game",
    )
    assert not ended[0]["args"]["nodeLost"] and ended[0]["args"]["timedOut"]
    assert w3.eth.get_transaction(ended[0]["transactionHash"])["from"] == node_api.address
    assert stake_of(contracts, node_api.address) == stake and disputes.functions.openCount(node_api.address).call() == 0
    # Half of the bond is the node's, half is burnt.
    at = ended[0]["blockNumber"]
    assert w3.eth.get_balance(BURN, at) - w3.eth.get_balance(BURN, at - 1) == bond - bond // 2
    won = disputes.functions.balances(node_api.address).call() - mine
    assert won == bond // 2 or w3.eth.get_balance(node_api.address) > wealth + bond // 2 - COIN // 100
    assert disputes.functions.balances(spammer.address).call() == 0
    again = announce_dispute(w3, contracts, spammer, node_api.address, headers["og-receipt-id"])
    refused(w3, spammer, disputes.functions.open(claim, signature, b"\0", again), "AlreadyTried()", value=bond)


def test_the_node_takes_what_it_won(contracts, node_api):
    """The bonds of lost challenges do not stay in the contract for ever. Follows the test above."""
    until(lambda: contracts.Disputes.functions.balances(node_api.address).call() == 0, 20, "the node withdraws")


def by_hand(proof, key, number):
    """The proof file's answer as `key` would have written it by hand: other words, audited, and dated back. Signs it."""
    claim, opened = proof["receipt"]["claim"], proof["disclosure"]
    response = json.loads(opened["response"])
    response["choices"][0]["message"]["content"] = "Buy my coin!"
    opened["response"] = json.dumps(response)
    opened["nonce"] = "0x" + bytes([number]).hex() * 32
    commit = lambda domain, data: "0x" + proof_check.keccak(domain + nonce + data.encode()).hex()  # noqa: E731
    nonce = proof_check.raw(opened["nonce"])
    claim |= {
        "node": key.address.lower(), "rung_requested": 4, "rung_achieved": 4, "time_ms": int(time.time() - WINDOW - 30) * 1000,
        "request_hash": commit(b"og/request/1", opened["request"]), "response_hash": commit(b"og/response/1", opened["response"]),
        "prompt_hash": proof_check.token_tree(b"og/prompt-token/2", nonce, opened["prompt_tokens"]),
        "output_hash": proof_check.token_tree(b"og/output-token/2", nonce, opened["output_tokens"]),
    }  # fmt: skip
    encoded, signature = signed_claim(key, claim)
    proof["receipt"]["evidence"] = [{"mode": 1, "body": "0x" + signature.hex()}, {"mode": 4, "body": "0x01"}]
    leaf = sha256(b"\0" + proof_check.digest(proof_check.typed_claim(claim)) + signature).digest()
    return {"proof": proof, "claim": encoded, "signature": signature, "leaf": leaf, "id": proof_check.receipt_id(claim)}


@pytest.fixture(scope="module")
def late(w3, devnet, contracts, http, model):
    """Two answers that a node dates back: they enter its log when nobody could dispute them by their own time. The first gets
    disputed, the second one not."""
    known = http.post("/v1/chat/completions", json={"model": model, **HI}).headers["og-receipt-id"]
    data, key = fetch(http, known), fund(w3, devnet, 400 * COIN)
    transact(w3, key, contracts.NodeRegistry.functions.register("http://127.0.0.1:1"), value=300 * COIN)
    answers = [by_hand(read_file(data), key, number) for number in (1, 2)]
    leaves = [answer["leaf"] for answer in answers]
    root = sha256(b"\1" + leaves[0] + leaves[1]).digest()
    posted = transact(w3, key, contracts.ReceiptLog.functions.append(0, 2, root))
    for index, answer in enumerate(answers):
        answer |= {"index": index, "path": [leaves[1 - index]]}
        answer["proof"]["log"] = {"index": index, "size": 2, "path": ["0x" + leaves[1 - index].hex()]}

    def proof_of(answer):
        """Its proof file as of now."""
        place = {"receipt": answer["id"], "model": answer["proof"]["receipt"]["claim"]["model"], "index": answer["index"]}
        asked = [key.address, 2, place]
        ledger = until(lambda: w3.provider.make_request("og_receiptLogProof", asked).get("result"), 60, "the log is final")
        return write_file({**answer["proof"], "ledger": ledger})

    time_of = w3.eth.get_block(posted["blockNumber"])["timestamp"]
    assert contracts.ReceiptLog.functions.timeOf(key.address, 2).call() == time_of
    return SimpleNamespace(key=key, answers=answers, root=root, posted=time_of, proof_of=proof_of)


def logged(contracts, late, answer, salt, size=2, **changes):
    """The call that disputes an answer by its place in the log; `salt` is the announcement's."""
    args = {"node": late.key.address, "index": answer["index"], "path": answer["path"], "opening": b"\0", **changes}
    place = (answer["claim"], answer["signature"], args["path"])
    return contracts.Disputes.functions.openLogged(args["node"], size, args["index"], place, args["opening"], salt)


def failed_checks(devnet, path, data):
    """{name: detail} of what `og verify` finds wrong. An audit that does not hold is also evidence that does not."""
    path.write_bytes(data)
    done = og_verify(path, "--network", devnet.ready["network"], "--json")
    failed = {c["name"]: c["detail"] for c in json.loads(done.stdout)["checks"] if c["outcome"] == "fail"}
    assert done.returncode == (1 if failed else 0), done.stdout
    return failed


def test_an_answer_that_is_dated_back_is_not_audited_before_its_window(w3, contracts, devnet, late, account, tmp_path):
    """It came into the log a moment ago: by its own time nobody could dispute it, and so that time does not count."""
    until_time = late.posted + WINDOW
    for answer in late.answers:
        bond = contracts.Disputes.functions.BOND().call()
        salt = announce_dispute(w3, contracts, account, late.key.address, answer["id"])
        call = contracts.Disputes.functions.open(answer["claim"], answer["signature"], b"\0", salt)
        refused(w3, account, call, "OutsideWindow(uint64)", value=bond)
        data = late.proof_of(answer)
        failed = failed_checks(devnet, tmp_path / "proof.json", data)
        assert list(failed) == ["signature", "audit"], failed
        assert "its window has closed" in failed["signature"] and f"refuted until Unix time {until_time};" in failed["audit"], (
            failed
        )
        with pytest.raises(AssertionError, match="it can still be refuted"):
            proof_check.check(data, devnet.ready["network"])
        audit = read_file(data)["ledger"]["audit"]
        assert int(audit["posted"], 16) >> 128 == late.posted and int(audit["disputed_at"], 16) == 0
        words = [int(audit["posted"], 16) >> shift & (1 << 64) - 1 for shift in (0, 64)]
        assert words == [contracts.ReceiptLog.functions.blockOf(late.key.address, 2).call(), 0]


def test_it_is_disputed_by_its_place_in_the_log_and_lost(w3, contracts, devnet, late, tmp_path):
    disputes, challenger, (answer, other) = contracts.Disputes, fund(w3, devnet), late.answers
    bond, before = disputes.functions.BOND().call(), stake_of(contracts, late.key.address)
    salt = announce_dispute(w3, contracts, challenger, late.key.address, answer["id"])
    elsewhere = devnet.ready["nodes"][0]
    for error, call in [
        ("NotInLog()", logged(contracts, late, answer, salt, index=1)), ("NotInLog()", logged(contracts, late, answer, salt, path=other["path"])),
        ("NotInLog()", logged(contracts, late, answer, salt, path=[bytes(32)])), ("BadPath()", logged(contracts, late, answer, salt, path=[])),
        ("BadPath()", logged(contracts, late, answer, salt, index=2)), ("NotInLog()", logged(contracts, late, answer, salt, size=1, path=[])),
        ("BadPath()", logged(contracts, late, answer, salt, size=1)),
        ("WrongNode(address)", logged(contracts, late, answer, salt, node=Web3.to_checksum_address(elsewhere))),
    ]:  # fmt: skip
        refused(w3, challenger, call, error, value=bond)
    receipt = transact(w3, challenger, logged(contracts, late, answer, salt), value=bond)
    (opened,) = disputes.events.Opened().process_receipt(receipt, errors=DISCARD)
    game, args = opened["args"]["id"], opened["args"]
    assert (args["node"], args["challenger"], args["turn"]) == (late.key.address, challenger.address, 1)
    assert "0x" + args["receiptId"].hex() == answer["id"]
    salt = announce_dispute(w3, contracts, challenger, late.key.address, answer["id"])
    refused(w3, challenger, logged(contracts, late, answer, salt), "AlreadyTried()", value=bond)
    # The node cannot show that it computed this, and so it does not move.
    deadline = disputes.functions.gameOf(game).call()[1]
    until(lambda: w3.eth.get_block("latest")["timestamp"] > deadline, CLOCK + 30, "the node's time is over")
    receipt = transact(w3, challenger, disputes.functions.timeout(game))
    (ended,) = disputes.events.Ended().process_receipt(receipt, errors=DISCARD)
    assert ended["args"]["nodeLost"] and ended["args"]["timedOut"]
    # Meanwhile a jury may have taken stake too: this node shows its answers to nobody.
    (punished,) = disputes.events.Punished().process_receipt(receipt, errors=DISCARD)
    taken = punished["args"]["taken"]
    assert taken == disputes.functions.TIMEOUT_SLASH().call() > 0
    assert before - stake_of(contracts, late.key.address) >= taken
    assert disputes.functions.balances(challenger.address).call() == bond + taken // 10
    finding, slashed = disputes.functions.lost(late.key.address, proof_check.raw(answer["id"])).call()
    assert (finding, slashed) == (1, taken)
    # A block later the state says so, and no proof can hide it.
    until(lambda: int(read_file(late.proof_of(answer))["ledger"]["audit"]["lost"], 16), 60, "the loss is final")
    data = late.proof_of(answer)
    failed = failed_checks(devnet, tmp_path / "proof.json", data)
    assert list(failed) == ["signature", "audit"] and failed["audit"] == "it was found wrong", failed
    with pytest.raises(AssertionError, match="it was found wrong"):
        proof_check.check(data, devnet.ready["network"])


def test_after_the_window_after_posting_nobody_can_dispute_it(w3, contracts, devnet, late, account, tmp_path):
    """The second one was not disputed in time. Nothing in its proof shows that its words were made up: both checkers accept it."""
    answer = late.answers[1]
    until(lambda: w3.eth.get_block("latest")["timestamp"] > late.posted + WINDOW + 2, WINDOW + 30, "the window closes")
    bond = contracts.Disputes.functions.BOND().call()
    salt = announce_dispute(w3, contracts, account, late.key.address, answer["id"])
    refused(w3, account, logged(contracts, late, answer, salt), "OutsideWindow(uint64)", value=bond)

    def settled():
        data = late.proof_of(answer)
        failed = failed_checks(devnet, tmp_path / "proof.json", data)
        return (data, failed) if not failed or "withheld" in failed.get("audit", "") else None

    data, failed = until(settled, 30, "the proof holds")
    # This node shows nothing to anybody. When auditors were drawn for it, a jury has found that meanwhile, and the file says so.
    if failed:
        with pytest.raises(AssertionError, match="withheld"):
            proof_check.check(data, devnet.ready["network"])
    else:
        proof_check.check(data, devnet.ready["network"])


def test_a_later_log_does_not_begin_the_time_anew(w3, contracts, late, account):
    """Else no answer of a node that goes on is ever settled, whatever a proof says. Follows the test above."""
    answer, more = late.answers[1], sha256(b"\0another receipt").digest()
    root = sha256(b"\1" + late.root + more).digest()
    transact(w3, late.key, contracts.ReceiptLog.functions.append(2, 3, root))
    bond = contracts.Disputes.functions.BOND().call()
    salt = announce_dispute(w3, contracts, account, late.key.address, answer["id"])
    call = logged(contracts, late, answer, salt, size=3, path=[*answer["path"], more])
    refused(w3, account, call, "LaterLog(uint64)", value=bond)


def test_what_no_game_can_decide_is_not_offered_as_audited(http, ask_node, node_api, model):
    """The referee takes claims with one answer only, so the others must be refused when they are asked for."""
    body, headers = {"model": model, **HI, "n": 2}, {"og-assurance": "audited"}
    for client in (http, node_api):
        answer = client.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "n", answer.text
        answer = client.post("/v1/embeddings", json={"model": model, "input": "Hi"}, headers=headers)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "assurance_unavailable", answer.text
    assert ask_node(og_assurance="audited").status_code == 200
