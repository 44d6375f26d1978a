"""Interoperation with the Python package websockets: two accounts on one socket, messages both ways.

Starts the gateway named by MOOR_GATEWAY on free ports, with an embedded router. The protocol is written out here once
more, in small, so that nothing of the project's own clients is taken for granted. See docs/protocol.md.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

CONNECT, CONNECTED, OPEN, OPENED, DATA, ACK, PING, PONG = 1, 2, 3, 4, 6, 7, 9, 10
RELIABLE = 1
WAIT_S = 20


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def message(**fields):
    """A protobuf message; fields are named f1, f2, …"""
    out = b""
    for name, value in fields.items():
        number = int(name[1:])
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def parse(body):
    """The fields of a protobuf message by number."""

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = body[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    fields, at = {}, 0
    while at < len(body):
        key = number()
        if key & 7 == 0:
            fields[key >> 3] = number()
        else:
            length = {1: 8, 5: 4}.get(key & 7) or number()
            fields[key >> 3] = body[at : at + length]
            at += length
    return fields


class Peer:
    """A device: one socket, frames in and out."""

    def __init__(self, sockets, url, device):
        self.socket = sockets.enter_context(connect(url, subprotocols=["moor.v1"], open_timeout=WAIT_S))
        assert self.socket.subprotocol == "moor.v1", self.socket.subprotocol
        self.received = b""
        self.send(CONNECT, 0, message(f1=1, f2=device, f3="interop"))
        self.expect(CONNECTED, 0)

    def send(self, kind, channel, body, flags=0, pieces=1):
        frame = struct.pack(">BBHI", kind, flags, channel, len(body)) + body
        size = -(-len(frame) // pieces)
        cut = [frame[at : at + size] for at in range(0, len(frame), size)]
        # A list goes out as one message in fragments.
        self.socket.send(cut[0] if pieces == 1 else cut)

    def expect(self, kind, channel):
        """The body of the next frame, which is to be of this kind on this channel."""
        while len(self.received) < 8 or len(self.received) < 8 + struct.unpack_from(">I", self.received, 4)[0]:
            self.received += self.socket.recv(timeout=WAIT_S)
        got, _, on, length = struct.unpack_from(">BBHI", self.received)
        body, self.received = self.received[8 : 8 + length], self.received[8 + length :]
        assert (got, on) == (kind, channel), f"a frame of kind {got} on channel {on}: {body!r}"
        return body

    def open(self, channel, account):
        self.send(OPEN, channel, message(f1="shop", f2=account, f4=0))
        self.expect(OPENED, channel)

    def submit(self, channel, to, name, payload, pieces=1):
        """Sends until it is stored: right after its start a gateway may not know its router yet."""
        unavailable = 7
        while True:
            self.send(DATA, channel, message(f1=name, f2=to, f3=payload), RELIABLE, pieces)
            result = parse(self.expect(ACK, channel))
            if result.get(2, 0) != unavailable:
                assert result == {1: name.encode(), 3: result[3]}, result
                return

    def delivery(self, channel, sync_id, sender, payload):
        fields = parse(self.expect(DATA, channel))
        assert (fields[1], fields[2], fields[6]) == (sync_id, sender.encode(), payload), fields
        self.send(ACK, channel, struct.pack(">Q", sync_id))


@contextmanager
def gateway():
    with tempfile.TemporaryDirectory(prefix="moor-interop-") as data:
        arguments = [os.environ["MOOR_GATEWAY"], "--announce", "json", "--data", data, "--workers", "1"]
        for flag in ("--listen", "--internal", "--admin", "--router-listen"):
            arguments += [flag, "127.0.0.1:0"]
        child = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            yield "ws://" + json.loads(child.stdout.readline())["listening"]["clients"]
        finally:
            child.kill()
            child.wait()


def exchange(sockets, url):
    web, phone = Peer(sockets, url, "web"), Peer(sockets, url, "phone")
    web.open(1, "alice")
    web.open(2, "bob")
    phone.open(1, "carol")
    large = bytes(range(256)) * 234
    phone.submit(1, "alice", "m1", b"to alice")
    web.delivery(1, 1, "carol", b"to alice")
    # In fragments, and longer than what the gateway receives at once.
    phone.submit(1, "bob", "m2", large, pieces=7)
    web.delivery(2, 1, "carol", large)
    web.submit(1, "carol", "m3", large, pieces=3)
    phone.delivery(1, 1, "alice", large)
    web.submit(2, "carol", "m4", b"from bob")
    phone.delivery(1, 2, "bob", b"from bob")
    # Both kinds of ping.
    web.send(PING, 0, b"beat")
    assert web.expect(PONG, 0) == b"beat"
    assert web.socket.ping(b"beat").wait(WAIT_S), "a pong"
    # The closing handshake, from this side and, after a text, from the other.
    phone.socket.close()
    assert phone.socket.close_code == 1000, phone.socket.close_code
    web.socket.send("a text")
    try:
        web.socket.recv(timeout=WAIT_S)
    except ConnectionClosed:
        pass
    assert web.socket.close_code == 1003, web.socket.close_code


def main():
    with gateway() as url, ExitStack() as sockets:
        exchange(sockets, url)
    print("two accounts on one socket, messages both ways, fragments, pings, closes: as they should be")


if __name__ == "__main__":
    sys.exit(main())
