"""Calls that are not transactions: their environment, overrides of state and block, estimates, access lists."""

import pytest
from eth_account import Account
from eth_utils import keccak

from conftest import addresses, artifact, send
from evm import LOOPS, REVERTS, SLOT_0, STORES, returns, word

HERE = "0x" + "c0" * 20
RICH = {"balance": hex(10**18)}


@pytest.fixture
def run(rpc):
    """`run(code)` gives the number that a contract with this code returns."""

    def call(code, block="latest", overrides=None, **fields):
        state = {HERE: {"code": returns(code)}}
        answer = rpc("eth_call", {"to": HERE, **fields}, block, state, *([overrides] if overrides else []))
        assert "result" in answer, answer
        return int(answer["result"], 16)

    return call


def test_a_call_runs_in_the_block_that_it_names(w3, run):
    block = w3.eth.get_block("latest")
    number = hex(block["number"])
    assert run("43", number) == block["number"]
    assert run("42", number) == block["timestamp"]
    assert run("45", number) == block["gasLimit"] == 60_000_000
    assert run("41", number) == int(block["miner"], 16)
    assert run("44", number) == int.from_bytes(block["mixHash"])
    assert run("46", number) == w3.eth.chain_id
    assert run("6001430340", number) == int.from_bytes(block["parentHash"])
    assert block["number"] <= run("43", "latest") <= w3.eth.block_number
    assert run("43", "pending") >= block["number"]


def test_randomness_differs_in_every_block(w3):
    tip = w3.eth.block_number
    seen = [bytes(w3.eth.get_block(n)["mixHash"]) for n in range(1, min(tip, 30) + 1)]
    assert len(set(seen)) == len(seen) and bytes(32) not in seen


def test_block_overrides(rpc, run):
    other = "0x" + "ab" * 20
    change = {
        "number": "0x1234", "time": "0x77", "gasLimit": "0x100000", "feeRecipient": other,
        "prevRandao": "0x" + "cd" * 32, "baseFeePerGas": "0x9",
    }  # fmt: skip
    state = [("43", 0x1234), ("42", 0x77), ("45", 0x100000), ("41", int(other, 16)), ("44", int("cd" * 32, 16))]
    for code, value in state:
        assert run(code, overrides=change) == value, code
    # Only a call that pays is sure to see the fee: some clients show nothing to one that does not.
    state = {HERE: {"code": returns("48"), "balance": hex(10**18)}}
    call = {"from": HERE, "to": HERE, "gasPrice": "0x9", "gas": "0xffff"}
    assert int(rpc("eth_call", call, "latest", state, change)["result"], 16) == 9


def test_state_overrides(rpc):
    slots = {SLOT_0: word(7)}
    reads = returns("600054")

    def result(change, code=reads, **fields):
        return int(rpc("eth_call", {"to": HERE, **fields}, "latest", {HERE: {"code": code, **change}})["result"], 16)

    assert result({"state": slots}) == result({"stateDiff": slots}) == 7
    assert result({"state": {word(1): word(7)}}) == 0
    assert result({"balance": "0x1234"}, returns("47")) == 0x1234
    assert rpc("eth_getCode", HERE, "latest")["result"] == "0x", "overrides last for one call"


def test_state_replaces_and_state_diff_adds(w3, rpc, devnet):
    """`state` forgets the other slots of the account, `stateDiff` keeps them."""
    node_registry = addresses(devnet)["NodeRegistry"]
    count = int.from_bytes(w3.eth.get_storage_at(node_registry, 1))
    assert count > 0

    def slot_1(change):
        call = {"to": node_registry}
        code = {"code": returns("600154"), **change}
        return int(rpc("eth_call", call, "latest", {node_registry: code})["result"], 16)

    other = {word(10**9): word(1)}
    assert slot_1({"stateDiff": other}) == count and slot_1({"state": other}) == 0


def test_a_nonce_can_be_overridden(rpc):
    """The address of a created contract depends on it."""
    sender = Account.create().address
    # Init code that returns its own address.
    data = returns("30")
    made = {rpc("eth_call", {"from": sender, "data": data}, "latest", {sender: {"nonce": hex(n)}})["result"] for n in (0, 1)}
    assert len(made) == 2


@pytest.mark.xfail(strict=True, reason="movePrecompileToAddress is refused")
def test_a_precompile_can_be_moved(rpc):
    change = {"0x" + f"{2:040x}": {"movePrecompileToAddress": HERE}}
    found = rpc("eth_call", {"to": HERE, "data": "0x616263"}, "latest", change)
    assert found["result"] == "0xba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_wrong_overrides_are_refused(rpc):
    both = {"state": {}, "stateDiff": {}}
    assert rpc("eth_call", {"to": HERE}, "latest", {HERE: both})["error"]["code"] in (-32000, -32602)
    for bad in ({HERE: {"balance": "x"}}, {"0x12": {}}, [], "x", {HERE: {"stateDiff": {"0x0": "0x7"}}}, {HERE: {"nonce": "-1"}}):
        assert rpc("eth_call", {"to": HERE}, "latest", bad)["error"]["code"] == -32602, bad
    for bad in ({"number": "x"}, 7, {"time": "0x" + "ff" * 40}):
        assert rpc("eth_call", {"to": HERE}, "latest", {}, bad)["error"]["code"] == -32602, bad


def test_a_list_is_not_an_object(rpc):
    assert rpc("eth_call", {"to": HERE}, "latest", {}, [])["error"]["code"] == -32602
    assert rpc("eth_simulateV1", [[]])["error"]["code"] == -32602


