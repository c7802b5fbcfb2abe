"""debug_ methods: geth's tracers, and the raw bytes of blocks."""

import pytest
import rlp
from eth_account import Account
from eth_utils import keccak
from trie import HexaryTrie

from conftest import artifact, deployed, fund, send, submit
from evm import REVERTS, returns, word
from ledger_check import header_bytes

UNKNOWN = "0x" + "77" * 32


def hexed(value):
    return "0x" + bytes(value).hex()


@pytest.fixture(scope="module")
def trace(rpc):
    """`trace(receipt, tracer)` gives the trace of a transaction."""

    def run(receipt, tracer=None, **config):
        options = {"tracer": tracer, "tracerConfig": config} if tracer else config
        answer = rpc("debug_traceTransaction", hexed(receipt["transactionHash"]), options)
        assert "result" in answer, answer
        return answer["result"]

    return run


class World:
    """A token, its holder, and transactions of each kind."""

    def __init__(self, w3, devnet):
        self.holder, self.token = deployed(w3, devnet, "WrappedNative")
        self.to = Account.create().address.lower()
        self.me, self.it = self.holder.address.lower(), self.token.address.lower()
        self.data = {
            name: self.token.encode_abi(function, arguments)
            for name, function, arguments in [
                ("deposit", "deposit", []), ("transfer", "transfer", [Account.from_key(b"\1" * 32).address, 400]),
                ("withdraw", "withdraw", [100]), ("refused", "transfer", [self.holder.address, 10**30]),
            ]
        }  # fmt: skip
        self.refresh(w3)

    def refresh(self, w3):
        """States of old blocks are not kept, so each test has new transactions."""
        call = lambda name, **more: send(w3, self.holder, to=self.token.address, data=self.data[name], gas=100_000, **more)  # noqa: E731
        self.deposit, self.transfer = call("deposit", value=1000), call("transfer")
        self.withdraw, self.refused = call("withdraw"), call("refused")
        self.plain = send(w3, self.holder, to=Account.create().address, value=3)


@pytest.fixture(scope="module")
def made(w3, devnet):
    return World(w3, devnet)


@pytest.fixture
def world(w3, made):
    if w3.eth.block_number - made.plain["blockNumber"] > 60:
        made.refresh(w3)
    return made


def test_call_tracer(world, trace):
    top = trace(world.transfer, "callTracer")
    assert (top["type"], top["from"], top["to"], top["value"]) == ("CALL", world.me, world.it, "0x0")
    assert (top["gas"], top["gasUsed"]) == (hex(100_000), hex(world.transfer["gasUsed"]))
    assert (top["input"], top["output"]) == (world.data["transfer"], word(1)) and not top.get("calls") and "error" not in top
    withdraw = trace(world.withdraw, "callTracer", withLog=True)
    (inner,) = withdraw["calls"]
    assert (inner["type"], inner["from"], inner["to"], inner["value"]) == ("CALL", world.it, world.me, hex(100))
    assert [log["address"] for log in withdraw["logs"]] == [world.it] * 2
    assert [log["topics"] for log in withdraw["logs"]] == [[hexed(t) for t in log["topics"]] for log in world.withdraw["logs"]]
    assert "calls" not in trace(world.withdraw, "callTracer", onlyTopCall=True)
    refused = trace(world.refused, "callTracer")
    assert refused["error"] == "execution reverted" and refused["output"].startswith("0xe450d38c")
    plain = trace(world.plain, "callTracer")
    assert plain["gasUsed"] == hex(21_000) and plain["value"] == "0x3" and plain["input"] == "0x"


def test_call_tracer_of_a_creation(w3, devnet, trace):
    account = fund(w3, devnet)
    receipt = send(w3, account, data=artifact("WrappedNative")["bytecode"], gas=3_000_000)
    top = trace(receipt, "callTracer")
    assert top["type"] == "CREATE" and top["to"] == receipt["contractAddress"].lower()
    assert top["output"] == hexed(w3.eth.get_code(receipt["contractAddress"]))


def test_prestate_tracer(w3, world, trace):
    before = trace(world.transfer, "prestateTracer")
    number = world.transfer["blockNumber"] - 1
    assert {world.me, world.it} <= set(before)
    for address in (world.me, world.it):
        account = before[address]
        checked = w3.to_checksum_address(address)
        assert int(account["balance"], 16) == w3.eth.get_balance(checked, number)
        assert account.get("nonce", 0) == w3.eth.get_transaction_count(checked, number)
    assert before[world.it]["code"] == hexed(w3.eth.get_code(world.token.address))
    for slot, value in before[world.it]["storage"].items():
        assert int(value, 16) == int.from_bytes(w3.eth.get_storage_at(world.token.address, int(slot, 16), number))
    lean = trace(world.transfer, "prestateTracer", disableCode=True, disableStorage=True)
    assert set(lean) == set(before) and not {"code", "storage"} & set(lean[world.it])


