"""Hosts made of Linux network namespaces, on a network whose lines can be slow, lossy and cut.

Each host has two interfaces. `lan` (198.18.0.0/24, addresses for tests) is the network between hosts and the one that gets
worse. `mgmt` leads to this machine alone and is never touched, so that what is measured does not change what is measured.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

PREFIX = "oghost"


class Unable(Exception):
    """This machine cannot make such hosts."""


def run(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unable(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def able():
    """Raises `Unable` with a sentence when this machine cannot do it."""
    if os.geteuid() != 0:
        raise Unable("network namespaces need root")
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise Unable(f"{tool} is missing (Debian: apt-get install iproute2)")
    sweep()


def sweep():
    """Removes the hosts of runs that were killed."""
    for line in run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        parts = name.split("-")
        if parts[0] == PREFIX and len(parts) == 3 and not Path(f"/proc/{parts[1]}").exists():
            remove_host(name)


def remove_host(name):
    with contextlib.suppress(Unable, ProcessLookupError):
        for pid in run("ip", "netns", "pids", name).split():
            os.kill(int(pid), signal.SIGKILL)
    # Its interfaces go with it.
    with contextlib.suppress(Unable):
        run("ip", "netns", "del", name)


class Lan:
    """`count` hosts. `shape`, `split` and `heal` change the lines; `close` removes everything."""

    def __init__(self, count):
        self.count = count
        self.tag = os.getpid()
        self.lines = [(0.0, 0.0, 0.0)] * count
        self.groups = [0] * count
        self.links = None
        try:
            for host in range(count):
                self.make_host(host)
            self.links = Netem(self) if Netem.works(self.device("t", 0)) else Switch(self)
            self.links.apply()
        except BaseException:
            self.close()
            raise

    def name(self, host):
        return f"{PREFIX}-{self.tag}-{host}"

    def device(self, kind, number):
        # The kernel's names have 15 characters at most; process numbers have 7.
        return f"og{self.tag}{kind}{number}"

    def inside(self, host):
        """What stands before a command to run it on this host."""
        return ["ip", "netns", "exec", self.name(host)]

    def lan_ip(self, host):
        return f"198.18.0.{host + 1}"

    def mgmt_ip(self, host):
        return f"198.19.{host}.2"

    def make_host(self, host):
        name, here, there = self.name(host), self.device("m", host), self.device("n", host)
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        run("ip", "-n", name, "link", "set", there, "name", "mgmt")
        run("ip", "-n", name, "addr", "add", f"{self.mgmt_ip(host)}/30", "dev", "mgmt")
        run("ip", "-n", name, "link", "set", "mgmt", "up")
        run("ip", "addr", "add", f"198.19.{host}.1/30", "dev", here)
        run("ip", "link", "set", here, "up")

    def shape(self, host, delay=0.0, jitter=0.0, loss=0.0):
        """What this host sends takes `delay` ± `jitter` milliseconds, and a fraction `loss` of it is lost."""
        self.lines[host] = (delay, jitter, loss)

    def shape_all(self, delay=0.0, jitter=0.0, loss=0.0):
        for host in range(self.count):
            self.shape(host, delay, jitter, loss)
        self.links.apply()

    def split(self, *groups):
        """Cuts the lines between these groups of hosts; hosts in none of them stay with the first."""
        self.groups = [0] * self.count
        for number, group in enumerate(groups):
            for host in group:
                self.groups[host] = number
        self.links.apply()

    def heal(self):
        self.split()

    def close(self):
        for host in range(self.count):
            remove_host(self.name(host))
        if self.links is not None:
            self.links.close()


class Netem:
    """The lines are veth pairs with `tc netem`, into one bridge for each group."""

    kind = "tc netem"

    def __init__(self, lan):
        self.lan = lan
        self.bridges = []
        for host in range(lan.count):
            name, port = lan.name(host), lan.device("p", host)
            run("ip", "link", "add", port, "type", "veth", "peer", "name", "lan", "netns", name)
            run("ip", "-n", name, "addr", "add", f"{lan.lan_ip(host)}/24", "dev", "lan")
            run("ip", "-n", name, "link", "set", "lan", "up")
            run("ip", "link", "set", port, "up")

    @staticmethod
    def works(device):
        try:
            run("ip", "link", "add", device, "type", "veth", "peer", "name", f"{device}x")
            try:
                run("tc", "qdisc", "add", "dev", device, "root", "netem", "delay", "1ms")
                return True
            finally:
                run("ip", "link", "del", device)
        except Unable:
            return False

    def apply(self):
        lan = self.lan
        while len(self.bridges) <= max(lan.groups):
            bridge = lan.device("b", len(self.bridges))
            run("ip", "link", "add", bridge, "type", "bridge")
            self.bridges.append(bridge)
            run("ip", "link", "set", bridge, "up")
        for host, (delay, jitter, loss) in enumerate(lan.lines):
            run("ip", "link", "set", lan.device("p", host), "master", self.bridges[lan.groups[host]])
            run(
                "tc", "-n", lan.name(host), "qdisc", "replace", "dev", "lan", "root", "netem", "limit", 20_000,
                "delay", f"{delay}ms", f"{jitter}ms", "loss", f"{loss * 100}%",
            )  # fmt: skip

    def close(self):
        for bridge in self.bridges:
            with contextlib.suppress(Unable):
                run("ip", "link", "del", bridge)


class Switch:
    """The lines are TUN devices, and a process carries the packets."""

    kind = "user-space switch (this kernel has no netem)"

    def __init__(self, lan):
        self.lan = lan
        if not Path("/dev/net/tun").exists():
            raise Unable("this kernel has neither netem nor TUN devices")
        devices = [lan.device("t", host) for host in range(lan.count)]
        script = Path(__file__).with_name("switch.py")
        self.process = subprocess.Popen(
            [sys.executable, script, *devices], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            if self.process.stdout.readline() != b"ready\n":
                raise Unable("switch.py cannot make TUN devices")
            for host, device in enumerate(devices):
                name = lan.name(host)
                run("ip", "link", "set", device, "netns", name)
                run("ip", "-n", name, "link", "set", device, "name", "lan")
                run("ip", "-n", name, "addr", "add", f"{lan.lan_ip(host)}/24", "dev", "lan")
                run("ip", "-n", name, "link", "set", "lan", "txqueuelen", 5000, "up")
        except BaseException:
            self.close()
            raise

    def apply(self):
        settings = {"lines": self.lan.lines, "groups": self.lan.groups}
        self.process.stdin.write(json.dumps(settings).encode() + b"\n")
        self.process.stdin.flush()

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
