"""Show an agent to people and programs: one HTTP API, over a UNIX socket on every node and over TCP where asked for."""
