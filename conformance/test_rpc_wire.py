"""JSON-RPC over HTTP: batches, bodies that are too large, too deep or malformed, other sites' pages (CORS), ids."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import ORIGIN

CHAIN_ID = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
JSON = {"content-type": "application/json"}


@pytest.fixture
def post(rpc):
    """`post(body)` sends bytes or JSON, and gives the response."""

    def send(body, **headers):
        data = body if isinstance(body, bytes | str) else json.dumps(body)
        return rpc.client.post(rpc.url, content=data, headers={**JSON, **headers})

    yield send
    assert rpc("eth_chainId")["result"], "it still answers"


def test_modules(rpc):
    modules = rpc("rpc_modules")["result"]
    assert {"eth", "net", "web3", "txpool", "debug", "rpc", "og"} <= set(modules) and set(modules.values()) == {"1.0"}


def test_batches_keep_order_and_ids(post, devnet):
    calls = [{**CHAIN_ID, "id": n, "method": method} for n, method in enumerate(["eth_chainId", "eth_none", "net_version"] * 10)]
    answers = post(calls).json()
    assert [a["id"] for a in answers] == list(range(30))
    assert answers[0]["result"] == hex(devnet.chain_id) and answers[2]["result"] == str(devnet.chain_id)
    assert answers[1]["error"]["code"] == -32601


def test_the_limit_of_a_batch(post):
    assert len(post([CHAIN_ID] * 100).json()) == 100
    error = post([CHAIN_ID] * 101).json()
    error = error[0]["error"] if isinstance(error, list) else error["error"]
    assert "too large" in error["message"] and error["code"] <= -32000


def test_batches_of_mistakes(post):
    assert post([]).json()["error"]["code"] == -32600
    assert [a["error"]["code"] for a in post([1, {}]).json()] == [-32600, -32600]
    mixed = post([CHAIN_ID, 7, {**CHAIN_ID, "id": 2, "params": {"no": 1}}]).json()
    assert sorted(a["error"]["code"] if "error" in a else 0 for a in mixed) == [-32602, -32600, 0]


@pytest.mark.parametrize("answer_id", [0, 7, 2**53, 2**64 - 1, "x", "", "0x1", None])
def test_ids_come_back(post, answer_id):
    answer = post({**CHAIN_ID, "id": answer_id}).json()
    assert answer["id"] == answer_id and answer["result"]


@pytest.mark.parametrize("answer_id", [-1, 1.5, 1e100])
@pytest.mark.xfail(strict=True, reason="the answer is null")
def test_unusual_ids_come_back(post, answer_id):
    answer = post({**CHAIN_ID, "id": answer_id}).json()
    assert answer["id"] == answer_id or answer["error"]["code"] == -32600


@pytest.mark.xfail(strict=True, reason="the body is `null`")
def test_a_notification_has_no_answer(post):
    assert post({"jsonrpc": "2.0", "method": "eth_chainId", "params": []}).content.strip() == b""


def test_parameters_can_be_left_out(post):
    for params in ({}, {"params": None}, {"params": []}):
        assert post({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", **params}).json()["result"]


@pytest.mark.parametrize("method", ["eth_call", "eth_getLogs", "eth_simulateV1", "og_finalHeader", "eth_sendRawTransaction"])
def test_deep_json(post, method):
    """No recursion without a bound: the depth must not reach the stack."""
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        for depth in (200, 100_000):
            inner = opening * depth + "1" + closing * depth
            for params in (f"[{inner}]", inner):
                response = post(f'{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}')
                assert response.json()["error"]["code"] in (-32602, -32700, -32600), (opening, depth)
    assert post("[" * 500_000).json()["error"]["code"] in (-32700, -32600)


def test_large_bodies(post):
    fits = {**CHAIN_ID, "params": ["x" * (1 << 20)]}
    assert post(fits).status_code == 200
    for body in (b" " * (3 << 20) + b"{}", json.dumps({**CHAIN_ID, "params": ["x" * (3 << 20)]}), b"x" * (20 << 20)):
        try:
            response = post(body)
        except Exception as error:  # The connection may be closed before all was sent.
            assert "rite" in repr(error) or "rotocol" in repr(error) or "ead" in repr(error), error
        else:
            assert response.status_code == 413


def test_other_methods_and_types(rpc):
    client, url = rpc.client, rpc.url
    assert client.get(url).status_code == 405 and client.put(url, json=CHAIN_ID).status_code == 405
    assert client.post(url, content=json.dumps(CHAIN_ID), headers={"content-type": "text/plain"}).status_code == 415
    charset = {"content-type": "application/json; charset=utf-8"}
    assert client.post(url, content=json.dumps(CHAIN_ID), headers=charset).json()["result"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700), (b"nonsense", -32700), (b"\xff\xfe", -32700), (b"", -32700), (b"[1,", -32700),
        (b'{"jsonrpc":"2.0","id":1}', -32600), (b'{"id":1,"method":"eth_chainId"}', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"eth_chainId"}', -32600), (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":7}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":{"a":1}}', -32602),
    ],
)  # fmt: skip
def test_malformed_bodies(post, body, code):
    response = post(body)
    assert response.status_code < 500
    assert response.json()["error"]["code"] in {code, -32600}


def test_pages_of_allowed_sites_may_ask(rpc):
    """A wallet in a browser asks first (preflight), and reads the answer only with the header."""
    ask = {"origin": ORIGIN, "access-control-request-method": "POST"}
    preflight = rpc.client.options(rpc.url, headers={**ask, "access-control-request-headers": "content-type"})
    assert preflight.status_code in (200, 204)
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "content-type" in preflight.headers["access-control-allow-headers"]
    answer = rpc.client.post(rpc.url, json=CHAIN_ID, headers={"origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN and answer.json()["result"]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_getBalance", ["0x" + "11" * 20, {"blockHash": "0x12"}]), ("eth_getBalance", ["0x" + "11" * 20, {}]),
        ("eth_getBalance", ["0x" + "11" * 20, 1]), ("eth_getBalance", ["0x" + "11" * 20, "0x" + "ff" * 9]),
        ("eth_getTransactionCount", ["0x" + "11" * 20, "soon"]), ("eth_getCode", []), ("eth_estimateGas", []),
        ("eth_getBlockByNumber", []), ("eth_getBlockByNumber", ["latest", "yes"]), ("eth_getBlockByHash", ["latest", False]),
        ("eth_getTransactionByBlockNumberAndIndex", ["latest"]), ("eth_getTransactionByHash", ["0x" + "11" * 33]),
        ("eth_getProof", ["0x" + "11" * 20, "0x0", "latest"]), ("eth_feeHistory", ["x", "latest", []]),
        ("eth_feeHistory", ["0x1", "latest", [-1]]), ("eth_feeHistory", ["0x1", "latest", [101]]),
        ("eth_getLogs", [{"fromBlock": "x"}]), ("eth_getLogs", [{"address": "0x12"}]), ("eth_getLogs", [{"topics": ["0x12"]}]),
        ("eth_getLogs", [{"blockHash": "0x" + "11" * 32, "fromBlock": "0x1"}]), ("eth_newFilter", [7]),
        ("eth_getFilterChanges", []), ("eth_getFilterChanges", ["x"]), ("eth_call", [{"to": "0x12"}, "latest"]),
        ("eth_call", [{"value": "-1"}, "latest"]), ("eth_call", [{"gas": "0x" + "ff" * 9}, "latest"]),
        ("og_validators", ["latest"]), ("og_finalHeader", []), ("og_finalHeader", ["x"]), ("og_handovers", ["x"]),
        ("debug_traceTransaction", ["x"]), ("web3_sha3", ["zz"]), ("eth_getRawTransactionByHash", []),
    ],
    ids=lambda v: str(v)[:50],
)  # fmt: skip
def test_wrong_parameters(rpc, method, params):
    error = rpc(method, *params)["error"]
    assert error["code"] == -32602 and error["message"], error


def test_blocks_that_do_not_exist(rpc):
    someone = "0x" + "11" * 20
    for block in ("0xfffffff", {"blockHash": "0x" + "11" * 32}, {"blockNumber": "0xfffffff"}):
        for method, params in (("eth_getBalance", [someone]), ("eth_call", [{"to": someone}]), ("eth_getProof", [someone, []])):
            error = rpc(method, *params, block)["error"]
            assert error["code"] == -32000 and "header not found" in error["message"], (method, block)


@pytest.mark.xfail(strict=True, reason="-32603 Internal error")
def test_subscriptions_need_a_websocket(rpc):
    """geth: notifications not supported."""
    assert rpc("eth_subscribe", "newHeads")["error"]["code"] == -32601


def test_uncles_are_nowhere(rpc):
    """Ethereum's clients still have these methods."""
    latest = rpc("eth_getBlockByNumber", "latest", False)["result"]
    assert rpc("eth_getUncleCountByBlockNumber", "latest")["result"] == "0x0"
    assert rpc("eth_getUncleCountByBlockHash", latest["hash"])["result"] == "0x0"
    assert rpc("eth_getUncleByBlockNumberAndIndex", "latest", "0x0")["result"] is None


def test_many_clients_at_once(post, rpc):
    body = [{**CHAIN_ID, "id": n, "method": "eth_getBlockByNumber", "params": ["latest", True]} for n in range(50)]
    with ThreadPoolExecutor(16) as pool:
        for response in pool.map(lambda _: post(body), range(64)):
            assert len(response.json()) == 50 and all("result" in a for a in response.json())
