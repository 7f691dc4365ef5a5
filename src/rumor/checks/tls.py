"""TLS for checks of apps; imported only where an app speaks it."""

import ssl
from functools import cache


@cache
def context() -> ssl.SSLContext:
    """Return a context that takes any certificate: a check asks whether the app is well, not who it is."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made
