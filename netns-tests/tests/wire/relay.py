"""A wire that delays: passes Ethernet frames between two interfaces, each after a time of its own.

Usage: relay.py CONTROL A B

CONTROL is a file with one line, `DELAY JITTER DOUBLED`: milliseconds in each direction, up to how
many more (a frame that draws less overtakes one that drew more), and how many of a hundred frames
are passed twice. It is looked at while the wire works. What became of BFD packets (UDP port 3784,
RFC 5881) is in CONTROL.told: `passed turned doubled`, where a turned one was sent before another
that left it behind.
"""

import heapq
import os
import random
import select
import socket
import struct
import sys
import time

SOL_PACKET, PACKET_VNET_HDR, PACKET_OUTGOING, ETH_P_ALL = 263, 15, 4, 3
# With this header in front (struct virtio_net_hdr) checksums that are not yet written stay so.
VNET = 10


def opened(interface):
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    wire.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    wire.bind((interface, 0))
    wire.setblocking(False)
    return wire


def is_bfd(frame):
    frame = frame[VNET:]
    (kind,) = struct.unpack_from("!H", frame, 12)
    if kind == 0x0800 and len(frame) >= 38 and frame[23] == 17:
        return frame[36:38] == b"\x0e\xc8"
    if kind == 0x86DD and len(frame) >= 58 and frame[20] == 17:
        return frame[56:58] == b"\x0e\xc8"
    return False


def main():
    control, names = sys.argv[1], sys.argv[2:4]
    wires = [opened(name) for name in names]
    delay, jitter, doubled = 0.0, 0.0, 0.0
    seen, told, number = None, [0, 0, 0], 0
    latest = [0, 0]
    waiting = []
    while True:
        status = os.stat(control)
        if seen != status.st_mtime_ns:
            seen = status.st_mtime_ns
            words = open(control).read().split()
            if len(words) == 3:
                delay, jitter, doubled = (float(word) for word in words)
            else:
                seen = None
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, sent, to, frame = heapq.heappop(waiting)
            try:
                wires[to].send(frame)
            except OSError:
                continue
            if is_bfd(frame):
                told[0] += 1
                told[1] += sent < latest[to]
                latest[to] = max(latest[to], sent)
                with open(control + ".new", "w") as file:
                    file.write("%d %d %d\n" % tuple(told))
                os.replace(control + ".new", control + ".told")
        rest = min(0.01, waiting[0][0] - now) if waiting else 0.01
        ready, _, _ = select.select(wires, [], [], max(rest, 0))
        for wire in ready:
            while True:
                try:
                    frame, address = wire.recvfrom(70000)
                except BlockingIOError:
                    break
                if address[2] == PACKET_OUTGOING:
                    continue
                copies = 1 + (random.uniform(0, 100) < doubled)
                told[2] += copies - 1 if is_bfd(frame) else 0
                number += 1
                for _ in range(copies):
                    due = time.monotonic() + (delay + random.uniform(0, jitter)) / 1000
                    heapq.heappush(waiting, (due, number, 1 - wires.index(wire), frame))


main()
