"""The Python side of ci/interop: clients, and servers that send lines back in upper case.

    interop.py asyncio|anyio ADDRESS            a client of examples/streams, over TCP or a UNIX socket
    interop.py ssl|anyio-ssl ADDRESS CA         a client of examples/tls_echo
    interop.py start-tls ADDRESS CA             a client of examples/start_tls
    interop.py serve-asyncio|serve-anyio        serves TCP, and prints the address
    interop.py serve-start-tls CERTIFICATE KEY  goes on with TLS behind the line STARTTLS
    interop.py serve-unix PATH                  serves a UNIX socket
    interop.py serve-https CERTIFICATE KEY      answers each request of HTTP with a page of 2 MB

A client prints `well`, or fails.
"""

import asyncio
import ssl
import sys

MUCH = b"x" * 999_999 + b"\n"


def host_and_port(address):
    host, port = address.split(":")
    return host, int(port)


def trusting(authority):
    return ssl.create_default_context(cafile=authority)


async def talk(reader, writer, answer):
    """Two lines, then much of which the end is told; `answer` says what the server makes of it."""
    writer.write(b"one\ntwo\n")
    for line in b"one\n", b"two\n":
        assert await reader.readline() == answer(line)
    writer.write(MUCH)
    if writer.can_write_eof():
        writer.write_eof()
        assert await reader.read() == answer(MUCH)
    else:
        assert await reader.readexactly(len(MUCH)) == answer(MUCH)
    writer.close()
    await writer.wait_closed()


async def client(address):
    if ":" in address:
        streams = await asyncio.open_connection(*host_and_port(address))
    else:
        streams = await asyncio.open_unix_connection(address)
    await talk(*streams, bytes.upper)


async def ssl_client(address, authority):
    host, port = host_and_port(address)
    streams = await asyncio.open_connection(
        host, port, ssl=trusting(authority), server_hostname="localhost", limit=1 << 21
    )
    await talk(*streams, bytes)


async def start_tls_client(address, authority):
    reader, writer = await asyncio.open_connection(*host_and_port(address), limit=1 << 21)
    writer.write(b"plain\nSTARTTLS\n")
    assert await reader.readline() == b"PLAIN\n"
    assert await reader.readline() == b"go on\n"
    await writer.start_tls(trusting(authority), server_hostname="localhost")
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
    await talk(reader, writer, bytes.upper)


async def anyio_client(address, authority=None):
    import anyio
    from anyio.streams.buffered import BufferedByteReceiveStream

    answer = bytes.upper
    if authority:
        host, port = host_and_port(address)
        stream = await anyio.connect_tcp(host, port, ssl_context=trusting(authority), tls_hostname="localhost")
        answer = bytes
    elif ":" in address:
        stream = await anyio.connect_tcp(*host_and_port(address))
    else:
        stream = await anyio.connect_unix(address)
    async with stream, anyio.create_task_group() as group:
        buffered = BufferedByteReceiveStream(stream)
        await stream.send(b"one\n")
        assert await buffered.receive_exactly(4) == answer(b"one\n")
        group.start_soon(stream.send, MUCH)
        assert await buffered.receive_exactly(len(MUCH)) == answer(MUCH)


async def upper(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()


async def serve_start_tls(certificate, key):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def starting(reader, writer):
        assert await reader.readline() == b"in plain\n"
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"IN PLAIN\ngo on\n")
        await writer.start_tls(context)
        await upper(reader, writer)

    server = await asyncio.start_server(starting, "127.0.0.1", 0, limit=1 << 21)
    print("{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await server.serve_forever()


async def serve():
    server = await asyncio.start_server(upper, "127.0.0.1", 0, limit=1 << 21)
    print("{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await server.serve_forever()


async def serve_unix(path):
    server = await asyncio.start_unix_server(upper, path, limit=1 << 21)
    print(path, flush=True)
    await server.serve_forever()


async def serve_anyio():
    import anyio

    async def handle(stream):
        async with stream:
            async for chunk in stream:
                await stream.send(chunk.upper())

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    print(f"127.0.0.1:{port}", flush=True)
    await listener.serve(handle)


async def serve_https(certificate, key):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + 2 * MUCH)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    print("{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await server.serve_forever()


def main(name, *arguments):
    clients = {
        "asyncio": client,
        "anyio": anyio_client,
        "ssl": ssl_client,
        "anyio-ssl": anyio_client,
        "start-tls": start_tls_client,
    }
    servers = {
        "serve-asyncio": serve,
        "serve-unix": serve_unix,
        "serve-anyio": serve_anyio,
        "serve-https": serve_https,
        "serve-start-tls": serve_start_tls,
    }
    if name in clients:
        asyncio.run(asyncio.wait_for(clients[name](*arguments), 30))
        print("well")
    else:
        asyncio.run(servers[name](*arguments))


main(*sys.argv[1:])
