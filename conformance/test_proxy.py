"""A proxy of one's own: JSON-RPC servers that lie, price ceilings, and what a model's name means."""

import contextlib
import http.server
import json
import subprocess
import threading
import time

import httpx
import pytest

from devnet import OG, free_port

HI = [{"role": "user", "content": "Hi"}]


class Messenger:
    """A JSON-RPC server that passes calls on, and changes answers when it is told to."""

    def __init__(self, target):
        self.calls, self.change, self.silent = 0, None, False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                outer.calls += 1
                call = json.loads(self.rfile.read(int(self.headers["content-length"])))
                while outer.silent:
                    time.sleep(0.1)
                answer = httpx.post(target, json=call, timeout=60).json()
                if outer.change and "result" in answer:
                    outer.change(call["method"], call["params"], answer["result"])
                body = json.dumps(answer).encode()
                # Whoever stopped listening is not told.
                with contextlib.suppress(OSError):
                    self.send_response(200)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def messenger(devnet):
    messenger = Messenger(devnet.rpc_url)
    yield messenger
    messenger.silent = False
    messenger.server.shutdown()


@contextlib.contextmanager
def proxy(folder, *more):
    """A running proxy; gives a client of it."""
    port = free_port()
    command = [OG, "proxy", "--data", folder, "--listen", f"127.0.0.1:{port}", *map(str, more)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline(), process.stderr.read().decode()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                yield client
        finally:
            process.terminate()


def refused(folder, *more):
    """What a proxy says that does not start."""
    command = [OG, "proxy", "--data", folder, "--listen", f"127.0.0.1:{free_port()}", *map(str, more)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0, done.stdout
    return done.stderr


def ask(client, model, **headers):
    body = {"model": model, "messages": HI, "max_tokens": 4}
    return client.post("/v1/chat/completions", json=body, headers={k.replace("_", "-"): str(v) for k, v in headers.items()})


def values(registry, change):
    """Changes values of the registry's slots that the server claims to prove."""

    def apply(method, params, result):
        if method == "eth_getProof" and int(params[0], 16) == int(registry, 16):
            for slot in result["storageProof"]:
                slot["value"] = hex(change(int(slot["value"], 16)))

    return apply


def test_a_lie_about_the_registry_is_noticed(devnet, messenger, tmp_path):
    registry = devnet.ready["contracts"]["NodeRegistry"]
    for i, change in enumerate([lambda v: v + 1, lambda v: max(v - 1, 0), lambda v: v ^ (1 << 130)]):
        messenger.change = values(registry, change)
        said = refused(tmp_path / str(i), "--rpc", messenger.url)
        assert "not believed" in said and "final state" in said, said
        # An honest server beside it is enough.
        with proxy(tmp_path / str(i), "--rpc", messenger.url, "--rpc", devnet.rpc_url) as client:
            assert ask(client, devnet.ready["model"]["name"]).status_code == 200


def test_another_network_is_an_error_for_good(devnet, messenger, tmp_path):
    with proxy(tmp_path / "p", "--rpc", devnet.rpc_url) as client:
        assert client.get("/og/v1/network").json()["genesis"] == devnet.ready["network"]

    def other(method, _, result):
        if method == "og_network":
            result["genesisHeader"] = result["genesisHeader"][:-2] + "99"

    messenger.change = other
    said = refused(tmp_path / "p", "--rpc", messenger.url)
    assert devnet.ready["network"] in said and "is meant" in said, said
    wrong = "0x" + "11" * 32
    said = refused(tmp_path / "p", "--rpc", devnet.rpc_url, "--network", wrong)
    assert devnet.ready["network"] in said and wrong in said, said


def test_requests_ask_no_server(devnet, messenger, tmp_path):
    model = devnet.ready["model"]["name"]
    with proxy(tmp_path / "p", "--rpc", messenger.url) as client:
        assert ask(client, model).status_code == 200
        # What runs in the background waits in one call from now on; a request would wait in another.
        messenger.silent = True
        time.sleep(2)
        before = messenger.calls
        for _ in range(10):
            answer = ask(client, model)
            assert answer.status_code == 200, answer.text
        assert client.get("/v1/models").json()["data"][0]["id"] == model
        assert messenger.calls == before
        messenger.silent = False


def test_ceilings(devnet, tmp_path):
    model = devnet.ready["model"]["name"]
    with proxy(tmp_path / "p", "--rpc", devnet.rpc_url, "--max-answer", 10**15) as client:
        assert ask(client, model, og_max_price=10**14).status_code == 200
        for _ in range(3):
            answer = ask(client, model, og_max_price=1000)
            assert answer.status_code == 402 and answer.json()["error"]["code"] == "price_ceiling"
            assert "the cheapest" in answer.json()["error"]["message"]
    with proxy(tmp_path / "p", "--rpc", devnet.rpc_url, "--max-answer", 1000) as client:
        answer = ask(client, model, og_max_price=10**14)
        assert answer.status_code == 402, "a request cannot raise the ceiling"
    with proxy(tmp_path / "p", "--rpc", devnet.rpc_url, "--max-token", 10) as client:
        assert "--max-token" in ask(client, model).json()["error"]["message"]


def test_names_and_ids(devnet, tmp_path):
    name, model_id = devnet.ready["model"]["name"], devnet.ready["model"]["id"]
    with proxy(tmp_path / "p", "--rpc", devnet.rpc_url) as client:
        for asked, headers in ((name, {}), (model_id, {}), (name, {"og_model_id": model_id})):
            answer = ask(client, asked, **headers)
            assert answer.status_code == 200 and answer.headers["og-model"] == model_id
        assert ask(client, name, og_model_id="0x" + "22" * 32).status_code == 404
    other = "0x" + "33" * 32
    with proxy(tmp_path / "p", "--rpc", devnet.rpc_url, "--model", f"{name}={other}") as client:
        answer = ask(client, name)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "model_ambiguous"
        assert other in answer.text and model_id in answer.text
    assert "NAME=ID" in refused(tmp_path / "p", "--rpc", devnet.rpc_url, "--model", name)
