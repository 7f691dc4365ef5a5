"""Jinja2 as rumor uses it everywhere: in its sandbox, with undefined names as errors that say where."""

from collections.abc import Callable, Mapping
from functools import lru_cache

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


@lru_cache(maxsize=16)
def _compiled(source: str, filters: Filters) -> Template:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False, auto_reload=False, cache_size=0
    )
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
