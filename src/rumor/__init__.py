"""rumor: your servers tell the load balancer about themselves."""

__version__ = "0.1.0"