def test_prestate_tracer_in_diff_mode(w3, world, trace):
    diff = trace(world.transfer, "prestateTracer", diffMode=True)
    pre, post = diff["pre"], diff["post"]
    assert set(post) <= set(pre) and {world.me, world.it} <= set(post)
    assert post[world.me]["nonce"] == pre[world.me]["nonce"] + 1
    assert set(post[world.it]) == {"storage"}, "only what changed"
    number = world.transfer["blockNumber"]
    for slot, value in post[world.it]["storage"].items():
        assert int(value, 16) == int.from_bytes(w3.eth.get_storage_at(world.token.address, int(slot, 16), number))
        assert pre[world.it]["storage"].get(slot, word(0)) != value
    paid = world.transfer["gasUsed"] * world.transfer["effectiveGasPrice"]
    assert int(pre[world.me]["balance"], 16) - int(post[world.me]["balance"], 16) == paid


def test_struct_logs_are_the_default(world, trace):
    done = trace(world.transfer)
    assert (done["failed"], done["gas"]) == (False, world.transfer["gasUsed"])
    assert int(done["returnValue"], 16) == 1
    steps = done["structLogs"]
    assert [(s["pc"], s["op"], s["depth"]) for s in steps[:2]] == [(0, "PUSH1", 1), (2, "PUSH1", 1)]
    assert steps[-1]["op"] == "RETURN" and steps[0]["stack"] == [] and steps[1]["stack"] == ["0x80"]
    assert all(now["gas"] - now["gasCost"] == then["gas"] for now, then in zip(steps, steps[1:], strict=False))
    assert any(s["op"] == "SSTORE" and s["storage"] for s in steps) and "memory" not in steps[5]
    rich = trace(world.transfer, enableMemory=True, disableStack=True, disableStorage=True)["structLogs"]
    assert rich[-1]["memory"] and not any("stack" in s or "storage" in s for s in rich)
    assert len(trace(world.transfer, limit=3)["structLogs"]) == 3
    refused = trace(world.refused)
    assert refused["failed"] and "e450d38c" in refused["returnValue"]
    plain = trace(world.plain)
    assert (plain["gas"], plain["structLogs"], plain["failed"]) == (21_000, [], False)


def test_small_tracers(world, trace):
    assert trace(world.transfer, "4byteTracer") == {"0xa9059cbb-64": 1}
    assert trace(world.transfer, "noopTracer") == {}
    (flat,) = trace(world.transfer, "flatCallTracer")
    assert flat["type"] == "call" and flat["action"]["from"] == world.me and flat["traceAddress"] == []
    mux = trace(world.transfer, "muxTracer", callTracer={}, **{"4byteTracer": None})
    assert mux["callTracer"]["to"] == world.it and mux["4byteTracer"] == {"0xa9059cbb-64": 1}


def test_tracing_mistakes(rpc, world):
    known = hexed(world.transfer["transactionHash"])
    for tracer in ("nope", "{data: [], fault: function() {}}", "callTracer2"):
        error = rpc("debug_traceTransaction", known, {"tracer": tracer})["error"]
        assert error["code"] in (-32000, -32602) and error["message"], tracer
    assert rpc("debug_traceTransaction", UNKNOWN)["error"] == {"code": -32000, "message": "transaction not found"}
    for params in ([], ["0x12"], [known, "callTracer"], [known, {"tracer": 5}], [7]):
        assert rpc("debug_traceTransaction", *params)["error"]["code"] == -32602, params
    assert rpc("debug_traceBlockByNumber", "0x0")["error"]["message"] == "genesis is not traceable"
    assert rpc("debug_traceBlockByNumber", "0xfffffff")["error"]["code"] == -32000
    assert rpc("debug_traceBlockByHash", UNKNOWN)["error"]["code"] == -32000
    assert rpc("debug_traceCall", {"to": world.it}, "0xfffffff")["error"]["code"] == -32000


@pytest.mark.xfail(strict=True, reason="the option is ignored")
def test_a_wrong_timeout_is_a_mistake(rpc, world):
    assert "error" in rpc("debug_traceTransaction", hexed(world.transfer["transactionHash"]), {"timeout": "soon"})


