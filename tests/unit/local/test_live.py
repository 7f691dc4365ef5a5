"""The live table shows what it is told."""

import io

from rich.console import Console

from rumor.local.live import _draw


def test_an_ipv6_address_keeps_its_host() -> None:
    server: dict[str, object] = {
        "name": "web-1",
        "address": "[fd00::1]:3000",
        "state": "ready",
        "evidence": [],
        "haproxy": None,
    }
    console = Console(file=io.StringIO(), width=200)
    console.print(_draw({"services": [{"name": "web", "servers": [server]}]}))
    assert isinstance(console.file, io.StringIO)
    assert "[fd00::1]:3000" in console.file.getvalue()
