"""A stream of transfers to random addresses that survives the death of the validators that got them."""

import random
import threading
import time

import signer
from validators import CHAIN_ID, RpcError

SENDERS = 8
COINS = 1_000_000
# A transfer that is not in a block by then may have died with a validator, so it is sent to all again.
AGAIN_SECONDS = 4
# Transfers of one sender that wait; validators take a bounded number for each account.
WAITING_MAX = 32
FEE_MAX, TIP = 10**12, 10**9


class Load(threading.Thread):
    """Sends `rate` transfers a second, each to one validator at random. `included` returns the hashes of those in a block."""

    def __init__(self, validators, rate, seed, ended, included):
        super().__init__(daemon=True)
        self.validators, self.rate, self.ended, self.included = validators, rate, ended, included
        self.chance = random.Random(seed + 1)
        self.keys = [self.chance.randrange(1, signer.N) for _ in range(SENDERS)]
        self.nonces = [0] * SENDERS
        # For each sender, by hash: (raw, when it was sent last).
        self.waiting = [{} for _ in range(SENDERS)]
        self.stopping = threading.Event()
        self.sent = 0
        # Answers that refuse a transfer, by their words; for the one who reads a failed run.
        self.refused = {}

    def funds(self):
        return [("0x" + signer.address(key).hex(), COINS) for key in self.keys]

    def open(self):
        return sum(map(len, self.waiting))

    def finish(self, seconds=60):
        """No new transfers; waits until all are included, at most so long."""
        self.stopping.set()
        deadline = time.monotonic() + seconds
        while self.open() and time.monotonic() < deadline:
            time.sleep(0.2)

    def send(self, raws, rpc):
        try:
            for raw in raws:
                try:
                    rpc.call("eth_sendRawTransaction", raw)
                except RpcError as e:
                    # "already known" and "nonce too low" are expected of a second time.
                    words = str(e)[:100]
                    self.refused[words] = self.refused.get(words, 0) + 1
        except OSError:
            # It is dead at the moment.
            pass

    def run(self):
        rpcs = [v.rpc(timeout=5) for v in self.validators]
        due = looked = time.monotonic()
        while not self.ended.wait(max(0.0, due - time.monotonic())):
            now = time.monotonic()
            # Not faster later for what was late.
            due = max(due + 1 / self.rate, now - 1)
            sender = self.chance.randrange(SENDERS)
            if not self.stopping.is_set() and len(self.waiting[sender]) < WAITING_MAX:
                to = self.chance.randbytes(20)
                value = self.chance.randrange(1, 10**15)
                tx, raw = signer.transfer(self.keys[sender], CHAIN_ID, self.nonces[sender], to, value, FEE_MAX, TIP)
                self.nonces[sender] += 1
                self.waiting[sender][tx] = (raw, now)
                self.sent += 1
                self.send([raw], self.chance.choice(rpcs))
            if now - looked > 0.5:
                looked = now
                self.look(now, rpcs)
        for rpc in rpcs:
            rpc.close()

    def look(self, now, rpcs):
        """Forgets what is included, and sends again what waits for long."""
        included = self.included()
        for waiting in self.waiting:
            for tx in [tx for tx in waiting if tx in included]:
                del waiting[tx]
            old = [tx for tx, (_, when) in waiting.items() if now - when > AGAIN_SECONDS]
            for tx in old:
                waiting[tx] = (waiting[tx][0], now)
            for rpc in rpcs if old else []:
                self.send([waiting[tx][0] for tx in old], rpc)
