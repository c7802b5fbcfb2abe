"""Pages of other sites: neither the proxy nor a node nor the JSON-RPC works for them, unless their origin is allowed."""

import httpx
import pytest

from conftest import ORIGIN

EVIL = "https://evil.example"
CALL = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}


@pytest.fixture(scope="module", params=["proxy", "node", "rpc"])
def server(request, devnet):
    """A URL, a path to read and what may be posted to it."""
    chat = {"model": devnet.ready["model"]["name"], "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    return {
        "proxy": (devnet.proxy_url, "/v1/chat/completions", chat),
        "node": (devnet.ready["node_urls"][0], "/v1/chat/completions", chat),
        "rpc": (devnet.rpc_url, "/", CALL),
    }[request.param]


def test_a_form_is_not_read(server):
    url, path, body = server
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = httpx.post(url + path, json=body, headers={"content-type": kind}, timeout=60)
        assert answer.status_code == 415, answer.text
    assert httpx.post(url + path, json=body, timeout=60).status_code == 200


def test_a_rebound_name_is_not_answered(server):
    url, path, body = server
    for host in ("rebind.evil.example", "127.0.0.1.evil.example:8600", "localhost.evil.example"):
        answer = httpx.post(url + path, json=body, headers={"host": host}, timeout=60)
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "host_not_allowed"
        assert httpx.get(url + "/og/v1/receipts", headers={"host": host}, timeout=60).status_code == 403
    answer = httpx.post(url + path, json=body, headers={"host": "localhost"}, timeout=60)
    assert answer.status_code == 200


def test_only_allowed_origins_are_answered(server):
    url, path, body = server
    for origin in (EVIL, "null", ORIGIN + ".evil.example"):
        answer = httpx.post(url + path, json=body, headers={"origin": origin}, timeout=60)
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "origin_not_allowed"
        ask = {"origin": origin, "access-control-request-method": "POST"}
        preflight = httpx.options(url + path, headers=ask, timeout=60)
        assert preflight.status_code == 403 and not [h for h in preflight.headers if h.startswith("access-control")]
    answer = httpx.post(url + path, json=body, headers={"origin": ORIGIN}, timeout=60)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == ORIGIN
    ask = {"origin": ORIGIN, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    preflight = httpx.options(url + path, headers=ask, timeout=60)
    assert preflight.status_code == 204 and preflight.headers["access-control-allow-origin"] == ORIGIN
