"""Keep files rendered from members: `[template.NAME]`.

One task renders all of them, whenever the members or a template's own file changed; a text that is the same is left
alone. A new one is checked beside its destination, moved into its place in one step, and then the reload command runs.
Whatever goes wrong is journalled with the program's words, the last good file stays, and the other templates go on.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rumor.agent.debounce import Debounce
from rumor.atomic_file import write_atomically
from rumor.config import Config
from rumor.config.templates import EVERY_PART, TemplateConfig
from rumor.errors import Refused, RumorError
from rumor.log import get_logger
from rumor.model import Instant, Record, Seconds, WallTime
from rumor.render.file import Picture, render_file
from rumor.render.publish import run_bounded

log = get_logger("template")

_CHECK_DEADLINE = Seconds(10.0)
_RELOAD_DEADLINE = Seconds(30.0)
_LOOK_INTERVAL = 5.0
"""How often the templates themselves are looked at, and what failed is tried again."""
_SOURCE_LIMIT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class TemplateState:
    """What became of one template."""

    name: str
    destination: Path
    written_at: WallTime | None = None
    error: str = ""
    """What speaks against its newest text, or its reload; empty if all is well."""


class Templates:
    """Owns the files that this node renders."""

    def __init__(
        self,
        config: Callable[[], Config],
        parts: Sequence[str],
        *,
        picture: Callable[[], Picture | None],
        journal: Callable[[Record], Awaitable[None]],
        owed: Path,
    ) -> None:
        """Prepare.

        Args:
            config: returns the configuration as it is now.
            parts: what this node plays.
            picture: what its templates see; None as long as it has not met anybody.
            journal: keeps a record.
            owed: the file in which reloads that have yet to succeed outlive this agent.
        """
        self._config = config
        self._parts = parts
        self._picture = picture
        self._journal = journal
        self._changed = asyncio.Event()
        self._debounce = Debounce()
        self._states: dict[str, TemplateState] = {}
        self._owed_file = owed
        self._owed = set((_read_if_there(owed) or "").split())
        """Templates whose file is in its place, or about to be, and whose reload has not succeeded yet."""

    @property
    def states(self) -> tuple[TemplateState, ...]:
        return tuple(self._states[template.name] for template in self._mine() if template.name in self._states)

    def wake(self) -> None:
        """Render soon: the members changed."""
        self._changed.set()

    async def run(self) -> None:
        """Keep the files rendered, until cancelled."""
        while True:
            self._changed.clear()
            picture = self._picture()
            if picture is not None:
                for template in self._mine():
                    await self._keep(template, picture)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_INTERVAL):
                    await self._changed.wait()
                await asyncio.sleep(self._debounce.pause(Instant(time.monotonic())))

    def _mine(self) -> list[TemplateConfig]:
        return [
            template
            for template in self._config().templates
            if EVERY_PART in template.parts or set(template.parts) & set(self._parts)
        ]

    async def _keep(self, template: TemplateConfig, picture: Picture) -> None:
        """Bring one file up to date; never raises."""
        old = self._states.get(template.name, TemplateState(template.name, template.destination))
        try:
            is_new = await self._write(template, picture)
            if template.name in self._owed:
                await self._reload(template)
        except (RumorError, OSError) as error:
            words = str(error)
            if words != old.error:
                log.error("template_refused", template=template.name, words=words)
                await self._record("template_refused", template, f"template {template.name} is not used", words)
            self._states[template.name] = TemplateState(template.name, template.destination, old.written_at, words)
            return
        at = WallTime(time.time()) if is_new else old.written_at
        self._states[template.name] = TemplateState(template.name, template.destination, at)
        if is_new:
            log.info("template_written", template=template.name, destination=template.destination)
            await self._record("template_written", template, f"{template.destination} is rendered anew", "")

    async def _write(self, template: TemplateConfig, picture: Picture) -> bool:
        """Replace the file if its text is another; say whether it was.

        Raises:
            Refused: the template is broken, or the check speaks against its text.
            OSError: the file cannot be read or written.
        """
        source = await asyncio.to_thread(read_source, template.source)
        text = render_file(str(template.source), source, picture)
        if await asyncio.to_thread(_read_if_there, template.destination) == text:
            return False
        if template.check:
            await self._check(template, text)
        # Noted first: whoever dies between the two reloads once too often, and not once too seldom.
        await self._owe(self._owed | {template.name})
        await asyncio.to_thread(
            write_atomically, template.destination, text, mode=template.mode, survives_power_cut=True
        )
        return True

    async def _owe(self, names: set[str]) -> None:
        await asyncio.to_thread(
            write_atomically, self._owed_file, "".join(f"{name}\n" for name in sorted(names)), survives_power_cut=True
        )
        self._owed = names

    async def _check(self, template: TemplateConfig, text: str) -> None:
        # Beside the destination, where what the text names relatively is found, too.
        candidate = template.destination.with_name(f".{template.destination.name}.candidate")
        await asyncio.to_thread(write_atomically, candidate, text, mode=template.mode)
        try:
            words = await _run(template.check, candidate, _CHECK_DEADLINE)
        finally:
            await asyncio.to_thread(candidate.unlink, missing_ok=True)
        if words:
            raise Refused(words)

    async def _reload(self, template: TemplateConfig) -> None:
        words = await _run(template.reload, template.destination, _RELOAD_DEADLINE) if template.reload else ""
        if words:
            raise Refused(words)
        await self._owe(self._owed - {template.name})

    async def _record(self, kind: str, template: TemplateConfig, text: str, cause: str) -> None:
        await self._journal(Record(WallTime(time.time()), kind, template.name, text, cause))


def read_source(path: Path) -> str:
    """Return a template's text.

    Raises:
        Refused: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_SOURCE_LIMIT + 1)
        if len(content) > _SOURCE_LIMIT:
            raise Refused(f"template {path} is larger than {_SOURCE_LIMIT} bytes")
        return content.decode("utf-8")
    except OSError as error:
        raise Refused(f"cannot read the template {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Refused(f"the template {path} is not UTF-8 text") from error


def _read_if_there(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None


async def _run(command: Sequence[str], file: Path, deadline: Seconds) -> str:
    """Run a command without a shell; return what speaks against the file, empty if the command succeeded."""
    words = [word.replace("{file}", str(file)) for word in command]
    try:
        async with asyncio.timeout(deadline):
            status, output = await run_bounded(*words)
    except TimeoutError:
        return f"{command[0]} did not end within {deadline:g} s"
    except OSError as error:
        return f"{command[0]} cannot be run: {error.strerror}"
    if status == 0:
        return ""
    said = output.decode("utf-8", "replace").strip().replace(str(file), os.path.basename(file))
    return f"{command[0]} ended with status {status}: {said}" if said else f"{command[0]} ended with status {status}"
