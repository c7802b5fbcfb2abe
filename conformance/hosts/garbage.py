"""A hostile peer: holds many connections to some ports and sends what is no protocol. Started by `network.py`.

    garbage.py SECONDS CONNECTIONS ADDRESS:PORT…

Prints how many connections it made and how many bytes it sent, as JSON.
"""

import asyncio
import contextlib
import json
import os
import random
import struct
import sys
import time

PIECE = 16_384
made = sent = 0


async def attack(address, port, kind, end):
    """Connects again and again. Three kinds: silent, the beginning of a message that never ends, random bytes."""
    global made, sent
    while time.monotonic() < end:
        writer = None
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 5)
            made += 1
            if kind == 0:
                pieces = []
            elif kind == 1:
                # Lengths that some framing may believe: four bytes, big-endian, and a varint.
                pieces = [struct.pack(">I", random.randrange(1 << 32)), b"\xff\xff\xff\x7f", os.urandom(random.randrange(64))]
            else:
                pieces = [os.urandom(random.randrange(1, PIECE)) for _ in range(64)]
            for piece in pieces:
                writer.write(piece)
                await asyncio.wait_for(writer.drain(), 5)
                sent += len(piece)
            # Stays until the other side hangs up.
            await asyncio.wait_for(reader.read(), max(0.1, end - time.monotonic()))
        except (OSError, TimeoutError):
            pass
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(OSError, TimeoutError):
                    await asyncio.wait_for(writer.wait_closed(), 1)
        # The validators share the processor with this script, so it must not spin.
        await asyncio.sleep(random.uniform(0.2, 0.6))


async def main(seconds, connections, targets):
    end = time.monotonic() + seconds
    tasks = [attack(address, int(port), i % 3, end) for address, port in targets for i in range(connections)]
    await asyncio.gather(*tasks)
    print(json.dumps({"connections": made, "bytes": sent}))


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), int(sys.argv[2]), [target.rsplit(":", 1) for target in sys.argv[3:]]))
