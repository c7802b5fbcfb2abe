"""A switch with slow and lossy lines in user space, for kernels without `netem`. Started by `links.py`.

    switch.py DEVICE…      makes these TUN devices, prints "ready" and carries IPv4 packets between them

Device number i (from 0) belongs to the address that ends in i + 1. A line on standard input sets everything anew, as JSON:
{"lines": [[delay, jitter, loss]…], "groups": [g…]} with milliseconds and a fraction for what device i sends, and the
number of its group; packets between groups are lost. It ends when standard input does, and its devices with it.
"""

import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
PACKET_MAX = 65_536
# Packets under way; like a real switch it drops what does not fit.
QUEUE_MAX = 50_000


def open_device(name):
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


class Switch:
    def __init__(self, devices):
        self.devices = devices
        self.lines = [(0.0, 0.0, 0.0)] * len(devices)
        self.groups = [0] * len(devices)
        self.queue = []
        self.sequence = 0

    def receive(self, source, packet, now):
        # Only IPv4, and only to an address that has a device.
        if len(packet) < 20 or packet[0] >> 4 != 4:
            return
        target = packet[19] - 1
        if not 0 <= target < len(self.devices) or self.groups[source] != self.groups[target]:
            return
        delay, jitter, loss = self.lines[source]
        if random.random() < loss or len(self.queue) >= QUEUE_MAX:
            return
        due = now + max(0.0, delay + random.uniform(-jitter, jitter)) / 1000
        self.sequence += 1
        heapq.heappush(self.queue, (due, self.sequence, source, target, packet))

    def send(self, now):
        while self.queue and self.queue[0][0] <= now:
            _, _, source, target, packet = heapq.heappop(self.queue)
            # A line that was cut loses what is on it.
            if self.groups[source] == self.groups[target]:
                try:
                    os.write(self.devices[target], packet)
                except OSError:
                    # The device is full or not up yet; a packet is lost.
                    pass

    def run(self):
        poll = select.epoll()
        poll.register(0, select.EPOLLIN)
        sources = {device: i for i, device in enumerate(self.devices)}
        for device in self.devices:
            poll.register(device, select.EPOLLIN)
        settings = b""
        while True:
            wait = max(0.0, self.queue[0][0] - time.monotonic()) if self.queue else None
            for ready, _ in poll.poll(wait):
                if ready == 0:
                    got = os.read(0, PACKET_MAX)
                    if not got:
                        return
                    *whole, settings = (settings + got).split(b"\n")
                    for line in whole:
                        values = json.loads(line)
                        self.lines, self.groups = values["lines"], values["groups"]
                    continue
                now = time.monotonic()
                # A few packets at a time, so that one busy device does not hold up the others.
                for _ in range(64):
                    try:
                        packet = os.read(ready, PACKET_MAX)
                    except OSError:
                        break
                    self.receive(sources[ready], packet, now)
            self.send(time.monotonic())


if __name__ == "__main__":
    opened = [open_device(name) for name in sys.argv[1:]]
    print("ready", flush=True)
    Switch(opened).run()
