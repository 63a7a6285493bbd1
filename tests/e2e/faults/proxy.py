"""A TCP proxy on loopback that ill-treats the connections through it."""

import random
import socket
import struct
import threading
import time


class Proxy:
    """Passes bytes between whoever connects to `port` and `target` (a port). What it does to them is
    set by attributes, for connections that are open and those to come:
      drop_up, drop_down: swallows what goes to the target, or comes from it, without a word;
      delay: seconds that bytes wait, so much more or less by a random half of it;
      chunk: passes at most so many bytes at once, so that frames are cut anywhere;
      refuses: new connections are closed at once.
    """

    def __init__(self, target, seed=1):
        self._target = target
        self._dice = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.drop_up = self.drop_down = self.refuses = False
        self.delay = 0
        self.chunk = 65536
        self._damage = 0  # frames from the target to damage
        self._pairs = []
        self._start(self._accept)

    def _start(self, function, *args):
        threading.Thread(target=function, args=args, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=60)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.settimeout(None)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.append((client, server))
            self._start(self._pass, client, server, "up")
            self._start(self._pass, server, client, "down")

    def _pass(self, source, sink, way):
        try:
            while data := source.recv(self.chunk):
                if getattr(self, f"drop_{way}"):
                    continue
                if self.delay:
                    time.sleep(self.delay * self._dice.uniform(0.5, 1.5))
                if way == "down" and self._damage:
                    data = self._damaged(data)
                sink.sendall(data)
        except OSError:
            pass
        # One direction ends alone: a half-closed connection stays one.
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _damaged(self, data):
        """Changes one bit in the middle of the first message in `data` that has a DATA frame to itself
        and is longer than a heartbeat: HTTP/2 and gRPC have nothing to say against it."""
        at = 0
        while at + 9 <= len(data):
            length = int.from_bytes(data[at:at + 3], "big")
            if at + 9 + length > len(data):
                break
            if (data[at + 3] == 0 and length > 60 and
                    data[at + 9:at + 14] == bytes([0]) + (length - 5).to_bytes(4, "big")):
                self._damage -= 1
                middle = at + 9 + length // 2
                return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:]
            at += 9 + length
        return data

    def damage(self, frames=1):
        """Changes a bit in each of so many frames that come from the target."""
        self._damage += frames

    @property
    def is_damage_done(self):
        return self._damage == 0

    def half_close(self):
        """Ends the target's side of every connection; the other side stays open."""
        for client, _ in self._pairs:
            self._try(client.shutdown, socket.SHUT_WR)

    def reset(self):
        """Every connection ends with RST on both sides."""
        for pair in self._pairs:
            for end in pair:
                self._try(end.setsockopt, socket.SOL_SOCKET, socket.SO_LINGER,
                          struct.pack("ii", 1, 0))
                self._try(end.shutdown, socket.SHUT_RD)
                self._try(end.close)
        self._pairs.clear()

    def _try(self, function, *args):
        try:
            function(*args)
        except OSError:
            pass

    def close(self):
        self._listener.close()
        self.reset()
