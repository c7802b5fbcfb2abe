"""Validators as processes of their own: keys, the network file, start, kill, JSON-RPC, and what all of them must agree on."""

import contextlib
import http.client
import json
import os
import signal
import statistics
import subprocess
import threading
import time
from pathlib import Path

OG = os.environ.get("OG_BIN", str(Path(__file__).resolve().parents[2] / "target" / "debug" / "og"))
CHAIN_ID = 10744
# A debug build on two busy cores needs a while for its first blocks.
START_SECONDS = float(os.environ.get("OG_START_SECONDS", "180"))
# Most calls that one JSON-RPC batch may have is 100.
BATCH = 100


class Failed(Exception):
    """Something that must hold does not."""


def check(condition, message):
    if not condition:
        raise Failed(message)


def say(text):
    print(time.strftime("%H:%M:%S"), text, flush=True)


class RpcError(Exception):
    """An answer of the server that is an error."""


class Rpc:
    """One JSON-RPC connection that is kept. Not for several threads at once."""

    def __init__(self, host, port, timeout=10):
        self.address = (host, port)
        self.timeout = timeout
        self.connection = None

    def post(self, body):
        """The parsed answer. OSError when nobody answers."""
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(*self.address, timeout=self.timeout)
            self.connection.request("POST", "/", json.dumps(body), {"content-type": "application/json"})
            return json.loads(self.connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as e:
            self.close()
            raise OSError(f"{self.address[0]}:{self.address[1]}: {e!r}") from e

    def call(self, method, *params):
        answer = self.post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        if "error" in answer:
            raise RpcError(f"{method}: {answer['error']}")
        return answer["result"]

    def batch(self, calls):
        """Results of many calls [(method, [parameter…])…], in their order."""
        results = []
        for start in range(0, len(calls), BATCH):
            part = calls[start : start + BATCH]
            answer = self.post([{"jsonrpc": "2.0", "id": i, "method": m, "params": p} for i, (m, p) in enumerate(part)])
            for item in sorted(answer, key=lambda a: a["id"]):
                if "error" in item:
                    raise RpcError(f"{part[item['id']]}: {item['error']}")
                results.append(item["result"])
        return results

    def head(self):
        return int(self.call("eth_blockNumber"), 16)

    def headers(self, first, last):
        """{number: (hash, state root)} of the blocks from `first` to `last`; None for a block that is not there."""
        numbers = range(first, last + 1)
        blocks = self.batch([("eth_getHeaderByNumber", [hex(n)]) for n in numbers])
        return {n: b and (b["hash"], b["stateRoot"]) for n, b in zip(numbers, blocks, strict=True)}

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class Validator:
    """One `og validator run`, perhaps in a network namespace."""

    def __init__(self, folder, number, p2p, rpc, inside=(), more=()):
        self.number, self.p2p, self.rpc_address = number, p2p, rpc
        self.folder = Path(folder)
        self.log = self.folder / f"v{number}.log"
        # What stands before the command, to run it on another host.
        self.inside = [*inside]
        self.more = [*more]
        self.process = None
        self.started_at = 0.0

    def init(self):
        """Makes the keys; returns the file for `og validator genesis`."""
        member = self.folder / f"f{self.number}.json"
        member.write_text(og("validator", "init", "--data", self.data(), "--announce", at(self.p2p), "--chain-id", CHAIN_ID))
        return member

    def data(self):
        return self.folder / f"v{self.number}"

    def start(self):
        command = [
            *self.inside, OG, "validator", "run", "--data", self.data(), "--network", self.folder / "network.json",
            "--listen", at(self.p2p), "--announce", at(self.p2p), "--rpc-listen", at(self.rpc_address), *self.more,
        ]  # fmt: skip
        self.started_at = time.monotonic()
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches only this script, which then stops everybody.
            self.process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self):
        """kill -9."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def rpc(self, timeout=10):
        return Rpc(*self.rpc_address, timeout=timeout)

    def wait_ready(self, seconds=START_SECONDS):
        """Waits for the first answer; returns (seconds since the start, head in that answer)."""
        rpc = self.rpc(timeout=5)
        deadline = time.monotonic() + seconds
        while True:
            try:
                head = rpc.head()
                rpc.close()
                return time.monotonic() - self.started_at, head
            except OSError as e:
                check(self.alive(), f"validator {self.number} ended by itself\n{self.log_end()}")
                if time.monotonic() > deadline:
                    raise Failed(f"validator {self.number}: no JSON-RPC in {seconds:.0f} s: {e}\n{self.log_end()}") from e
                time.sleep(0.02)

    def rss_mib(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def log_end(self, lines=25):
        end = self.log.read_text(errors="replace").splitlines()[-lines:] if self.log.exists() else []
        return "\n".join([f"end of {self.log}:", *end])

    def log_problems(self):
        """Lines that must not be in a log."""
        return [line for line in self.log.read_text(errors="replace").splitlines() if "panicked" in line]


@contextlib.contextmanager
def undisturbed():
    """A second Ctrl-C must not end the clean-up half-way."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def at(address):
    return f"{address[0]}:{address[1]}"


