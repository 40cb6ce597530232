"""The command line: `chainrule train | predict | evaluate | demo`."""

from __future__ import annotations

import io
import os
import sys

from ..errors import ChainRuleError, MissingExtraError, ParameterError, require


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 an error, 2 wrong usage, 130 interrupted."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without η shows ?
    try:
        typer = require("typer", "cli", "The command line")
        from .app import app

        try:
            status = app(standalone_mode=False)
        except typer.Abort:
            raise KeyboardInterrupt from None
        sys.exit(status if isinstance(status, int) else 0)
    except ChainRuleError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ParameterError | MissingExtraError) else 1)
    except KeyboardInterrupt:
        print("Stopped. Nothing was written.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (OSError, MemoryError) as error:
        if debug:
            raise
        print(f"error: {error or 'not enough memory'}. Choose another file, or less at once.", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if not hasattr(error, "exit_code") or not hasattr(error, "format_message"):
            raise
        if message := error.format_message():
            print(f"error: {message} Try chainrule --help.", file=sys.stderr)  # wrong usage
        sys.exit(error.exit_code)
