"""``refsam3d``: finds the command, and turns every way to end into an exit code."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from .. import __version__
from ..errors import Cancelled, RefSAM3DError
from .input_end import stopped_with_stdin
from .streams import tolerant_streams

#: Modules of this package with ``NAME``, ``HELP``, ``add_arguments(parser)`` and ``run(args) -> int``, in the order of the help.
COMMANDS = ("segment", "batch", "review", "compare", "demo", "vocabulary", "models", "inflate", "doctor")
USER_ERROR, USAGE, CANCELLED = 1, 2, 130
#: Set it to see tracebacks and log lines.
DEBUG_VARIABLE = "REFSAM3D_DEBUG"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 user error (one sentence on stderr), 2 usage, 130 cancelled."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with tolerant_streams():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    debug = bool(os.environ.get(DEBUG_VARIABLE))
    logging.basicConfig(level=logging.DEBUG if debug else logging.ERROR, format="%(name)s: %(message)s")
    try:
        with stopped_with_stdin(CANCELLED):
            args = build_parser(arguments).parse_args(arguments)
            code = int(args.run(args))
            sys.stdout.flush()  # a full disk must show here, not in the interpreter's last breath
            return code
    except SystemExit as stop:  # argparse: 0 after --help, 2 after a mistake
        return stop.code if isinstance(stop.code, int) else USAGE
    except (KeyboardInterrupt, Cancelled) as stop:
        return _say(f"Cancelled. {stop}".rstrip(), CANCELLED)
    except RefSAM3DError as error:
        return _say(str(error), USER_ERROR)
    except ModuleNotFoundError as error:
        from .doctor import package_of

        return _say(f"The package '{package_of(error.name or '')}' is missing; install it with pip (refsam3d doctor lists all).", USER_ERROR)
    except MemoryError:
        return _say("The memory is not enough; close other programs, or give a region with --roi.", USER_ERROR)
    except Exception as error:
        if debug:
            traceback.print_exc()
        kind, text = type(error).__name__, " ".join(str(error).split())[:300]
        return _say(f"Unexpected error ({kind}: {text}); please report it with the output of 'refsam3d doctor'.", USER_ERROR)


def build_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for these arguments: with the named command alone, or with all of them for the help."""
    parser = argparse.ArgumentParser(
        prog="refsam3d",
        description="Segment 3D medical images by typing what to look for. Not for diagnosis.",
        epilog="'refsam3d COMMAND --help' explains a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"refsam3d {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    named = next((word for word in arguments if not word.startswith("-")), "")
    for name in (named,) if named in COMMANDS else COMMANDS:
        module = _load(name)
        command = commands.add_parser(module.NAME, help=module.HELP, description=module.HELP[0].upper() + module.HELP[1:] + ".")
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _load(name: str) -> ModuleType:
    return importlib.import_module(f".{name}", __package__)


def _say(sentence: str, code: int) -> int:
    """One line on stderr, which may be closed too."""
    try:
        sys.stderr.write(sentence + "\n")
        sys.stderr.flush()
    except OSError:
        logging.getLogger(__name__).debug("stderr is closed")
    return code
