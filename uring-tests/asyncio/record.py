#!/usr/bin/env python3
"""Performs the scenarios of scenarios.txt on CPython's asyncio and prints what happened, as recorded.txt has it.

    record.py > recorded.txt         all of them
    record.py NAME ...               these
"""

import asyncio
import os
import pathlib
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
PATIENCE = 10.0


def scenarios(text):
    """The name, the options, the reactions and the steps of each."""
    found = []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("= "):
            name, *options = line[2:].split()
            found.append((name, options, {}, []))
        elif line.startswith("on "):
            event, actions = line[3:].split(":")
            found[-1][2][event] = [action.split() for action in actions.split(";")]
        elif line and not line.startswith("#"):
            found[-1][3].append(line.split())
    return found


def kind(error):
    """What an error is, in words that are the same here and there."""
    match error:
        case None:
            return "none"
        case ConnectionResetError():
            return "ConnectionReset"
        case BrokenPipeError():
            return "BrokenPipe"
        case CutOff():
            return "cut off"
        case _:
            return "Other"


class Failed(Exception):
    """What a protocol of a scenario raises."""


class Common:
    """What a protocol records, and how it reacts."""

    def __init__(self, run, prefix=""):
        self.run, self.prefix, self.transport = run, prefix, None

    def connection_made(self, transport):
        self.run.transport = transport
        self.run.record(self.prefix, "made")
        self.run.react("made")

    def eof_received(self):
        self.run.record(self.prefix, "eof")
        return self.run.react("eof")

    def connection_lost(self, error):
        self.run.record(self.prefix, "lost", kind(error))
        self.run.react("lost")

    def pause_writing(self):
        self.run.record(self.prefix, "pause")
        self.run.react("pause")

    def resume_writing(self):
        self.run.record(self.prefix, "resume")
        self.run.react("resume")


class Stream(Common, asyncio.Protocol):
    def data_received(self, data):
        self.run.data(self.prefix, len(data))
        self.run.react("data")


class Buffered(Common, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint):
        self.buffer = bytearray(self.run.room)
        return self.buffer

    def buffer_updated(self, count):
        self.run.data(self.prefix, count)
        self.run.react("data")


class Datagram(Common, asyncio.DatagramProtocol):
    def datagram_received(self, data, source):
        self.run.record(self.prefix, "datagram", len(data))
        self.run.react("datagram")

    def error_received(self, error):
        self.run.record(self.prefix, "error", kind(error))
        self.run.react("error")


def text(word):
    return word.replace("\\n", "\n").encode()


def quoted(data):
    return '"' + data.decode().replace("\n", "\\n") + '"'


class Pipe:
    """The end of a pipe that a transport does not have, with the methods of a socket."""

    def __init__(self, fd):
        self.fd = fd
        os.set_blocking(fd, False)

    def sendall(self, data):
        os.write(self.fd, data)

    def recv(self, count):
        return os.read(self.fd, count)

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class TlsPeer:
    """The other side of a TLS connection, with the methods of a socket; it speaks only when it is told to."""

    def __init__(self, plain, context, server_side):
        self.plain, self.incoming, self.outgoing = plain, ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side, name)

    def step(self, what, *arguments):
        """Does it, if what has come is enough for it."""
        while True:
            try:
                return what(*arguments)
            except ssl.SSLWantReadError:
                self.flush()
                data = self.plain.recv(1 << 20)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
            finally:
                self.flush()

    def flush(self):
        if data := self.outgoing.read():
            self.plain.sendall(data)

    def shake_hands(self):
        """True when that is done."""
        try:
            self.step(self.tls.do_handshake)
        except BlockingIOError:
            return False
        return True

    def sendall(self, data):
        self.tls.write(data)
        self.flush()

    def recv(self, count):
        try:
            data = self.step(self.tls.read, count)
        except ssl.SSLZeroReturnError:
            data = b""
        except (ssl.SSLEOFError, ssl.SSLSyscallError):
            raise CutOff from None
        return data

    def end_tls(self):
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.flush()

    def __getattr__(self, name):
        return getattr(self.plain, name)


