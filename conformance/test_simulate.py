"""eth_simulateV1: blocks of calls that might follow, as specified in Ethereum's execution-apis."""

import pytest
from eth_account import Account
from eth_utils import keccak
from rlp import encode

from conftest import COIN, artifact, deployed, send
from evm import LOOPS, REVERTS, returns, word

TRANSFER = "0x" + keccak(b"Transfer(address,address,uint256)").hex()
HISTORY = "0x0000F90827F1C53a10cb7A02335B175320002935"
FEE = {"maxFeePerGas": hex(10**11), "maxPriorityFeePerGas": "0x0"}


def stranger():
    return Account.create().address.lower()


@pytest.fixture
def simulate(rpc):
    """`simulate([block, ...])` gives the simulated blocks, and fails when the node refuses."""

    def run(blocks, block="latest", **options):
        answer = rpc("eth_simulateV1", {"blockStateCalls": blocks, **options}, block)
        assert "result" in answer, answer
        return answer["result"]

    return run


@pytest.fixture
def refused(rpc):
    """`refused([block, ...])` gives the error."""
    return lambda blocks, **options: rpc("eth_simulateV1", {"blockStateCalls": blocks, **options}, "latest")["error"]


def rich(*addresses):
    return {address: {"balance": hex(COIN)} for address in addresses}


def test_coins_from_nothing_move_on(simulate, rpc):
    a, b, c = stranger(), stranger(), stranger()
    first, second = simulate([
        {"stateOverrides": rich(a), "calls": [{"from": a, "to": b, "value": "0x5"}, {"from": b, "to": c, "value": "0x3"}]},
        {"calls": [{"from": c, "to": a, "value": "0x3"}]},
    ])  # fmt: skip
    for call in first["calls"] + second["calls"]:
        assert (call["status"], call["gasUsed"], call["returnData"], call["logs"]) == ("0x1", hex(21_000), "0x", [])
    assert first["gasUsed"] == hex(42_000) and len(first["transactions"]) == 2
    assert second["parentHash"] == first["hash"] and int(second["number"], 16) == int(first["number"], 16) + 1
    assert int(second["timestamp"], 16) > int(first["timestamp"], 16)
    assert first["baseFeePerGas"] == "0x0", "without validation nobody pays"
    assert rpc("eth_getBalance", b, "latest")["result"] == "0x0", "nothing happened"


def test_the_first_block_follows_the_named_one(simulate, w3):
    block = w3.eth.get_block("latest")
    (made,) = simulate([{}], hex(block["number"]))
    assert int(made["number"], 16) == block["number"] + 1 and made["parentHash"] == "0x" + bytes(block["hash"]).hex()
    assert made["calls"] == [] and made["gasUsed"] == "0x0" and made["gasLimit"] == hex(block["gasLimit"])


def test_state_and_block_overrides(simulate):
    here = stranger()
    block = {"time": hex(2**40), "gasLimit": hex(2**24), "feeRecipient": stranger(), "prevRandao": word(9), "baseFeePerGas": "0x7"}
    for code, field in (("42", "time"), ("45", "gasLimit"), ("41", "feeRecipient"), ("44", "prevRandao"), ("48", "baseFeePerGas")):
        state = {here: {"code": returns(code)}}
        (made,) = simulate([{"blockOverrides": block, "stateOverrides": state, "calls": [{"to": here}]}])
        assert int(made["calls"][0]["returnData"], 16) == int(block[field], 16), field
    assert (made["timestamp"], made["miner"], made["mixHash"]) == (block["time"], block["feeRecipient"], block["prevRandao"])
    assert (made["baseFeePerGas"], made["gasLimit"]) == ("0x7", block["gasLimit"])


def test_storage_lasts_until_later_blocks(simulate):
    here = stranger()
    writes, reads = {here: {"code": "0x43600055"}}, {here: {"code": returns("600054")}}
    first, second = simulate([{"stateOverrides": writes, "calls": [{"to": here}]}, {"stateOverrides": reads, "calls": [{"to": here}]}])
    assert int(second["calls"][0]["returnData"], 16) == int(first["number"], 16)


def test_gaps_are_filled_with_blocks(simulate, w3):
    tip = w3.eth.get_block("latest")
    number = tip["number"]
    blocks = simulate([{"blockOverrides": {"number": hex(number + 4)}}, {}], hex(number))
    assert [int(b["number"], 16) for b in blocks] == list(range(number + 1, number + 6))
    times = [int(b["timestamp"], 16) for b in blocks]
    assert times == sorted(set(times)) and times[0] > tip["timestamp"]
    assert all(later["parentHash"] == before["hash"] for before, later in zip(blocks, blocks[1:], strict=False))


def test_simulated_blocks_can_be_asked_for_their_hash(simulate):
    here = stranger()
    first, second = simulate([{}, {"stateOverrides": {here: {"code": returns("6001430340")}}, "calls": [{"to": here}]}])
    assert second["calls"][0]["returnData"] == first["hash"]


