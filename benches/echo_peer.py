"""An echo server on uvloop, or on asyncio's own loop: what `transport` measures beside ours.

    echo_peer.py uvloop|asyncio protocol|stream    prints its port, and serves until its input ends
"""

import asyncio
import os
import socket
import sys


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main(face):
    listener = socket.socket()
    try:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    except OSError:
        pass
    listener.bind(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    if face == "protocol":
        await loop.create_server(Echo, sock=listener, backlog=4096)
    else:
        await asyncio.start_server(echo, sock=listener, backlog=4096)
    print(listener.getsockname()[1], flush=True)
    ended = loop.create_future()
    loop.add_reader(0, ended.set_result, None)
    await ended


os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
if sys.argv[1] == "uvloop":
    import uvloop

    uvloop.install()
asyncio.run(main(sys.argv[2]))
