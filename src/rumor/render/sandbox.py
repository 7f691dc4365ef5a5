"""Jinja2 as rumor uses it everywhere: in its sandbox, with undefined names as errors that say where."""

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from functools import cached_property, lru_cache

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rumor.errors import Refused

TEXT_LIMIT = 16 * 1024 * 1024
Filters = tuple[tuple[str, Callable[[object], str]], ...]
_BROKEN = (TemplateError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RuntimeError)


def render_text(name: str, source: str, filters: Filters, values: Mapping[str, object]) -> str:
    """Return what comes out of a template.

    Args:
        name: what errors call it.
        source: the template itself.
        filters: by their names; each returns text, or raises ValueError to refuse a value.
        values: what the template may name.

    Raises:
        Refused: with the template, its line, and what is wrong there: a name that is not known, a value refused.
    """
    try:
        text = _compiled(source, filters).render(values)
    except TemplateSyntaxError as error:
        raise Refused(f"template {name}, line {error.lineno}: {error.message}") from error
    except _BROKEN as error:
        raise Refused(f"template {name}{_line_of(error)}: {error}") from error
    if len(text) > TEXT_LIMIT:
        raise Refused(f"template {name}: more than {TEXT_LIMIT} characters come out of it")
    return text


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, which need not judge over and over what rumor's own values are made of.

    A thousand servers have the same ten attributes, and judging those would be most of what rendering costs.
    """

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False, auto_reload=False, cache_size=0
        )
        self._open: dict[type, frozenset[str]] = {}

    def getattr(self, obj: object, attribute: str) -> object:
        kind = type(obj)
        if kind not in self._open:
            self._open[kind] = _open_attributes(kind)
        if attribute in self._open[kind]:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)


def _open_attributes(kind: type) -> frozenset[str]:
    """Return the fields and properties of rumor's own values, which hold nothing that a template may not see."""
    if not kind.__module__.startswith("rumor."):
        return frozenset()
    if issubclass(kind, Enum):
        return frozenset({"name", "value"})
    if not is_dataclass(kind):
        return frozenset()
    properties = (name for name, found in vars(kind).items() if isinstance(found, property | cached_property))
    return frozenset(name for name in (*kind.__dataclass_fields__, *properties) if not name.startswith("_"))


@lru_cache(maxsize=16)
def _compiled(source: str, filters: Filters) -> Template:
    environment = _Sandbox()
    environment.filters |= dict(filters)
    return environment.from_string(source)


def _line_of(error: BaseException) -> str:
    """Return where in the template a run-time error arose, as far as the traceback knows."""
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}" if line is not None else ""
