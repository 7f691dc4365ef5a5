"""rumor.toml + environment + flags -> one frozen `Config`.

Read by `cli`, `local` and `agent` alone: each part of rumor is handed its own small settings and never meets the whole.
"""

from rumor.config.programs import ProcessConfig, ProgramConfig
from rumor.config.rumor_toml import (
    DISCOVER_NAME,
    GOSSIP_PORT,
    RPC_PORT,
    ApiConfig,
    BalancerConfig,
    ClusterConfig,
    Config,
    SerfConfig,
    TlsConfig,
    load,
)
from rumor.config.services import Check, ServiceConfig
from rumor.config.values import parse_duration

__all__ = [
    "DISCOVER_NAME",
    "GOSSIP_PORT",
    "RPC_PORT",
    "ApiConfig",
    "BalancerConfig",
    "Check",
    "ClusterConfig",
    "Config",
    "ProcessConfig",
    "ProgramConfig",
    "SerfConfig",
    "ServiceConfig",
    "TlsConfig",
    "load",
    "parse_duration",
]
