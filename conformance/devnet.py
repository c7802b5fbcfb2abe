"""Starts, stops and kills `og devnet`, and runs the other `og` commands. No test in here."""

import contextlib
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OG = os.environ.get("OG_BIN", str(ROOT / "target" / "debug" / "og"))
# A debug build on two slow cores needs a while to load the model and to finalise its first blocks.
START_SECONDS = float(os.environ.get("OG_START_SECONDS", "180"))


def og(*args, timeout=180):
    """Runs `og ARGS` to its end; returns the finished process with text output."""
    return subprocess.run([OG, *map(str, args)], capture_output=True, text=True, timeout=timeout, check=False)


def og_chat(devnet, prompt, *more):
    return og("chat", "--proxy", devnet.proxy_url, *more, prompt)


def og_receipt(devnet, receipt_id, seconds=120):
    """Proof file of a receipt as bytes. Asks again until the node's log is on the ledger."""
    deadline = time.monotonic() + seconds
    while True:
        got = subprocess.run(
            [OG, "receipt", "get", "--proxy", devnet.proxy_url, receipt_id], capture_output=True, timeout=180, check=False
        )
        if got.returncode == 0:
            return got.stdout
        # Status 2 is a mistake in the arguments: no use to ask again.
        if got.returncode == 2 or time.monotonic() > deadline:
            raise AssertionError(f"no proof for {seconds} s: {got.stderr.decode()}")
        time.sleep(1)


def og_verify(path, *more):
    return og("verify", *more, path)


def free_port(run=1):
    """The first of `run` neighbouring free ports, below the range from which the system gives ports to clients."""
    while True:
        first = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + run):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


class Devnet:
    """One `og devnet` process with its data in `folder`."""

    def __init__(self, folder, *more):
        self.more = more
        self.folder = Path(folder)
        self.data = self.folder / "data"
        self.ready_file = self.folder / "ready.json"
        self.log = self.folder / "devnet.log"
        # One JSON-RPC port a validator, from the first on.
        self.rpc_port, self.proxy_port = free_port(run=8), free_port()
        # 0 lets the system choose. Set it before the start to know the ports of the validators.
        self.p2p_port = 0
        self.process = None
        self.ready = None

    def command(self):
        return [
            OG, "devnet", "--data", str(self.data), "--rpc-port", str(self.rpc_port), "--proxy-port",
            str(self.proxy_port), "--node-port", "0", "--p2p-port", str(self.p2p_port), "--ready-file",
            str(self.ready_file), *self.more,
            *shlex.split(os.environ.get("OG_DEVNET_ARGS", "")),
        ]  # fmt: skip

    def start(self):
        """Starts the process and waits until it says that it is ready."""
        assert self.process is None or self.process.poll() is not None, "it is already running"
        self.ready_file.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            # Its own session, so that Ctrl-C at the test runner does not reach it, and a kill reaches its children.
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.ready_file.exists():
            if self.process.poll() is not None:
                raise AssertionError(f"og devnet ended with {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"og devnet not ready after {START_SECONDS} s:\n{self.tail()}")
            time.sleep(0.1)
        self.ready = json.loads(self.ready_file.read_text())
        return self

    def stop(self, seconds=10):
        """Ctrl-C. Returns the exit status; fails when the process is still there after `seconds`."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running {seconds} s after SIGINT:\n{self.tail()}") from None

    def kill(self):
        """kill -9 of the process and its children: nothing gets a chance to tidy up."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tail(self, count=40):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    @property
    def rpc_url(self):
        return self.ready["rpc_url"]

    @property
    def proxy_url(self):
        return self.ready["proxy_url"].rstrip("/")

    @property
    def chain_id(self):
        return self.ready["chain_id"]

    @property
    def genesis(self):
        """Hash of the genesis block."""
        return self.ready["network"]
