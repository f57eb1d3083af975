"""Forwards packets between the two ends of a wire, each after a delay: see wire.rs.

Takes commands on standard input, one JSON value a line: "state" prints what was carried and for how long nothing has
been in flight; [source, port, destination, port, payload] delivers a spoofed datagram.
"""
import collections
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SETUP = """
ip addr add 10.0.1.1/32 dev wire; ip addr add 10.0.2.1/32 dev wire
ip link set wire up txqueuelen 10000
ip route add 10.0.2.2 dev wire src 10.0.1.1; ip route add 10.0.1.2 dev wire src 10.0.2.1
"""

delay = float(sys.argv[1])
tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"wire", IFF_TUN | IFF_NO_PI))
subprocess.run(["sh", "-ec", SETUP], check=True)

in_flight = collections.deque()  # (when it arrives, packet)
carried = collections.Counter()
last = time.monotonic()


def checksum(header):
    total = sum(struct.unpack("!10H", header))
    return ~(total + (total >> 16)) & 0xFFFF


def spoofed(source, port, destination, to_port, payload):
    payload = bytes(payload)
    udp = struct.pack("!4H", port, to_port, 8 + len(payload), 0) + payload  # 0: no checksum
    header = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0))
    header += socket.inet_aton(source) + socket.inet_aton(destination)
    header[10:12] = struct.pack("!H", checksum(header))
    return bytes(header) + udp


def accept(packet):
    """Takes a packet from one end. The addresses change in a way that no checksum notices."""
    if packet[0] != 0x45 or packet[9] != socket.IPPROTO_UDP:
        return
    packet[15], packet[19] = 2, 1
    if struct.unpack("!H", packet[6:8])[0] & 0x1FFF == 0:  # the first fragment
        low, high = sorted(struct.unpack("!HH", packet[20:24]))
        carried[f"{low} {high}"] += 1
    in_flight.append((time.monotonic() + delay, packet))


stdin = b""
while True:
    wait = max(0, in_flight[0][0] - time.monotonic()) if in_flight else None
    readable, _, _ = select.select([tun, 0], [], [], wait)
    if tun in readable:
        try:
            for _ in range(64):
                accept(bytearray(os.read(tun, 65535)))
        except BlockingIOError:
            pass
    if 0 in readable:
        chunk = os.read(0, 65536)
        if not chunk:
            break
        *lines, stdin = (stdin + chunk).split(b"\n")
        for command in map(json.loads, lines):
            if command == "state":
                idle = 0 if in_flight else time.monotonic() - last
                print(json.dumps({"carried": carried, "idle": idle}), flush=True)
            else:
                in_flight.appendleft((0, spoofed(*command)))
    while in_flight and in_flight[0][0] <= time.monotonic():
        os.write(tun, in_flight.popleft()[1])
        last = time.monotonic()
