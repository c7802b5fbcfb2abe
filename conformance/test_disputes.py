"""Disputes on a real network: claims of a node of this test that it must lose, and a challenge that is only spam."""

import json
import random
import time

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
from court import HI, MOVE, WINDOW, key_of, refused, transact, until
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
    call = disputes.functions.logEquivocation

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
    signed = lambda root: checkpoint_signature(key, devnet.chain_id, key.address, 3, root)  # noqa: E731
    call = disputes.functions.logEquivocation
    refused(w3, reporter, call(key.address, 3, posted, signed(posted), posted, b""), "NoContradiction()")
    transact(w3, reporter, call(key.address, 3, other, signed(other), posted, b""))
    assert stake_of(contracts, key.address) == 100 * COIN
    refused(w3, reporter, call(key.address, 3, other, signed(other), posted, b""), "AlreadyPunished()")


def test_a_spam_challenge_fails_by_itself(w3, devnet, contracts, ask_node, node_api):
    """Somebody disputes an honest answer and then cannot move: the node's program answers, and ends the game in time."""
    disputes, spammer = contracts.Disputes, fund(w3, devnet)
    claim, signature = parts_of(bytes.fromhex(ask_node(og_assurance="audited").headers["og-receipt"][2:]))
    bond, stake, burnt = (
        disputes.functions.bondFor(node_api.address).call(),
        stake_of(contracts, node_api.address),
        w3.eth.get_balance(BURN),
    )
    mine = disputes.functions.balances(node_api.address).call()
    wealth = w3.eth.get_balance(node_api.address)
    receipt = transact(w3, spammer, disputes.functions.open(claim, signature, b"\0"), value=bond)
    (opened,) = disputes.events.Opened().process_receipt(receipt, errors=DISCARD)
    game, args = opened["args"]["id"], opened["args"]
    assert (args["node"], args["defender"], args["turn"]) == (node_api.address, node_api.address, 1)
    refused(w3, spammer, disputes.functions.open(claim, signature, b"\0"), "AlreadyTried()", value=2 * bond)
    assert disputes.functions.bondFor(node_api.address).call() == 2 * bond, "each open dispute makes the next one dearer"
    # The node's program moves without anybody's help.
    moves = until(
        lambda: disputes.events.Moved.get_logs(from_block=receipt["blockNumber"], argument_filters={"id": game}),
        MOVE,
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
        2 * MOVE + 15,
        "the node ends the game",
    )
    assert not ended[0]["args"]["nodeLost"] and ended[0]["args"]["timedOut"]
    assert w3.eth.get_transaction(ended[0]["transactionHash"])["from"] == node_api.address
    assert stake_of(contracts, node_api.address) == stake and disputes.functions.openCount(node_api.address).call() == 0
    # Half of the bond is the node's, half is burnt.
    assert w3.eth.get_balance(BURN) - burnt == bond - bond // 2
    won = disputes.functions.balances(node_api.address).call() - mine
    assert won == bond // 2 or w3.eth.get_balance(node_api.address) > wealth + bond // 2 - COIN // 100
    assert disputes.functions.balances(spammer.address).call() == 0
    refused(w3, spammer, disputes.functions.open(claim, signature, b"\0"), "AlreadyTried()", value=bond)


@pytest.mark.xfail(strict=True, reason="a node never withdraws from the contract `Disputes`; only auditors do")
def test_the_node_takes_what_it_won(contracts, node_api):
    """The bonds of lost challenges do not stay in the contract for ever. Follows the test above."""
    until(lambda: contracts.Disputes.functions.balances(node_api.address).call() == 0, 20, "the node withdraws")


def backdated(w3, devnet, contracts, http, model):
    """An answer that a node wrote by hand and dates back: it enters the log when nobody can dispute it any more. Its proof file."""
    known = http.post("/v1/chat/completions", json={"model": model, **HI}).headers["og-receipt-id"]
    proof = read_file(fetch(http, known))
    key = fund(w3, devnet, 200 * COIN)
    transact(w3, key, contracts.NodeRegistry.functions.register("http://127.0.0.1:1"), value=100 * COIN)
    claim, opened = proof["receipt"]["claim"], proof["disclosure"]
    response = json.loads(opened["response"])
    response["choices"][0]["message"]["content"] = "Buy my coin!"
    opened["response"] = json.dumps(response)
    hashed = Web3.keccak(b"og/response/1" + proof_check.raw(opened["nonce"]) + opened["response"].encode())
    claim |= {
        "node": key.address.lower(),
        "rung_requested": 4,
        "rung_achieved": 4,
        "response_hash": "0x" + hashed.hex().removeprefix("0x"),
    }
    claim["time_ms"] = int(time.time() - WINDOW - 30) * 1000
    encoded, signature = signed_claim(key, claim)
    proof["receipt"]["evidence"] = [{"mode": 1, "body": "0x" + signature.hex()}, {"mode": 4, "body": "0x01"}]
    leaf = proof_check.digest(proof_check.typed_claim(claim)) + signature
    proof["log"] = {"index": 0, "size": 1, "path": []}
    transact(w3, key, contracts.ReceiptLog.functions.append(0, 1, proof_check.log_root(leaf, proof["log"])))
    place = {"receipt": proof_check.receipt_id(claim), "index": 0}
    proof["ledger"] = until(
        lambda: w3.provider.make_request("og_receiptLogProof", [key.address, 1, place]).get("result"), 60, "the log is final"
    )
    return key, encoded, signature, write_file(proof)


@pytest.fixture(scope="module")
def late(w3, devnet, contracts, http, model):
    return backdated(w3, devnet, contracts, http, model)


def test_an_answer_from_before_the_window_cannot_be_disputed(w3, contracts, late, account):
    key, claim, signature, _ = late
    call = contracts.Disputes.functions.open(claim, signature, b"\0")
    refused(w3, account, call, "OutsideWindow(uint64)", value=contracts.Disputes.functions.bondFor(key.address).call())


@pytest.mark.xfail(strict=True, reason="the window counts from the time that the node writes into its own claim")
def test_an_answer_that_nobody_could_dispute_is_not_audited(devnet, late, tmp_path):
    """It came into the log a moment ago and both checkers say that the time for disputes is over."""
    path = tmp_path / "proof.json"
    path.write_bytes(late[3])
    done = og_verify(path, "--network", devnet.ready["network"])
    assert done.returncode == 1, done.stdout


@pytest.mark.xfail(strict=True, reason="auditors who find one of two answers wrong cannot dispute it")
def test_what_no_game_can_decide_is_not_offered_as_audited(http, model):
    """The referee takes claims with one answer only, so the others must be refused when they are asked for."""
    body = {"model": model, **HI, "n": 2}
    answer = http.post("/v1/chat/completions", json=body, headers={"og-assurance": "audited"})
    assert answer.status_code == 400
