"""How many requests a second the example app answers on one core.

    python bench/app_rate.py              four seconds each: kept-alive and new connections, one and eight clients

The app is held on the first core this process may use, the clients on the last; with a single core both share it.
"""

import argparse
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

WEBAPP = Path(__file__).parents[1] / "examples" / "webapp" / "webapp.py"
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nCookie: NODESESSID=bench\r\n\r\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(connection: socket.socket) -> None:
    connection.sendall(REQUEST)
    answer = b""
    while not answer.endswith(b"}\n"):
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("the app hung up")
        answer += more
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise ValueError(answer[:100])


def run_client(port: int, seconds: float, keeps: bool, counts: list[int]) -> None:
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ask(connection)
            count += 1
            while keeps and time.monotonic() < end:
                ask(connection)
                count += 1
    counts.append(count)


def measure(port: int, seconds: float, clients: int, *, keeps: bool) -> float:
    counts: list[int] = []
    threads = [threading.Thread(target=run_client, args=(port, seconds, keeps, counts)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(counts) != clients:
        raise SystemExit("error: a client failed; nothing was measured")
    return sum(counts) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="How many requests a second the example app answers on one core.")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each line of the table")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    port = free_port()
    with subprocess.Popen([sys.executable, str(WEBAPP), "--port", str(port)]) as app:
        try:
            os.sched_setaffinity(app.pid, {cores[0]})
            os.sched_setaffinity(0, {cores[-1]})
            wait_ready(app, port)
            print("connections  clients  requests/s")
            for keeps, word in ((True, "kept alive"), (False, "new")):
                for clients in (1, 8):
                    rate = measure(port, options.seconds, clients, keeps=keeps)
                    print(f"{word:<11}  {clients:>7}  {rate:>10,.0f}", flush=True)
        finally:
            app.terminate()


def wait_ready(app: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 10
    while app.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit("error: the app does not answer")


if __name__ == "__main__":
    main()
