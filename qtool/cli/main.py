"""The `qtool` command: finds a subcommand, runs it, and turns errors into one line and a code."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from qtool import __version__
from qtool.cli import SIGNALLED
from qtool.errors import QtoolError, UsageError

COMMANDS = {  # the command `name` is the function `name` in qtool/cli/<name>.py
    "freeze": "Turn a training or checkpoint graph into an inference graph.",
    "calibrate": "Run sample data and add the statistics of every tensor.",
    "merge": "Join the statistics of shards.",
    "quantize": "Quantize weights and activations to integers.",
    "prune": "Make weights zero, and let the others make up for them.",
    "cluster": "Let weights share few values, so that packing makes them small.",
    "compress": "Make the smallest packed model inside an accuracy or size budget.",
    "pack": "Save a model with the smallest codecs, losslessly.",
    "unpack": "Save a packed model plain again.",
    "tune": "Find the smallest or fastest model inside an accuracy budget.",
    "evaluate": "Measure accuracy on labelled data, against a reference.",
    "run": "Run a model on samples; write outputs or print best classes.",
    "verify": "Compare the native runtime with onnxruntime, layer by layer.",
    "bench": "Time the native runtime beside onnxruntime.",
    "inspect": "Show what is in a model.",
    "report": "Write one HTML page: size, accuracy, error of each layer.",
}

CLOSED_PIPE = 141  # what a shell reports for a program that SIGPIPE ended


class Commands(click.Group):
    """Imports a command's module only when that command runs, so that --help is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of a usual pipeline."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command, importing its module."""
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"qtool.cli.{name}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name, or fail with the closest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from qtool.registry import unknown

            raise unknown(args[0], COMMANDS, "command")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands to the help page without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Return the commands that start with what is typed, without importing them."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(n, help=h) for n, h in COMMANDS.items() if n.startswith(incomplete)]
        return names or click.Command.shell_complete(self, ctx, incomplete)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str = "qtool", **extra: Any
    ) -> NoReturn:
        """Run the command line; every way in which it can end gets its exit code."""
        typed = list(sys.argv[1:] if args is None else args)
        self._main_shell_completion(extra, prog_name)
        try:
            check_typed(typed)
            with self.make_context(prog_name, typed, **extra) as ctx:
                self.invoke(ctx)
            if sys.stdout is not None:  # closed, as by >&-
                sys.stdout.flush()
            code = 0
        except click.exceptions.Exit as asked:
            code = asked.exit_code
        except QtoolError as error:
            code = fail(str(error), error.exit_code)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            code = error.exit_code
        except click.ClickException as error:
            code = fail(advice(error), error.exit_code)
        except (KeyboardInterrupt, click.Abort) as error:
            signum = error.args[0] if error.args else signal.SIGINT
            left = error.args[1] if len(error.args) > 1 else "nothing was written"
            code = fail(f"interrupted; {left}", SIGNALLED + signum)
        except MemoryError:
            code = fail("out of memory; give the job more memory or a smaller model", 1)
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            discard_output()
            code = CLOSED_PIPE
        except OSError as error:  # a full disk behind standard output, say
            where = f"{error.filename}: " if error.filename else "cannot write: "
            code = fail(f"{where}{error.strerror or error}", 1)
        sys.exit(code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qtool")
def qtool() -> None:
    """Make trained ONNX models smaller and faster, and prove that they still work.

    \b
    qtool quantize --input model.onnx --data samples/ --output q.onnx
    qtool evaluate --input q.onnx --reference model.onnx --data labelled.npz --max-drop 1.0

    Each command explains itself: qtool COMMAND --help.
    """


def check_typed(typed: Sequence[str]) -> None:
    """Fail where a value is empty: it is a shell variable that nobody set."""
    for before, word in zip(["qtool", *typed], typed, strict=False):
        if not word or re.fullmatch("--[a-z-]+=", word):
            place = word.rstrip("=") or before
            raise UsageError(f"what follows {place} is empty; is a shell variable not set?")


def fail(message: str, code: int) -> int:
    """Print the message as one line on stderr and return the exit code."""
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return code


def advice(error: click.ClickException) -> str:
    """Return what click found wrong with what was typed, and where to read on."""
    message = error.format_message().replace("is not a valid integer", "is not a whole number")
    message = message.replace("a valid float", "a number").replace("number range", "number")
    context = getattr(error, "ctx", None)
    next_step = f"; see {context.command_path} --help" if context else ""
    return message[:1].lower() + message[1:].rstrip(".") + next_step


def discard_output() -> None:
    """Let the interpreter flush its buffers into nothing when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