class CutOff(OSError):
    """The end came, but not that of TLS."""


def contexts(folder):
    """For the two sides of TLS."""
    certificate, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    make = [*make.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run(make, check=True, capture_output=True)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    # What they carry would be the beginning of what the peer reads, if nothing else was.
    server.num_tickets = 0
    return ssl.create_default_context(cafile=certificate), server


READS = "read", "readexactly", "readline", "readuntil", "drain", "wait_closed"


class Run:
    def __init__(self, options, reactions):
        self.options, self.reactions = options, reactions
        self.events, self.counts, self.total = [], {}, 0
        self.transport, self.peer, self.server, self.room = None, None, None, 65536
        self.target = None
        self.tasks, self.waiting, self.reader, self.writer = [], None, None, None
        self.tls = None

    def record(self, prefix, *words):
        self.counts[words[0]] = self.counts.get(words[0], 0) + 1
        self.events.append(prefix + " ".join(map(str, words)))

    def data(self, prefix, count):
        """Pieces that come one after the other are one: how the kernel parts them says nothing."""
        self.total += count
        before = self.events[-1].split() if self.events else []
        if before[:1] == [prefix + "data"]:
            count += int(before[1])
            self.events.pop()
        self.events.append(f"{prefix}data {count}")

    def react(self, event):
        keep = False
        for action in self.reactions.get(event, []):
            if action == ["keep"]:
                keep = True
            elif action == ["panic"]:
                raise Failed
            else:
                self.act(action)
        return keep

    def act(self, action):
        try:
            self.perform(*action)
        except (RuntimeError, ValueError, TypeError):
            self.record("", "refused", action[0])

    def perform(self, name, *words):
        transport = self.transport
        number = lambda word: None if word == "-" else int(word)
        match name:
            case "write":
                transport.write(bytes(int(words[0])))
            case "writelines":
                transport.writelines([bytes(int(word)) for word in words])
            case "sendto":
                target = ("127.0.0.1", 9) if words[1:] == ("elsewhere",) else self.target
                transport.sendto(bytes(int(words[0])), target)
            case "write_eof" | "close" | "abort":
                getattr(transport, name)()
            case "pause" | "resume":
                getattr(transport, name + "_reading")()
            case "limits":
                transport.set_write_buffer_limits(high=number(words[0]), low=number(words[1]))
            case "switch":
                transport.set_protocol((Buffered if words else Stream)(self, "b."))
            case "room":
                self.room = int(words[0])
            case "soon":
                asyncio.get_running_loop().call_soon(self.record, "", "soon", words[0])
            case "feed":
                self.reader.feed_data(text(words[0]))
            case "feed_eof":
                self.reader.feed_eof()
            case "fail":
                self.reader.set_exception(Failed())
            case "ask":
                self.record("", "ask", words[0], self.answer(words[0]))
            case _:
                raise KeyError(name)

    def answer(self, what):
        transport = self.transport
        yes = lambda value: "yes" if value else "no"
        match what:
            case "closing":
                return yes(transport.is_closing())
            case "reading":
                return yes(transport.is_reading())
            case "size":
                return transport.get_write_buffer_size()
            case "buffered":
                return yes(transport.get_write_buffer_size())
            case "limits":
                return "{} {}".format(*transport.get_write_buffer_limits())
            case "can_eof":
                return yes(transport.can_write_eof())
            case "peername":
                return yes(transport.get_extra_info("peername"))
            case "protocol":
                return yes(transport.get_protocol())
            case "serving":
                return yes(self.server.is_serving())
            case "at_eof":
                return yes(self.reader.at_eof())
            case "exception":
                return yes(self.reader.exception())

    async def until(self, condition):
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0)
            time.sleep(0.0002)
        return True

    async def peer_read(self, want):
        """Reads that many bytes, or all there are up to the end."""
        count, end = 0, None

        def done():
            nonlocal count, end
            while want is None or count < want:
                try:
                    data = self.peer.recv(1 << 20 if want is None else want - count)
                except BlockingIOError:
                    return False
                except OSError as error:
                    end = kind(error)
                    return True
                if not data:
                    end = "end"
                    return True
                count += len(data)
            return True

        if not await self.until(done):
            end = "never"
        # The peer and the transport do things at the same time: what the transport does at its leisure comes first.
        await self.idle()
        self.record("", "peer got", count, *([end] if end else []))

    async def idle(self):
        for _ in range(10):
            await asyncio.sleep(0.0005)

    async def do_peer(self, what, *words):
        match what:
            case "send":
                self.peer.sendall(bytes(int(words[0])))
            case "say":
                self.peer.sendall(text(words[0]))
            case "eof":
                self.peer.shutdown(socket.SHUT_WR)
            case "close":
                self.peer.close()
            case "reset":
                self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.peer.close()
            case "end_tls":
                self.peer.end_tls()
            case "read":
                await self.peer_read(int(words[0]))
            case "drain":
                await self.peer_read(None)

    async def do_server(self, what):
        match what:
            case "start":
                try:
                    await self.server.start_serving()
                except (RuntimeError, TypeError):
                    self.record("", "refused", "start")
            case "close":
                self.server.close()
            case "wait":
                await self.server.wait_closed()
            case "forever":
                async def forever():
                    try:
                        await self.server.serve_forever()
                    finally:
                        self.record("", "forever is over")

                self.tasks.append(asyncio.ensure_future(forever()))

    async def connect(self):
        family = socket.AF_UNIX if "unix" in self.options else socket.AF_INET
        peer = socket.socket(family)
        try:
            peer.connect(self.address)
        except ConnectionRefusedError:
            self.record("", "connection refused")
            return
        peer.setblocking(False)
        self.peer = peer

    async def begin(self, folder):
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: None)
        protocol = Buffered if "buffered" in self.options else Stream
        factory = lambda: protocol(self)
        if "reader" in self.options or "stream" in self.options:
            self.reader = asyncio.StreamReader(limit=int(self.options[-1]))
            factory = lambda: asyncio.StreamReaderProtocol(self.reader)
        if "reader" in self.options:
            return
        starts = "idle" not in self.options
        if "server" in self.options:
            if "unix" in self.options:
                self.address = os.path.join(folder, "socket")
                self.server = await loop.create_unix_server(factory, self.address, start_serving=starts)
            else:
                self.server = await loop.create_server(factory, "127.0.0.1", 0, start_serving=starts)
                self.address = self.server.sockets[0].getsockname()
            return
        if "datagram" in self.options:
            self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.peer.bind(("127.0.0.1", 0))
            name = self.peer.getsockname()
            where = {"remote_addr": name} if "connected" in self.options else {"local_addr": ("127.0.0.1", 0)}
            transport, _ = await loop.create_datagram_endpoint(lambda: Datagram(self), **where)
            self.peer.connect(transport.get_extra_info("sockname"))
            self.peer.setblocking(False)
            self.target = None if "connected" in self.options else name
            return
        if "pipe_in" in self.options or "pipe_out" in self.options:
            read, write = os.pipe()
            if "pipe_in" in self.options:
                self.peer = Pipe(write)
                await loop.connect_read_pipe(factory, os.fdopen(read, "rb", 0))
            else:
                self.peer = Pipe(read)
                await loop.connect_write_pipe(factory, os.fdopen(write, "wb", 0))
            return
        if "unix" in self.options:
            ours, self.peer = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                self.peer = socket.create_connection(listener.getsockname())
                ours, _ = listener.accept()
        for end in ours, self.peer:
            end.setblocking(False)
            # Small, so that what is much fits in none.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        if "tls" in self.options:
            self.tls = contexts(folder)
            self.peer = TlsPeer(self.peer, self.tls[0], False)
            accept = loop.connect_accepted_socket(factory, ours, ssl=self.tls[1])
            await self.secure("connect", accept)
            return
        if "plain" in self.options:
            self.tls = contexts(folder)
        self.transport, made = await loop.connect_accepted_socket(factory, ours)
        if self.reader:
            self.writer = asyncio.StreamWriter(self.transport, made, self.reader, loop)

    async def secure(self, name, begin):
        """Waits for the two sides to agree, if the peer speaks TLS."""
        task = asyncio.ensure_future(begin)
        if isinstance(self.peer, TlsPeer):
            shakes = lambda: task.done() or self.peer.shake_hands()
            assert await self.until(shakes)
        else:
            # What it says is no TLS.
            self.peer.sendall(b"hello\r\n" * 10)
        try:
            return await task
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            refused = not isinstance(error, OSError)
            self.record("", name, "refused" if refused else "failed")

    async def do_start_tls(self, side, speaks="tls"):
        loop, is_server = asyncio.get_running_loop(), side == "server"
        ours, theirs = self.tls[is_server], self.tls[not is_server]
        if speaks == "tls":
            self.peer = TlsPeer(self.peer, theirs, not is_server)
        protocol = self.transport.get_protocol()
        name = None if is_server else "localhost"
        begin = loop.start_tls(self.transport, protocol, ours, server_side=is_server, server_hostname=name)
        if transport := await self.secure("start_tls", begin):
            self.transport = transport
            self.record("", "start_tls", "over")

    async def read(self, name, *words):
        """What a read gives, or another wait of a stream."""
        match name:
            case "read" | "readexactly":
                return await getattr(self.reader, name)(int(words[0]))
            case "readuntil":
                return await self.reader.readuntil(text(words[0]) if words else b"")
            case "readline":
                return await self.reader.readline()
            case _:
                return await getattr(self.writer, name)()

    def record_read(self, name, task):
        try:
            got = task.result()
        except asyncio.CancelledError:
            self.record("", name, "cancelled")
        except asyncio.IncompleteReadError as error:
            expected = "" if error.expected is None else f"of {error.expected}"
            self.record("", name, "incomplete", quoted(error.partial), *([expected] if expected else []))
        except asyncio.LimitOverrunError as error:
            self.record("", name, "overrun", error.consumed)
        except Failed:
            self.record("", name, "failed")
        except OSError as error:
            self.record("", name, kind(error))
        except ValueError:
            self.record("", name, "overrun" if name == "readline" else "refused")
        except RuntimeError:
            self.record("", name, "refused")
        else:
            self.record("", name, "over" if got is None else quoted(got))

    async def do_read(self, name, *words):
        task = asyncio.ensure_future(self.read(name, *words))
        await self.idle()
        if task.done():
            self.record_read(name, task)
        else:
            self.record("", name, "waits")
            self.waiting = name, task

    def look_at_waiting(self):
        if self.waiting and self.waiting[1].done():
            self.record_read(*self.waiting)
            self.waiting = None

    async def perform_all(self, steps, folder):
        await self.begin(folder)
        for name, *words in steps:
            match name:
                case "until":
                    await self.do_until(*words)
                case "idle":
                    await self.idle()
                case "peer":
                    await self.do_peer(*words)
                case "server":
                    await self.do_server(*words)
                case "connect":
                    await self.connect()
                case "start_tls":
                    await self.do_start_tls(*words)
                case "cancel":
                    self.waiting[1].cancel()
                case _ if name in READS:
                    await self.do_read(name, *words)
                case _:
                    self.act([name, *words])
            if self.reader:
                await self.idle()
                self.look_at_waiting()
        await self.idle()
        if self.peer:
            self.peer.close()

    async def do_until(self, event, count="1"):
        if event == "data":
            happened = await self.until(lambda: self.total >= int(count))
        else:
            happened = await self.until(lambda: self.counts.get(event, 0) >= int(count))
        if not happened:
            self.record("", "never", event)


def main():
    wanted = sys.argv[1:]
    version = ".".join(map(str, sys.version_info[:2]))
    print(f"# What asyncio of CPython {version} does in the scenarios of scenarios.txt. Made by record.py.")
    for name, options, reactions, steps in scenarios((HERE / "scenarios.txt").read_text()):
        if wanted and name not in wanted:
            continue
        run = Run(options, reactions)
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(run.perform_all(steps, folder))
        print(f"\n= {name}")
        for event in run.events:
            print(event)


main()
