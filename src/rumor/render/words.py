"""Values as words of a configuration file: printed if nothing in them can end a word or a statement, refused otherwise.

Facts: reference/haproxy.md, section 9.
"""

import math
import re

# No quote, backslash, `$`, `#`, space or control character: HAProxy gives each of them a meaning, others to some.
_WORD = re.compile(r"[A-Za-z0-9_./:~%?&=+,@!*()-]+", re.ASCII)


def is_word(text: str) -> bool:
    return _WORD.fullmatch(text) is not None


def word(value: object) -> str:
    """Print a value as one plain word.

    Raises:
        ValueError: it is none.
    """
    text = str(value)
    if not is_word(text):
        raise ValueError(f"{text[:80]!a} is no plain word: use letters, digits and . _ / : - and the like")
    return text


def duration(seconds: object) -> str:
    """Print a length of time in whole milliseconds, HAProxy's finest unit here.

    Raises:
        ValueError: it is none.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ValueError(f"{seconds!r} is no length of time")
    return f"{max(1, math.ceil(seconds * 1000))}ms"
