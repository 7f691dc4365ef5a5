"""What rumor.toml says of how requests reach servers, and how it says what is wrong."""

import re
from pathlib import Path

import pytest

from rumor.config import Config, load
from rumor.config.traffic import SECTIONS
from rumor.errors import ConfigError
from rumor.haproxy.config_text import SECTION
from rumor.model import Seconds
from rumor.names import Endpoint
from rumor.render.settings import BalancerTimeouts, RateLimit, Route, ServerTls, Timeouts

HEAD = '[balancer]\nbind = ":80"\n'


def read(directory: Path, text: str) -> Config:
    file = directory / "rumor.toml"
    file.write_text(text)
    return load(file, environ={})


def test_a_service_with_everything_is_read(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
[service.web]
route = [{ host = "*.Shop.example", path = "/api/", rewrite = "/", priority = 5 }]
split = { "1.4" = 95, "1.5" = 5 }
backup = true
max_connections = 50
slow_start = "20s"
timeouts = { queue = "2s", tunnel = "8h" }
rate_limit = { requests = 100, per = "10s" }
allow = ["10.0.0.0/8", "::1"]
deny = "10.6.6.6"
tls = { ca = "ca.pem", name = "web.internal" }
send_proxy = "v2"
error_pages = { 503 = "pages/503.html" }
check = { http = "/health?deep=1", status = 204, headers = { Host = "x" } }
[service.web.raw]
backend = '''
    one
  # two
'''
server = "pool-max-conn 3"
[service.db]
mode = "tcp"
bind = "127.0.0.1:5432"
tls = true
""",
    )
    web, db = config.service("web"), config.service("db")
    assert web.routes == (Route("*.shop.example", "/api", "/", 5),)
    assert (web.split, web.is_backup, web.max_connections) == ({"1.4": 95, "1.5": 5}, True, 50)
    assert web.slow_start == Seconds(20.0)
    assert web.timeouts == Timeouts(queue=Seconds(2.0), tunnel=Seconds(28_800.0))
    assert web.rate_limit == RateLimit(100, Seconds(10.0))
    assert (web.allow, web.deny) == (("10.0.0.0/8", "::1/128"), ("10.6.6.6/32",))
    assert web.tls == ServerTls(tmp_path / "ca.pem", "web.internal")
    assert web.error_pages == {503: tmp_path / "pages" / "503.html"}
    assert (web.check.http_path, web.check.status, web.check.headers) == ("/health?deep=1", "204", {"Host": "x"})
    assert (web.raw.backend, web.raw.server) == (("one", "# two"), "pool-max-conn 3")
    assert (db.mode, db.binds, db.tls) == ("tcp", (Endpoint("127.0.0.1", 5432),), ServerTls())


def test_a_balancer_with_everything_is_read(tmp_path: Path) -> None:
    balancer = read(
        tmp_path,
        """
[balancer]
bind = ":80"
tls = { bind = [":443", "[::1]:8443"], certificates = "certificates", redirect = true, oldest = "TLSv1.3" }
timeouts = { client = "1m", keep_alive = "2s" }
accept_proxy = true
forwarded_for = false
request_id = true
error_pages = { 429 = "slow.json" }
peers = "10.0.0.1"
raw = { global = "a", defaults = "b", frontend = "c", sections = "frontend x\\n    bind :1" }
""",
    ).balancer
    assert balancer.tls is not None
    assert (balancer.tls.certificates, balancer.tls.redirect) == (tmp_path / "certificates", True)
    assert balancer.tls.binds == (Endpoint("", 443), Endpoint("::1", 8443))
    assert balancer.timeouts == BalancerTimeouts(client=Seconds(60.0), keep_alive=Seconds(2.0))
    assert (balancer.accept_proxy, balancer.forwarded_for, balancer.request_id) == (True, False, True)
    assert balancer.peers == Endpoint("10.0.0.1", 10_000)
    assert (balancer.raw.global_, balancer.raw.sections) == (("a",), ("frontend x", "bind :1"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('route = { host = "a..*" }', "service.web.route.host: wants *, a host name or *.NAME"),
        ('route = { rewrite = "no" }', "service.web.route.rewrite: wants a path such as / or /v2"),
        ("route = { priority = 5000 }", "service.web.route.priority: wants a number from -1000 to 1000"),
        ('split = { "1.4" = 0 }', "service.web.split: leaves nothing to anybody"),
        ('split = { "1 4" = 1 }', "service.web.split.1 4: is no version"),
        ('split = "half"', "service.web.split: wants a table"),
        ('timeouts = { qeue = "1s" }', "service.web.timeouts.qeue: unknown key; did you mean queue?"),
        ('timeouts = { queue = "0s" }', "service.web.timeouts.queue: wants at least 1ms"),
        ("rate_limit = {}", 'service.web.rate_limit: wants { requests = 100, per = "10s" }'),
        ('rate_limit = { requests = 1, per = "2d" }', "service.web.rate_limit.per: wants at most 1d"),
        ('allow = ["10.0.0.1/8"]', "service.web.allow: wants addresses and networks such as 10.0.0.0/8"),
        ("deny = [7]", "service.web.deny: wants addresses and networks"),
        ('tls = { ca = "x", nam = "y" }', "service.web.tls.nam: unknown key; did you mean name?"),
        ('send_proxy = "v3"', "service.web.send_proxy: wants v1 or v2"),
        ('error_pages = { 418 = "x" }', "service.web.error_pages.418: wants a status that HAProxy answers by itself"),
        (
            'check = { http = "/", status = "2xx" }',
            "service.web.check.status: wants a status such as 200",
        ),
        ("check = { status = 200 }", "service.web.check.status: needs a path to ask for"),
        ('check = { http = "/", headers = { "a b" = "c" } }', "service.web.check.headers.a b: is no name of a header"),
        ('raw = { frontend = "x" }', "service.web.raw: an http service has no frontend of its own"),
        ('raw = { backend = "backend x" }', "service.web.raw.backend: begins a section"),
        ('raw = { backend = "a\\u0000b" }', "service.web.raw.backend: holds a control character"),
        ('mode = "udp"', "service.web.mode: wants http or tcp"),
        ('mode = "tcp"', 'service.web.mode: tcp needs an address of its own: service.web.bind = ":5432"'),
        ('mode = "tcp"\nbind = ":1"\nsticky = true', "service.web.sticky: means nothing in mode tcp"),
        ('mode = "tcp"\nbind = ":1"\nbalance = "uri"', "service.web.balance: uri means nothing in mode tcp"),
        ('bind = ":1"', "service.web.bind: is for mode tcp"),
    ],
)
def test_a_wrong_service_is_refused_by_key_and_reason(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"{HEAD}[service.web]\n{line}\n")
    assert words in str(caught.value)
    assert ", line " in str(caught.value)


@pytest.mark.parametrize("word", [*sorted(SECTIONS), "\\tcache", '\\"ring\\"', "mail\\\\ers", "http-'errors'"])
@pytest.mark.parametrize("part", ["global", "defaults", "frontend"])
def test_no_section_begins_in_the_middle_of_another(tmp_path: Path, part: str, word: str) -> None:
    with pytest.raises(ConfigError, match=f"balancer.raw.{part}: begins a section: put whole sections into"):
        read(tmp_path, f'{HEAD}raw = {{ {part} = "option x\\n{word} x" }}\n')


@pytest.mark.parametrize(
    "line", ["cache-use x", "default_backend x", "http-error status 503", "program_x", "# cache x"]
)
def test_a_word_that_only_looks_like_a_section_is_let_through(tmp_path: Path, line: str) -> None:
    assert read(tmp_path, f'{HEAD}raw = {{ frontend = "{line}" }}\n').balancer.raw.frontend == (line,)


def test_every_section_that_the_differ_knows_is_one() -> None:
    assert all(re.fullmatch(SECTION, f"{word} x") for word in SECTIONS - {"crt-store", "log-profile", "traces", "acme"})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tls = {}", 'balancer.tls: wants { bind = ":443", certificates = "certificates/" }'),
        ('tls = { bind = [], certificates = "x" }', 'balancer.tls.bind: wants an address such as ":443"'),
        ('tls = { bind = ":1", certificates = "x", oldest = "SSLv3" }', "balancer.tls.oldest: wants one of TLSv1.0"),
        ('timeouts = { kept_alive = "1s" }', "balancer.timeouts.kept_alive: unknown key; did you mean keep_alive?"),
        ('raw = { frontend = "listen x" }', "balancer.raw.frontend: begins a section: put whole sections into"),
    ],
)
def test_a_wrong_balancer_is_refused_by_key_and_reason(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"{HEAD}{line}\n")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[template.x]\nsource = "a"\n', 'template.x: wants source = "FILE.j2" and destination = "FILE"'),
        (
            '[template.x]\nsource = "a"\ndestination = "b"\nmode = "rw"\n',
            "template.x.mode: wants rights such as",
        ),
        ('[template.x]\nsource = "a"\ndestination = "b"\ncheck = "a \'"\n', "template.x.check: cannot be parted"),
        ('[template.x]\nsource = "a"\ndestination = "b"\nparts = []\n', "template.x.parts: wants a list such as"),
        (
            '[template.x]\nsource = "a"\ndestination = "b"\n[template.y]\nsource = "c"\ndestination = "b"\n',
            "template.y.destination: is template x's already",
        ),
        ("template = 1\n", "template: wants one table for each template"),
    ],
)
def test_a_wrong_template_is_refused_by_key_and_reason(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
