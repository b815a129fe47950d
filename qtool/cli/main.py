"""The `qtool` command: finds a subcommand, runs it, and turns errors into one line and a code."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from qtool import __version__
from qtool.errors import QtoolError

COMMANDS = {  # the command `name` is the function `name` in qtool/cli/<name>.py
    "freeze": "Turn a training or checkpoint graph into an inference graph.",
    "calibrate": "Run sample data and add the statistics of every tensor.",
    "merge": "Join the statistics of shards.",
    "quantize": "Quantize weights and activations to integers.",
    "evaluate": "Measure accuracy on labelled data, against a reference.",
    "inspect": "Show what is in a model.",
}


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

            ctx.fail(str(unknown(args[0], COMMANDS, "command")))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands to the help page without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qtool")
def qtool() -> None:
    """Make trained ONNX models smaller and faster, and prove that they still work.

    \b
    qtool quantize --input model.onnx --data samples/ --output q.onnx
    qtool evaluate --input q.onnx --reference model.onnx --data labelled.npz --max-drop 1.0
    """


def main() -> None:
    """Run the command line; never returns."""
    try:
        code = qtool(standalone_mode=False) or 0
        sys.stdout.flush()
    except QtoolError as error:
        code = fail(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = fail("interrupted; nothing was written", 130)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except MemoryError:
        code = fail("out of memory; give the job more memory or a smaller model", 1)
    sys.exit(code)


def fail(message: str, code: int) -> int:
    """Print the message as one line on stderr and return the exit code."""
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return code
