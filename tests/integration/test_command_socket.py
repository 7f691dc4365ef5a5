"""Conversations over a UNIX socket, against a server that behaves as HAProxy's sockets do."""

import asyncio
from pathlib import Path

from rumor.haproxy.runtime import CommandSocket


async def test_conversation_is_not_half_closed_before_its_last_reply(tmp_path: Path) -> None:
    """HAProxy hangs up on who has finished early, with commands unread, when it finds no room for a reply."""
    finished_early: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        *lines, _ = (await reader.readuntil(b"quit\n")).splitlines()
        try:
            async with asyncio.timeout(0.1):
                finished_early.append(await reader.read(1) == b"")
        except TimeoutError:
            finished_early.append(False)
        # As 2.8 does: a prompt after each command, the version where it is asked for.
        answers = [b"2.8.25" if command == b"show version" else b"" for line in lines for command in line.split(b";")]
        writer.write(b"".join(answer + b"\n\n> " for answer in answers) + b"\n")
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "haproxy.sock")
    async with server:
        replies = await CommandSocket(tmp_path / "haproxy.sock").ask_each([[f"get weight web/s{n}"] for n in range(9)])
    assert replies == [""] * 9
    assert finished_early == [False]


async def test_single_command_is_half_closed_since_the_master_waits_for_that(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"you said " + await reader.read())
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "master.sock")
    async with server:
        assert await CommandSocket(tmp_path / "master.sock").ask("show proc") == "you said show proc"
