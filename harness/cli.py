"""What all commands share: `key=value` arguments, help, and exit codes 0 / 1 / 2.

Exit codes: 0 done; 1 a claim or target failed; 2 bad input (one paragraph on standard error that names the fix).
"""

from __future__ import annotations

import errno
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from harness.engine.signals import Interrupted
from harness.registry import nearest
from workloads.base import BadInput

S = TypeVar("S")

_FULL = (errno.ENOSPC, errno.EDQUOT)
_GO_ON = "what was finished is recorded; run the same command again to go on"


def run(main: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """Call `main(arguments)` and turn BadInput, signals and full disks into messages and exit codes (128 + signal)."""
    try:
        return main(list(sys.argv[1:] if argv is None else argv))
    except BadInput as error:
        print(textwrap.fill(f"error: {error}", width=100, break_long_words=False), file=sys.stderr)
        return 2
    except Interrupted as interruption:
        print(f"{interruption}; {_GO_ON}", file=sys.stderr)
        return interruption.exit_code
    except KeyboardInterrupt:
        print(f"interrupted; {_GO_ON}", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in _FULL:
            raise
        print(f"error: {error.strerror}: free some space; {_GO_ON}", file=sys.stderr)
        return 1


def parse(argv: Sequence[str], schema: type[S]) -> S:
    """`key=value` arguments into the dataclass `schema`, values taken as they are (SQL and paths need no quoting).

    Used by the commands that read records; the commands that build trials go through Hydra (harness.config).
    Dotted keys (`columns.N=params`) fill dict fields; null empties what may be empty. Raises BadInput on unknown keys and wrong
    types.
    """
    config = OmegaConf.structured(schema)
    valid = [f.name for f in fields(schema)]  # type: ignore[arg-type]
    for argument in argv:
        key, equals, value = argument.partition("=")
        if not equals:
            raise BadInput(f"'{argument}' is not of the form key=value. {nearest(argument, valid)}")
        if key.split(".")[0] not in valid:
            raise BadInput(f"unknown argument '{key}'. {nearest(key, valid)}")
        try:
            if value == "null":
                with suppress(ValidationError):
                    OmegaConf.update(config, key, None)
                    continue
            OmegaConf.update(config, key, value)
        except OmegaConfBaseException as error:
            raise BadInput(f"{key}={value}: {str(error).splitlines()[0]}") from None
    return OmegaConf.to_object(config)  # type: ignore[return-value]


def wants_help(argv: Sequence[str]) -> bool:
    return any(argument in ("-h", "--help", "help") for argument in argv)


def help_text(doc: str | None, schema: type[Any], more: str = "") -> str:
    """The module's docstring followed by every argument with its default, and by what `more` says of others."""
    defaults = OmegaConf.structured(schema)
    rows = [f"  {key}={'' if defaults[key] is None else defaults[key]}" for key in map(str, defaults)]
    return "\n".join([(doc or "").strip(), "", "arguments and defaults:", *rows, *([more] if more else [])])
