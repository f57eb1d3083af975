"""Sends requests that scapy builds to a reflector, and dissects the replies. Argument: the reflector's port."""

import random
import socket
import sys
import time

from scapy.contrib.stamp import (
    ErrorEstimate,
    STAMPSessionReflectorTestUnauthenticated as Reply,
    STAMPSessionSenderTestUnauthenticated as Request,
    STAMPTestTLV as Tlv,
)

NTP_EPOCH = 2_208_988_800
rng = random.Random(1)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(60)
sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 77)
sock.connect(("127.0.0.1", int(sys.argv[1])))


def seconds(packet, field, ptp):
    """Returns the seconds since 1970 of a timestamp, from the bytes that scapy has for it."""
    raw = packet.get_field(field).i2m(packet, getattr(packet, field)) if ptp else None
    if ptp:
        return (raw >> 32) + (raw & 0xFFFFFFFF) / 1e9
    return float(getattr(packet, field)) - NTP_EPOCH


for number in range(200):
    ptp = number % 2
    # scapy numbers the flags from the lowest bit, so U is written as a number.
    tlvs = [Tlv(flags=0x80, type=kind, len=size, value=rng.randbytes(size))
            for kind, size in rng.choices([(1, 8), (1, 0), (4, 4), (200, 11)], k=number % 4)]
    estimate = ErrorEstimate(S=rng.getrandbits(1), Z=ptp, scale=rng.getrandbits(6), multiplier=rng.randrange(1, 256))
    before = time.time()
    stamp = (int(before) << 32) | rng.randrange(10**9) if ptp else before + NTP_EPOCH
    request = Request(seq=rng.getrandbits(32), err_estimate=estimate, ssid=4711, tlv_objects=tlvs)
    request.ts = stamp  # Its format follows from the estimate.
    sent = bytes(request)
    sock.send(sent)
    received = sock.recv(65536)
    after = time.time()
    assert len(received) == len(sent), (len(received), len(sent))
    reply = Reply(received)
    assert bytes(reply) == received
    assert reply.seq == number, "numbered by the session"
    assert reply.seq_sender == request.seq
    assert received[28:36] == sent[4:12], "T1"
    assert bytes(reply.err_estimate_sender) == bytes(estimate)
    assert reply.ssid == 4711
    assert reply.ttl_sender == 77
    assert (reply.mbz1, reply.mbz2) == (0, 0)
    assert reply.err_estimate.Z == ptp and reply.err_estimate.multiplier > 0
    t2, t3 = seconds(reply, "ts_rx", ptp), seconds(reply, "ts", ptp)
    assert before - 1e-3 <= t2 <= t3 <= after + 1e-3, (before, t2, t3, after)
    assert len(reply.tlv_objects) == len(tlvs)
    for mine, theirs in zip(tlvs, reply.tlv_objects):
        assert int(theirs.flags) == (0 if mine.type == 1 else 0x80), theirs.flags
        assert (theirs.type, theirs.len, theirs.value) == (mine.type, mine.len, mine.value)