def test_simulated_blocks_are_in_the_history_contract(simulate, w3):
    tip = w3.eth.block_number
    first, second = simulate([{}, {"calls": [{"to": HISTORY, "data": word(tip + 1)}]}], hex(tip))
    assert second["calls"][0]["returnData"] == first["hash"]


def test_reverts_and_halts(simulate, contracts):
    here, there = stranger(), stranger()
    call = {"to": contracts.ModelRegistry.address, "data": contracts.ModelRegistry.encode_abi("get", [b"\x77" * 32])}
    state = {here: {"code": REVERTS}, there: {"code": "0xfe"}}
    (block,) = simulate([{"stateOverrides": state, "calls": [call, {"to": here}, {"to": there, "gas": "0xffff"}, {"to": stranger()}]}])
    typed, plain, halted, fine = block["calls"]
    # Both codes are in use: the specification has the first, newer geth the second.
    for reverted in (typed, plain):
        assert reverted["status"] == "0x0" and reverted["error"]["code"] in (-32000, 3)
        assert "execution reverted" in reverted["error"]["message"] and reverted["logs"] == []
    assert "77" * 32 in typed["returnData"] and typed["error"]["data"] == typed["returnData"]
    assert halted["status"] == "0x0" and halted["error"]["code"] == -32015 and halted["returnData"] == "0x"
    assert halted["gasUsed"] == "0xffff"
    assert fine["status"] == "0x1" and "error" not in fine


@pytest.fixture(scope="module")
def wrapped(w3, devnet):
    """A WrappedNative, and an account with 1000 of its tokens."""
    account, token = deployed(w3, devnet, "WrappedNative")
    assert send(w3, account, to=token.address, data=token.encode_abi("deposit", []), value=1000, gas=100_000)["status"] == 1
    return account, token


def test_traced_transfers_are_logs(simulate, wrapped):
    account, token = wrapped
    a, b = stranger(), stranger()
    calls = [{"from": a, "to": b, "value": "0x5"}, {"from": a, "to": token.address, "data": "0xd0e30db0", "value": "0x7"}]
    plain, traced = (simulate([{"stateOverrides": rich(a), "calls": calls}], traceTransfers=on)[0]["calls"] for on in (False, True))
    assert [len(c["logs"]) for c in plain] == [0, len(traced[1]["logs"]) - 1]
    (log,) = traced[0]["logs"]
    assert log["address"] == "0x" + "ee" * 20 and log["data"] == word(5)
    assert log["topics"] == [TRANSFER, word(int(a, 16)), word(int(b, 16))]
    assert traced[1]["logs"][0]["address"] == "0x" + "ee" * 20 and traced[1]["logs"][0]["data"] == word(7)
    everything = [log for call in traced for log in call["logs"]]
    assert [int(log["logIndex"], 16) for log in everything] == list(range(len(everything)))


def test_traced_transfers_are_in_order_with_the_logs(simulate, wrapped):
    """A withdrawal logs first and pays afterwards."""
    account, token = wrapped
    call = {"from": account.address, "to": token.address, "data": token.encode_abi("withdraw", [9])}
    (block,) = simulate([{"calls": [call]}], traceTransfers=True)
    assert block["calls"][0]["status"] == "0x1"
    assert [log["address"] == "0x" + "ee" * 20 for log in block["calls"][0]["logs"]] == [False, False, True]


def test_tracing_transfers_does_not_change_the_block(simulate, w3):
    a, tip = stranger(), hex(w3.eth.block_number)
    block = [{"stateOverrides": rich(a), "calls": [{"from": a, "to": stranger(), "value": "0x5"}]}]
    plain, traced = (simulate(block, tip, traceTransfers=on)[0] for on in (False, True))
    assert plain["logsBloom"] == traced["logsBloom"] and plain["hash"] == traced["hash"]


def test_full_transactions(simulate):
    a, b = stranger(), stranger()
    block = {"stateOverrides": rich(a), "calls": [{"from": a, "to": b, "value": "0x5"}, {"from": a, "to": b, "value": "0x6"}]}
    (plain,) = simulate([block])
    (full,) = simulate([block], returnFullTransactions=True)
    assert [tx["hash"] for tx in full["transactions"]] == plain["transactions"]
    for index, tx in enumerate(full["transactions"]):
        assert (tx["from"], tx["to"], tx["nonce"], tx["value"]) == (a, b, hex(index), hex(5 + index))
        assert (tx["blockHash"], tx["transactionIndex"]) == (full["hash"], hex(index))


def test_transactions_have_type_2_unless_they_say_otherwise(simulate):
    (block,) = simulate([{"calls": [{"to": stranger()}, {"to": stranger(), "gasPrice": "0x0"}]}], returnFullTransactions=True)
    assert [tx["type"] for tx in block["transactions"]] == ["0x2", "0x0"]


