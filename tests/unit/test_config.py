"""rumor.toml, environment and flags become one configuration, or an error that says where and what."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import pytest

from rumor.config import Config, load, parse_duration
from rumor.errors import ConfigError
from rumor.host.plan import SECRETS
from rumor.names import Endpoint
from rumor.render.settings import Route
from rumor.supervise.notify import FD_VARIABLE

GOOD = """\
[cluster]
name = "shop"
join = ["balancer", "10.0.0.7:7000"]

[balancer]
bind  = ":8080"
stats = "127.0.0.1:1936"

[service.web]
command  = "python -m webapp --port {port}"
port     = 3000
replicas = 3
check    = { http = "/health", interval = "500ms", timeout = "300ms", rise = 1, fall = 3 }
drain    = "7s"
balance  = "roundrobin"
sticky   = true
route    = [{ host = "Shop.example", path = "/app/" }, { path = "/shop" }]

[service.api]
port  = 4000
route = { path = "/api" }
"""


def read(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None, **flags: object) -> Config:
    file = tmp_path / "rumor.toml"
    file.write_text(text)
    overrides = {tuple(key.split("__")): value for key, value in flags.items()}
    return load(file, environ=environ or {}, overrides=overrides)


def refusal(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, environ)
    return str(caught.value).replace(str(tmp_path / "rumor.toml"), "FILE")


def test_everything_is_read_into_its_type(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD)
    web = config.service("web")
    assert config.cluster.join == (Endpoint("balancer", 7946), Endpoint("10.0.0.7", 7000))
    assert config.balancer.binds == (Endpoint("", 8080),)
    assert (web.port, web.replicas, web.drain, web.balance, web.sticky) == (3000, 3, 7.0, "roundrobin", True)
    assert (web.check.http_path, web.check.interval, web.check.timeout) == ("/health", 0.5, 0.3)
    assert web.routes == (Route("shop.example", "/app"), Route("*", "/shop"))
    assert [service.name for service in config.services] == ["api", "web"]


def test_no_file_is_an_empty_configuration() -> None:
    assert load(None, environ={}) == Config()


def test_the_sample_that_init_writes_is_valid(tmp_path: Path) -> None:
    text = resources.files("rumor.cli").joinpath("sample.toml").read_text()
    assert read(tmp_path, text).service("web").replicas == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("drain ", "drian ", "FILE, line 14: service.web.drian: unknown key; did you mean drain?"),
        ("[cluster]", "[clutser]", "FILE, line 1: clutser: unknown key; did you mean cluster?"),
        ("3000", '"3000"', "FILE, line 11: service.web.port: wants a whole number, and this is text"),
        ("3000", "70000", "FILE, line 11: service.web.port: wants a number from 0 to 65535, and this is 70000"),
        ("true", '"yes"', "FILE, line 16: service.web.sticky: wants true or false, and this is text"),
        ("rise = 1", "rise = 0", "FILE, line 13: service.web.check.rise: wants a number from 1 to 100, and this is 0"),
        (
            '"500ms"',
            '"soon"',
            "FILE, line 13: service.web.check.interval: wants a length of time such as 500ms, 1s or 2m",
        ),
        ('"/health"', '"health"', "FILE, line 13: service.web.check.http: wants a path such as /health"),
        ('"/health"', '"/a b"', "FILE, line 13: service.web.check.http: wants a path such as /health"),
        ("rise = 1", "raise = 1", "FILE, line 13: service.web.check.raise: unknown key; did you mean rise?"),
        ('"roundrobin"', '"best"', "FILE, line 15: service.web.balance: wants one of roundrobin, leastconn"),
        (":1936", ":99999", "FILE, line 7: balancer.stats: port '99999' is refused"),
        ('":8080"', "8080", "FILE, line 6: balancer.bind: wants an address such as 127.0.0.1:8080"),
        ("Shop.example", "shop example", "FILE, line 17: service.web.route.host: wants *, a host name or *.NAME"),
        ('"shop"', '"shop\\u0000"', "FILE, line 2: cluster.name: holds a control character"),
        ("[service.api]", '[service."a/b"]', "FILE, line 19: service.a/b: service name 'a/b' is refused"),
        ("[service.api]", "[service.rumor_x]", "FILE, line 19: service.rumor_x: names that begin with rumor"),
        ('"/api"', '"/shop"', "FILE, line 17: service.web.route: */shop is service api's already"),
        ('name = "shop"', 'key = "c2VjcmV0"', "FILE, line 2: cluster.key: an encryption key has 16, 24 or 32 bytes"),
        ("[balancer]", "[balancer]\nmaxconn = 0", "FILE, line 6: balancer.maxconn: wants a number from 1"),
    ],
)
def test_an_error_names_key_file_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    assert refusal(tmp_path, GOOD.replace(old, new, 1)).startswith(message)


def test_text_that_is_not_toml_names_the_line(tmp_path: Path) -> None:
    assert "line 2" in refusal(tmp_path, "[cluster]\nname = \n")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file"):
        load(tmp_path / "nowhere.toml", environ={})


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    environ = {"RUMOR_SERVICE_WEB_PORT": "3100", "RUMOR_CLUSTER_PRESET": "wan", "RUMOR_CLUSTER_NAME": "other"}
    config = read(tmp_path, GOOD, environ, service__web__port=3200)
    assert (config.service("web").port, config.cluster.preset, config.cluster.name) == (3200, "wan", "other")
    assert read(tmp_path, GOOD, environ).service("web").port == 3100


def test_an_error_from_the_environment_names_the_variable(tmp_path: Path) -> None:
    message = refusal(tmp_path, GOOD, {"RUMOR_SERVICE_WEB_PORT": "many"})
    assert message.startswith("the environment variable RUMOR_SERVICE_WEB_PORT: service.web.port: wants a whole number")


def test_a_secret_comes_from_the_environment_and_is_never_shown(tmp_path: Path) -> None:
    text = GOOD + '[api]\nbind = "127.0.0.1:8400"\ntoken = "env:SHOP_TOKEN"\n'
    config = read(tmp_path, text, {"SHOP_TOKEN": "hunter2"})
    assert config.api.token == "hunter2"
    assert "hunter2" not in repr(config)
    assert "api.token: the environment variable SHOP_TOKEN is not set" in refusal(tmp_path, text)


def test_an_open_api_without_a_token_is_refused(tmp_path: Path) -> None:
    assert "api.bind: the API over TCP needs a token" in refusal(tmp_path, '[api]\nbind = "127.0.0.1:8400"\n')


def test_what_is_not_acted_on_yet_is_a_warning(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD + "scale = { min = 2, max = 4 }\n")
    assert ["service.api.scale: read, but not acted on yet" in warning for warning in config.warnings] == [True]


def test_an_unknown_service_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \[service.wbe\] .*known: api, web"):
        read(tmp_path, GOOD).service("wbe")


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("1.5s", 1.5), ("2m", 120.0), ("1h", 3600.0), (3, 3.0)])
def test_lengths_of_time(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 s", "1w", "1s2s", True, -1, float("nan"), float("inf")])
def test_lengths_of_time_that_are_none(text: str | float) -> None:
    with pytest.raises(ValueError, match="a length of time"):
        parse_duration(text)


def test_what_images_are_told_by_short_variables(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("AAECAwQFBgcICQoLDA0ODw==\n")
    environ = {"RUMOR_JOIN": "lb, 10.0.0.7:7000", "RUMOR_TAGS": "dc=a,rack=", "RUMOR_KEY_FILE": str(secret)}
    config = load(None, environ=environ)
    assert [str(one) for one in config.cluster.join] == ["lb:7946", "10.0.0.7:7000"]
    assert config.serf.tags == {"dc": "a", "rack": ""}
    assert config.cluster.key == bytes(range(16))
    assert load(None, environ={"RUMOR_KEY": "AAECAwQFBgcICQoLDA0ODw=="}).cluster.key == config.cluster.key
    with pytest.raises(ConfigError, match=r"RUMOR_KEY_FILE.*cannot read the secret"):
        load(None, environ={"RUMOR_KEY_FILE": str(tmp_path / "nowhere")})


def test_tags_of_the_environment_are_more_tags(tmp_path: Path) -> None:
    text = '[serf]\ntags = { dc = "a", rack = "1" }\n'
    assert read(tmp_path, text, {"RUMOR_TAGS": "rack=7,zone=b"}).serf.tags == {"dc": "a", "rack": "7", "zone": "b"}
    assert read(tmp_path, text, {"RUMOR_TAGS": ""}).serf.tags == {"dc": "a", "rack": "1"}


@pytest.mark.parametrize("text", ["dc=a,rack", "=a"])
def test_a_tag_without_a_value_or_a_name_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="RUMOR_TAGS: wants NAME=VALUE, with commas, and this is"):
        load(None, environ={"RUMOR_TAGS": text})


def test_an_empty_variable_for_the_key_means_no_key() -> None:
    assert load(None, environ={"RUMOR_KEY_FILE": "", "RUMOR_KEY": ""}).cluster.key is None
    key = {"RUMOR_KEY": "AAECAwQFBgcICQoLDA0ODw==", "RUMOR_KEY_FILE": ""}
    assert load(None, environ=key).cluster.key == bytes(range(16))


def test_text_from_the_environment_is_text_whatever_it_looks_like(tmp_path: Path) -> None:
    environ = {"RUMOR_SERVICE_WEB_COMMAND": "true", "RUMOR_SERVICE_WEB_VERSION": "1.10", "RUMOR_CLUSTER_NAME": '"shop"'}
    config = read(tmp_path, GOOD, environ)
    assert (config.service("web").command, config.service("web").version) == ("true", "1.10")
    assert config.cluster.name == "shop", "TOML's own quotes are still understood"
    with pytest.raises(ConfigError, match=r"service.web.sticky: wants true or false, and this is a number"):
        read(tmp_path, GOOD, {"RUMOR_SERVICE_WEB_STICKY": "1"})


def test_a_variable_that_nobody_reads_is_told_of(tmp_path: Path) -> None:
    environ = {"RUMOR_CLUSTR_PRESET": "lan", "RUMOR_SERVICE_WEB_PROT": "1", "RUMOR_ROLE": "web", "PATH": "/bin"}
    assert read(tmp_path, GOOD, environ).warnings == (
        "the environment variable RUMOR_CLUSTR_PRESET: nobody reads it; did you mean RUMOR_CLUSTER_PRESET?",
        "the environment variable RUMOR_SERVICE_WEB_PROT: nobody reads it; did you mean RUMOR_SERVICE_WEB_PORT?",
    )
    own = {FD_VARIABLE: "3", **dict.fromkeys(SECRETS, "AAECAwQFBgcICQoLDA0ODw==")}
    assert read(tmp_path, GOOD, own).warnings == (), "what rumor itself gives its programs"
    text = GOOD + '[api]\nbind = ":1"\ntoken = "env:RUMOR_OF_OURS"\n'
    assert read(tmp_path, text, {"RUMOR_OF_OURS": "secret"}).warnings == (), "a secret that rumor.toml names"


def test_a_variable_for_a_service_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for variable in ("RUMOR_SERVICE_SHOP_PORT", "RUMOR_SERVICE_SHOP_MAX_CONNECTIONS"):
        assert refusal(tmp_path, GOOD, {variable: "1"}) == (
            f"the environment variable {variable}: there is no [service.shop] in FILE (known: web, api)"
        )
    # What Kubernetes sets for a service of its own called rumor.
    strangers = {"RUMOR_SERVICE_HOST": "10.0.0.1", "RUMOR_SERVICE_PORT": "80", "RUMOR_PORT_80_TCP_PORT": "80"}
    assert len(read(tmp_path, GOOD, strangers).warnings) == 3
