"""The command line, from the words that were typed to an exit code. Importing it imports nothing heavy."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer

from medfuse.cli.networks import (
    distil,
    evaluate,
    export,
    features,
    import_bundle,
    import_nnssl,
    import_nnunet,
    infer,
    info,
    push,
    quantize,
    rank,
    series,
    status,
    view,
    work,
)
from medfuse.cli.pipelines import cache, check, compare, doctor, init, probe, run, schema, search, taps
from medfuse.cli.plugins import plugins_app
from medfuse.cli.results import print_problems, printed
from medfuse.cli.service import serve
from medfuse.cli.words import Verbs

app = typer.Typer(
    name="medfuse",
    cls=Verbs,
    help="Medical image segmentation from one YAML file, every part of it a plugin.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    run,
    check,
    init,
    doctor,
    probe,
    taps,
    infer,
    work,
    status,
    serve,
    import_nnunet,
    import_nnssl,
    import_bundle,
    info,
    export,
    quantize,
    distil,
    push,
    features,
    rank,
    evaluate,
    view,
    series,
    compare,
    search,
    cache,
    schema,
):
    app.command(verb.__name__.replace("_", "-"))(printed(verb))
app.add_typer(plugins_app, name="plugins")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"medfuse {version('medfuse')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass


_UsageError: Any = typer.BadParameter.__base__  # of click, which typer brings along or imports


def _tell(error: Any) -> None:
    """A mistake in a command's words as a line; where there are none at all, the help."""
    if type(error).show is not _UsageError.show:
        error.show()
        return
    verb = error.ctx.command_path if error.ctx else "medfuse"
    said = error.format_message().rstrip(".").replace("Value error, ", "")
    line = f"{verb}: {said}; `{verb} -h` tells what it takes"
    print(line, file=sys.stderr)
    print_problems([line], error.exit_code)


def _show_log() -> None:
    """medfuse's own log goes to stderr as plain lines; of other libraries only warnings are of interest."""
    import logging

    class _Stderr(logging.Handler):
        """Asks for sys.stderr at each line: a progress bar stands in for it while it is shown."""

        def emit(self, record: logging.LogRecord) -> None:
            print(self.format(record), file=sys.stderr, flush=True)

    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[_Stderr()])
    quiet = {"-q", "--quiet"} & set(sys.argv)
    logging.getLogger("medfuse").setLevel(logging.WARNING if quiet else logging.INFO)
    chatty = "lightning_fabric.utilities.rank_zero"  # its parent's level is set when it is imported
    logging.getLogger(chatty).setLevel(logging.WARNING)


_STOPPED = "stopped; run the same command again to carry on"
_UNPRINTED = "what was to be printed could not be written; see where the output of this command goes"


def main() -> NoReturn:
    """Run the command line: a user's mistake is a line on stderr and exit code 2; Ctrl-C 130, SIGTERM 143."""
    from medfuse.core import terminal
    from medfuse.core.offline import stay_offline

    code = 0
    terminal.stand_in_for_closed_streams()
    terminal.write_in_any_code_page()
    terminal.end_when_told()
    _show_log()
    stay_offline()
    try:
        terminal.refuse_to_start_nowhere()
        code = app(standalone_mode=False) or 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        if stranger := terminal.stranger_that_ended(ended):
            line = f"{stranger} ended the process ({ended}); mend or uninstall it"
            print(line, file=sys.stderr)
            print_problems([line], 2)
            code = 2
    except BrokenPipeError:  # who reads the output, such as `head`, has seen enough
        code = 1
    except _UsageError as error:
        code = error.exit_code
        _tell(error)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        from medfuse.core.errors import MedfuseError
        from medfuse.core.files import is_full

        full = isinstance(error, OSError) and error.filename is None and is_full(error)
        known = isinstance(error, MedfuseError)
        if not (known or full or terminal.was_told_to_end()):
            print_problems([f"{type(error).__name__}: {error}; a fault of medfuse itself"], 1)
            raise
        lines = error.lines if isinstance(error, MedfuseError) else (str(error),)
        with suppress(OSError):
            print(f"medfuse: {_UNPRINTED} ({error})" if full else error, file=sys.stderr)
            print_problems(lines, 2, error.values if isinstance(error, MedfuseError) else None)
        code = 2
    if terminal.was_told_to_end():
        code = terminal.TERMINATED
    stopped = code in (130, terminal.TERMINATED)
    if stopped and "RANK" not in os.environ:  # typer turns Ctrl-C into this code, silently
        print(f"\nmedfuse: {_STOPPED}", file=sys.stderr)
        with suppress(OSError):
            print_problems([_STOPPED], code)
    if (unprinted := terminal.flush()) and code != 1:
        with suppress(OSError):
            print(f"medfuse: {_UNPRINTED} ({unprinted})", file=sys.stderr)
        code = code or 2
    if stopped:
        os._exit(code)  # loader processes and threads may still be busy; nothing of theirs is wanted
    gc.freeze()  # or Python's last collections walk all of torch and MONAI once more
    sys.exit(code)