def og(*args):
    done = subprocess.run([OG, *map(str, args)], capture_output=True, text=True, timeout=120, check=False)
    check(done.returncode == 0, f"og {' '.join(map(str, args))}: {done.stderr}")
    return done.stdout


def make_network(validators, folder, block_time, epoch_blocks, fund=()):
    """Keys for all and the network file; `fund` has pairs of address and coins."""
    members = [part for v in validators for part in ("--member", v.init())]
    funds = [part for address, coins in fund for part in ("--fund", f"{address}={coins}")]
    og(
        "validator", "genesis", *members, *funds, "--chain-id", CHAIN_ID, "--block-time", block_time,
        "--epoch-blocks", epoch_blocks, "--out", Path(folder) / "network.json",
    )  # fmt: skip


def heads(validators):
    """Heads now, by number; None for a validator that does not answer."""
    found = {}
    for v in validators:
        rpc = v.rpc(timeout=5)
        try:
            found[v.number] = rpc.head()
        except OSError:
            found[v.number] = None
        rpc.close()
    return found


def wait_heads(validators, target, seconds, what):
    """Waits until each head is at least `target`; returns the seconds it took."""
    start = time.monotonic()
    while True:
        now = heads(validators)
        if all(h is not None and h >= target for h in now.values()):
            return time.monotonic() - start
        for v in validators:
            check(v.alive(), f"{what}: validator {v.number} ended by itself\n{v.log_end()}")
        if time.monotonic() - start > seconds:
            slow = min(validators, key=lambda v: now[v.number] or -1)
            raise Failed(f"{what}: not all at block {target} after {seconds:.0f} s, heads are {now}\n{slow.log_end()}")
        time.sleep(0.1)


def agree(validators, first=1):
    """Checks that all have the same hash and state root in every block that all have; returns the last of these blocks."""
    last = min(v.rpc().head() for v in validators)
    seen = {v.number: v.rpc(timeout=60).headers(first, last) for v in validators}
    one = validators[0].number
    for number, headers in seen.items():
        for block, header in headers.items():
            check(header is not None, f"validator {number} has no block {block}, though its head is {last} or above")
            other = seen[one][block]
            check(header == other, f"block {block}: validator {number} has {header}, validator {one} has {other}")
    return last


class Sampler:
    """Asks every validator for its head many times a second, to know how blocks come."""

    def __init__(self, validators, every=0.1):
        self.every = every
        self.samples = {v.number: [] for v in validators}
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(v,), daemon=True) for v in validators]

    def run(self, validator):
        rpc = validator.rpc(timeout=5)
        while not self.ended.wait(self.every):
            with contextlib.suppress(OSError):
                head = rpc.head()
                self.samples[validator.number].append((time.monotonic(), head))
        rpc.close()

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def result(self):
        """Blocks a second, median and longest time between blocks in seconds, and how far heads differed at most."""
        rates, gaps = [], []
        for samples in self.samples.values():
            check(len(samples) > 1, "a validator's JSON-RPC did not answer while it was measured")
            (first_time, first), (last_time, last) = samples[0], samples[-1]
            rates.append((last - first) / (last_time - first_time))
            risen, before = first_time, first
            for when, head in samples:
                if head > before:
                    # Blocks that came between two samples share the time.
                    gaps.extend([(when - risen) / (head - before)] * (head - before))
                    risen, before = when, head
            gaps.append(last_time - risen)
        events = sorted((when, number, head) for number, s in self.samples.items() for when, head in s)
        current, spread = {}, 0
        for _, number, head in events:
            current[number] = head
            if len(current) == len(self.samples):
                spread = max(spread, max(current.values()) - min(current.values()))
        return {"rate": min(rates), "median": statistics.median(gaps), "longest": max(gaps), "spread": spread}


def table(rows):
    """Prints rows of text, the first being the names of the columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for i, row in enumerate(rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if i == 0:
            print("  ".join("-" * width for width in widths))
    print(flush=True)
