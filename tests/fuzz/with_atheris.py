"""Fuzz one decoder, guided by coverage: `python tests/fuzz/with_atheris.py TARGET [libFuzzer's options]`.

Without a target it prints their names.
"""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["rumor"]):
    from tests.fuzz import seeds
    from tests.fuzz.targets import TARGETS


def main() -> None:
    if len(sys.argv) < 2:
        print(*TARGETS)
        return
    if sys.argv[1] not in TARGETS:
        sys.exit(f"no decoder {sys.argv[1]}: say one of {', '.join(TARGETS)}")
    target = TARGETS[sys.argv[1]]
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(seeds.everything()):
            (Path(corpus) / str(number)).write_bytes(data)
        # The fuzzer ends the process itself, so that the directory is left to it.
        atheris.Setup([sys.argv[0], "-max_len=4096", "-timeout=10", *sys.argv[2:], corpus], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