def test_trace_of_a_call(rpc, world):
    call = {"from": world.me, "to": world.it, "data": world.data["transfer"]}
    top = rpc("debug_traceCall", call, "latest", {"tracer": "callTracer"})["result"]
    assert (top["from"], top["to"], top["output"]) == (world.me, world.it, word(1))
    assert rpc("debug_traceCall", call, "latest")["result"]["structLogs"]
    changed = rpc("debug_traceCall", call, "latest", {"tracer": "prestateTracer", "tracerConfig": {"diffMode": True}})["result"]
    assert changed["post"][world.it]["storage"]
    refused = rpc("debug_traceCall", {**call, "data": world.data["refused"]}, "latest", {"tracer": "callTracer"})["result"]
    assert refused["error"] == "execution reverted"
    here = "0x" + "c0" * 20
    options = {"tracer": "callTracer", "stateOverrides": {here: {"code": returns("43")}}, "blockOverrides": {"number": "0x77"}}
    assert rpc("debug_traceCall", {"to": here}, "latest", options)["result"]["output"] == word(0x77)
    options["stateOverrides"] = {here: {"code": REVERTS}}
    assert rpc("debug_traceCall", {"to": here}, "latest", options)["result"]["error"] == "execution reverted"


def test_traces_of_a_block(w3, devnet, rpc):
    """All transactions in their order; each on the state that those before it left."""
    account, receiver = fund(w3, devnet), Account.create().address
    to = receiver.lower()
    for _ in range(5):
        first = w3.eth.get_transaction_count(account.address)
        hashes = [submit(w3, account, to=receiver, value=n + 1, nonce=first + n) for n in range(4)]
        receipts = [w3.eth.wait_for_transaction_receipt(h, 60, 0.1) for h in hashes]
        number, block_hash = receipts[-1]["blockNumber"], hexed(receipts[-1]["blockHash"])
        traces = rpc("debug_traceBlockByNumber", hex(number), {"tracer": "prestateTracer"})["result"]
        mine = [t["result"] for t in traces if account.address.lower() in t["result"]]
        assert [t["txHash"] for t in traces] == [hexed(h) for h in w3.eth.get_block(number)["transactions"]]
        assert rpc("debug_traceBlockByHash", block_hash, {"tracer": "prestateTracer"})["result"] == traces
        nonces = [t[account.address.lower()].get("nonce", 0) for t in mine]
        assert nonces == sorted(set(nonces))
        if len(mine) > 1:
            # The receiver may be left out before it exists.
            paid = [int(t.get(to, {}).get("balance", "0x0"), 16) for t in mine]
            assert paid == sorted(set(paid))
            return
    pytest.fail("five times, no two of four transactions came into one block")


def test_traces_of_the_newest_block_and_of_an_empty_one(w3, rpc):
    empty = next(n for n in range(w3.eth.block_number, 0, -1) if not w3.eth.get_block(n)["transactions"])
    assert rpc("debug_traceBlockByNumber", hex(empty), {"tracer": "callTracer"})["result"] == []
    assert isinstance(rpc("debug_traceBlockByNumber", "latest")["result"], list)


def items_root(items):
    """Root of the trie that a block keeps a list in."""
    trie = HexaryTrie({})
    for index, item in enumerate(items):
        trie[rlp.encode(index)] = item
    return trie.root_hash


def test_raw_bytes_of_a_block(w3, rpc, world):
    number, block_hash = world.withdraw["blockNumber"], hexed(world.withdraw["blockHash"])
    block = w3.eth.get_block(number)
    raw = {m: rpc(f"debug_getRaw{m}", hex(number))["result"] for m in ("Block", "Header", "Receipts")}
    for method, value in raw.items():
        assert rpc(f"debug_getRaw{method}", block_hash)["result"] == value
        assert rpc(f"debug_getRaw{method}", "0xfffffff")["error"]["code"] == -32000
        assert rpc(f"debug_getRaw{method}", "latest")["result"] is not None
        assert rpc(f"debug_getRaw{method}", "nonsense")["error"]["code"] == -32602
    header = bytes.fromhex(raw["Header"][2:])
    assert header == header_bytes(block) and keccak(header) == block["hash"]
    fields, transactions, uncles, withdrawals = rlp.decode(bytes.fromhex(raw["Block"][2:]))
    assert rlp.encode(fields) == header and uncles == [] and withdrawals == []
    assert len(transactions) == len(block["transactions"])
    assert items_root(transactions) == block["transactionsRoot"]
    assert items_root([bytes.fromhex(r[2:]) for r in raw["Receipts"]]) == block["receiptsRoot"]
    position = block["transactions"].index(world.withdraw["transactionHash"])
    mine = rpc("debug_getRawTransaction", hexed(world.withdraw["transactionHash"]))["result"]
    assert bytes.fromhex(mine[2:]) == transactions[position]
    assert rpc("debug_getRawTransaction", UNKNOWN)["result"] == "0x"


def test_raw_bytes_of_a_waiting_transaction(w3, rpc, account):
    waiting = submit(w3, account, to=account.address, nonce=7)
    assert rpc("debug_getRawTransaction", hexed(waiting))["result"] == rpc("eth_getRawTransactionByHash", hexed(waiting))["result"]