def test_validation(simulate, refused, account):
    """With validation a call is as good as a transaction; without it, it needs no fee and no nonce."""
    me = account.address
    call = {"from": me, "to": stranger(), "value": "0x1"}
    (fine,) = simulate([{"calls": [{**call, **FEE, "nonce": "0x0"}, {**call, **FEE, "nonce": "0x1"}]}], validation=True)
    assert [c["status"] for c in fine["calls"]] == ["0x1", "0x1"] and int(fine["baseFeePerGas"], 16) > 0
    assert simulate([{"calls": [{**call, "nonce": "0x9"}, call]}])[0]["calls"][0]["status"] == "0x1"
    for calls, word_ in [
        ([{**call, **FEE, "nonce": "0x1"}, {**call, **FEE, "nonce": "0x0"}], "nonce"),
        ([{**call, **FEE, "nonce": "0x0"}, {**call, **FEE, "nonce": "0x0"}], "nonce"),
        ([call], "fee"), ([{**call, **FEE, "value": hex(10**30)}], "insufficient funds"),
    ]:  # fmt: skip
        assert word_ in refused([{"calls": calls}], validation=True)["message"], calls
    assert "insufficient funds" in refused([{"calls": [{**call, "value": hex(10**30)}]}])["message"]


def test_limits(simulate, refused, w3):
    assert len(simulate([{}] * 256)) == 256
    tip = w3.eth.block_number
    for blocks in ([{}] * 257, [{"blockOverrides": {"number": hex(tip + 1000)}}], [{"calls": [{}] * 100_000}]):
        assert "too many" in refused(blocks)["message"]
    assert "empty" in refused([])["message"]
    loops = stranger()
    spent = {"to": loops, "gas": hex(35_000_000)}
    error = refused([{"stateOverrides": {loops: {"code": LOOPS}}, "calls": [spent, spent]}])
    assert "block gas limit reached" in error["message"]
    number, time = ({"blockOverrides": {name: hex(n)}} for name, n in (("number", 1), ("time", 1)))
    assert "block numbers must be in order" in refused([number])["message"]
    assert "block timestamps must be in order" in refused([time])["message"]


@pytest.mark.parametrize(
    ("code", "block", "validation"),
    [
        (-38010, {"calls": [{"nonce": "0x0"}]}, True), (-38011, {"calls": [{"nonce": "0x9"}]}, True),
        (-38012, {"calls": [{"maxFeePerGas": "0x0"}]}, True), (-38013, {"calls": [{"gas": "0x5000"}]}, False),
        (-38014, {"calls": [{"value": hex(10**30)}]}, False), (-38015, {"calls": [{"gas": hex(70_000_000)}]}, False),
        (-38020, {"blockOverrides": {"number": "0x1"}}, False), (-38021, {"blockOverrides": {"time": "0x1"}}, False),
        (-38025, {"calls": [{"to": None, "data": "0x" + "00" * 49_153}]}, False),
        (-38026, {"blockOverrides": {"number": hex(2**40)}}, False), (-32602, None, False),
    ],
    ids=["nonce too low", "nonce too high", "base fee", "intrinsic gas", "funds", "block gas", "number", "time", "init code",
         "blocks", "empty"],
)  # fmt: skip
def test_errors_have_the_codes_of_the_specification(w3, refused, account, code, block, validation):
    if code == -38010:
        send(w3, account, to=account.address)
    defaults = {"from": account.address, "to": account.address, **FEE}
    blocks = [{**block, "calls": [{**defaults, **call} for call in block.get("calls", [])]}] if block else []
    assert refused(blocks, validation=validation)["code"] == code


def test_wrong_parameters(rpc):
    for params in ([], [7], [{"blockStateCalls": 7}], [{"blockStateCalls": [{"calls": [{"to": "0x12"}]}]}], [{}, "sometime"]):
        code = rpc("eth_simulateV1", *params)["error"]["code"]
        assert code == -32602 or params == [{}], params
    assert rpc("eth_simulateV1", {"blockStateCalls": [{}]}, "0xfffffff")["error"]["code"] == -32000


def test_deploy_and_call_in_one_go(simulate, w3, account):
    code = artifact("WrappedNative")
    token = w3.eth.contract(abi=code["abi"])
    from_ = {"from": account.address}
    probe = simulate([{"calls": [{**from_, "data": code["bytecode"]}]}], returnFullTransactions=True)[0]
    nonce = int(probe["transactions"][0]["nonce"], 16)
    made = "0x" + keccak(encode([bytes.fromhex(account.address[2:]), nonce]))[12:].hex()
    data = [code["bytecode"], token.encode_abi("deposit", []), token.encode_abi("balanceOf", [account.address])]
    calls = [{**from_, "data": data[0]}, {**from_, "to": made, "data": data[1], "value": "0x9"}, {"to": made, "data": data[2]}]
    (block,) = simulate([{"calls": calls}])
    assert [c["status"] for c in block["calls"]] == ["0x1"] * 3
    assert int(block["calls"][2]["returnData"], 16) == 9
