"""What comes back to a query over Serf's RPC, as its commands take it."""

from collections.abc import Iterator
from typing import cast

from rumor.cli.serf import answers
from rumor.serf.rpc_client import RpcClient


class Agent:
    """An agent that writes these records, as (type, sender, payload)."""

    def __init__(self, *written: tuple[str, bytes, object]) -> None:
        self.written = iter(written)

    def records(self) -> Iterator[tuple[int, dict[str, object]]]:
        for kind, sender, payload in self.written:
            yield 1, {"Type": kind, "From": sender, "Payload": payload}


def test_answers_end_where_the_agent_says_so() -> None:
    agent = Agent(("ack", b"a", None), ("response", b"a", b"0.4"), ("done", b"", None), ("ack", b"b", None))
    assert list(answers(cast(RpcClient, agent))) == [("ack", "a", None), ("response", "a", b"0.4")]
    assert next(agent.written) == ("ack", b"b", None)


def test_answers_of_nobody_are_left_out() -> None:
    agent = Agent(
        ("ack", b"", None), ("ack", b"a", None), ("response", b"", b""), ("ack", b"", None), ("done", b"", None)
    )
    assert list(answers(cast(RpcClient, agent))) == [("ack", "a", None)]