def test_estimates_see_overrides(rpc):
    poor = Account.create().address
    call = {"from": poor, "to": HERE, "value": "0x5"}
    assert "insufficient funds" in rpc("eth_estimateGas", call)["error"]["message"]
    assert rpc("eth_estimateGas", call, "latest", {poor: RICH})["result"] == hex(21_000)
    stores = {"to": HERE, "data": word(1)}
    fresh = int(rpc("eth_estimateGas", stores, "latest", {HERE: {"code": STORES}})["result"], 16)
    used = {HERE: {"code": STORES, "state": {SLOT_0: word(2)}}}
    assert fresh - int(rpc("eth_estimateGas", stores, "latest", used)["result"], 16) > 15_000
    # Writes only after block 1000000.
    late = "0x620f42404311600a57005b60016000556001600155" + "00"
    assert len(late) % 2 == 0
    block = {"number": hex(2_000_000)}
    early = rpc("eth_estimateGas", {"to": HERE}, "latest", {HERE: {"code": late}})
    later = rpc("eth_estimateGas", {"to": HERE}, "latest", {HERE: {"code": late}}, block)
    assert int(early["result"], 16) < 22_000 < 60_000 < int(later["result"], 16)


def test_an_estimate_is_enough_and_not_much_more(w3, account):
    code = artifact("WrappedNative")["bytecode"]
    estimate = w3.eth.estimate_gas({"from": account.address, "data": code})
    receipt = send(w3, account, data=code, gas=estimate)
    assert receipt["status"] == 1 and receipt["gasUsed"] <= estimate <= receipt["gasUsed"] * 1.02


@pytest.mark.parametrize(
    ("code", "number", "words"),
    [(REVERTS, 3, "execution reverted"), ("0xfe", -32000, "invalid opcode"), ("0x600456", -32000, "invalid jump destination"),
     ("0x01", -32000, "stack underflow"), (LOOPS, -32000, "out of gas")],
)  # fmt: skip
def test_failures_have_codes_and_words(rpc, code, number, words):
    state = {HERE: {"code": code}}
    error = rpc("eth_call", {"to": HERE, "gas": "0x186a0"}, "latest", state)["error"]
    assert error["code"] == number and words in error["message"], error
    if number == 3:
        assert error["data"] == "0x"
    assert rpc("eth_estimateGas", {"to": HERE, "gas": "0x186a0"}, "latest", state)["error"]["code"] == number


def test_an_estimate_that_needs_too_much_says_so(rpc):
    error = rpc("eth_estimateGas", {"to": HERE}, "latest", {HERE: {"code": LOOPS}})["error"]
    assert error["code"] == -32000 and "gas required exceeds allowance" in error["message"], error


def test_calls_that_contradict_themselves(rpc, account):
    me = account.address
    for call, words in [
        ({"maxFeePerGas": "0x1", "gasPrice": "0x2"}, "both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified"),
        ({"data": "0x12", "input": "0x13"}, 'both "data" and "input" are set and not equal'),
    ]:
        error = rpc("eth_call", {"from": me, "to": me, **call}, "latest")["error"]
        assert error["code"] in (-32000, -32602) and words in error["message"], error
    assert rpc("eth_call", {"from": me, "to": me, "data": "0x12", "input": "0x12"}, "latest")["result"] == "0x"


@pytest.mark.parametrize(
    ("call", "words"),
    [({"gas": "0x5000"}, "intrinsic gas too low"), ({"gasPrice": "0x1"}, "max fee per gas less than block base fee"),
     ({"maxFeePerGas": "0x1", "maxPriorityFeePerGas": "0x2"}, "max priority fee per gas higher than max fee per gas"),
     ({"chainId": "0x1"}, "chainId does not match node's (have=1, want=")],
    ids=["intrinsic", "base fee", "tip", "chain id"],
)  # fmt: skip
def test_words_that_libraries_look_for(rpc, account, call, words):
    error = rpc("eth_call", {"from": account.address, "to": account.address, **call}, "latest")["error"]
    assert error["code"] == -32000 and words in error["message"], error


def test_access_list_of_a_call(w3, rpc, devnet, account):
    token = addresses(devnet)["WrappedNative"]
    holder = account.address.lower().removeprefix("0x")
    call = {"from": account.address, "to": token, "data": "0x70a08231" + holder.rjust(64, "0")}
    made = rpc("eth_createAccessList", call)["result"]
    slot = "0x" + keccak(bytes.fromhex(holder.rjust(64, "0")) + bytes(32)).hex()
    assert made["accessList"] == [{"address": token.lower(), "storageKeys": [slot]}] and "error" not in made
    listed = rpc("eth_estimateGas", {**call, "accessList": made["accessList"]})["result"]
    assert 0 <= int(listed, 16) - int(made["gasUsed"], 16) < 1000
    result = w3.eth.create_access_list({"from": account.address, "to": token, "data": call["data"]})
    assert result["accessList"][0]["storageKeys"] == [slot] or bytes(result["accessList"][0]["storageKeys"][0]).hex() in slot


def test_access_list_of_a_failing_call(rpc, devnet, account):
    get = {"from": account.address, "to": addresses(devnet)["ModelRegistry"], "data": "0x8eaa6ac0" + "77" * 32}
    made = rpc("eth_createAccessList", get)["result"]
    assert "execution reverted" in made["error"] and len(made["accessList"]) == 1
    poor = Account.create().address
    assert "insufficient funds" in rpc("eth_createAccessList", {**get, "from": poor, "value": "0x1"})["error"]["message"]
    assert rpc("eth_createAccessList")["error"]["code"] == -32602


def test_access_list_with_overrides(rpc):
    made = rpc("eth_createAccessList", {"to": HERE}, "latest", {HERE: {"code": returns("600054")}})["result"]
    assert made["accessList"] == [{"address": HERE, "storageKeys": [SLOT_0]}]
