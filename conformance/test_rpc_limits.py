"""Calls that would run for ever: bounded whatever they ask for, and ended when the client leaves."""

import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest

CONTRACT = "0x00000000000000000000000000000000000000aa"
ALL = hex(2**64 - 1)
CALL = {"to": CONTRACT, "gas": ALL}
BLOCK = {"gasLimit": ALL}
# JUMPDEST PUSH1 0 JUMP, and keccak-256 of 2 MiB again and again.
PROGRAMS = {"loop": "0x5b600056", "hashes": "0x5b622000005f2050600056"}


def requests(code):
    state = {CONTRACT: {"code": code}}
    blocks = [{"blockOverrides": BLOCK, "stateOverrides": state, "calls": [CALL, CALL]}]
    return {
        "eth_call": [CALL, "latest", state, BLOCK],
        "eth_estimateGas": [CALL, "latest", state, BLOCK],
        "eth_createAccessList": [CALL, "latest", state, BLOCK],
        "eth_simulateV1": [{"blockStateCalls": blocks}, "latest"],
        "debug_traceCall": [CALL, "latest", {"tracer": "callTracer", "stateOverrides": state, "blockOverrides": BLOCK}],
    }


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("method", requests("0x"))
def test_an_endless_program_ends(rpc, method, program):
    answer = rpc(method, *requests(PROGRAMS[program])[method])
    if "result" in answer and method == "eth_simulateV1":
        pytest.fail("the gas of all calls together has no bound")
    if "result" in answer:
        assert answer["result"].get("error") == "out of gas", answer
    else:
        assert any(words in answer["error"]["message"] for words in ("gas", "execution aborted")), answer


def test_calls_of_clients_that_left_do_not_run_on(rpc):
    """As many as would keep the server's few threads busy for minutes."""
    address = urlsplit(rpc.url)
    body = httpx.Request(
        "POST", rpc.url, json={"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": requests(PROGRAMS["hashes"])["eth_call"]}
    ).read()
    head = f"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    for _ in range(200):
        with socket.create_connection((address.hostname, address.port)) as stream:
            stream.sendall(head + body)
    began = time.monotonic()
    answer = rpc("eth_call", {"to": CONTRACT}, "latest")
    assert answer.get("result") == "0x", answer
    assert time.monotonic() - began < 30


def test_a_batch_pays_for_each_of_its_calls_and_stays_whole(rpc):
    call = {"jsonrpc": "2.0", "method": "eth_call", "params": [{"to": CONTRACT}, "latest"]}
    answers = rpc.client.post(rpc.url, json=[{**call, "id": i} for i in range(100)]).json()
    assert [a["id"] for a in answers] == list(range(100)) and all(a["result"] == "0x" for a in answers)
