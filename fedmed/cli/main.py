"""``fedmed NAME …``: one command, and what it can be asked for.

Nothing heavy is imported until a command has understood what it was given, so that help, lists and
refusals come at once.
"""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version

from fedmed.core.errors import FedmedError
from fedmed.core.terminal import fail, tolerate

#: What each command is for; its module has the same name.
COMMANDS = {
    "run": "train a federation, go on with a run that was cut off, or launch a grid (-m)",
    "sweep": "how far the runs of a grid are, or hand them to wandb's agents",
    "table": "a table of runs with intervals and tests, or of a paper's figures beside ours",
    "report": "one page of many runs, for a browser without a network",
    "score": "score anyone's predictions as a run's are",
    "audit": "attack a finished run: a lower bound on its ε, membership inference",
    "evaluate": "put a question to finished runs: subgroups, or one of your own",
    "verify": "hold a run against its signed, chained record, and name what does not fit",
    "release": "label counts and the best round of a finished run, under privacy",
    "spent": "what all runs on the same patients have spent of them together",
    "privacy-utility": "what privacy costs: the scores of a sweep against ε",
    "datasets": "which datasets there are, on which terms, and whether a download is whole",
    "partition": "who would have what, without training",
    "hospital": "a hospital's part in a federation: its policy, data, node and budget",
    "server": "start the server of a federation of real hospitals, behind nginx",
    "deploy": "rehearse a federation of real hospitals on this machine",
    "completion": "print what makes a shell complete all of this",
}
USAGE = "usage: fedmed COMMAND …"


def main(argv: Sequence[str] | None = None) -> None:
    """Do what the command line asks for, and exit with the command's status.

    Args:
        argv: what stands after ``fedmed``; None for this process's own.

    Raises:
        SystemExit: with 2 where the command line or what it names is wrong, which is told in one
            line; with 130 after Ctrl-C; else with what the command says.
    """
    tolerate()
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name == "help" and rest:
        name, rest = (rest[0], ["--help"]) if rest[0] in COMMANDS else ("run", ["--help", *rest])
    if name in ("--help", "-h", "help"):
        print(overview())
    elif name == "--version":
        print(f"fedmed {version('fedmed')}")
    elif name in COMMANDS:
        _call(name, rest)
    else:
        near = get_close_matches(name, COMMANDS, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(COMMANDS)}"
        fail(FedmedError(f"{name}: unknown command; {hint}"))


def overview() -> str:
    """Return the text of ``fedmed --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {meaning}" for name, meaning in COMMANDS.items()]
    return "\n".join([USAGE, "", *lines, "", "fedmed COMMAND --help tells what it takes."])


def _call(name: str, rest: Sequence[str]) -> None:
    try:
        sys.exit(import_module(module_of(name)).main(rest))
    except FedmedError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


def module_of(name: str) -> str:
    """Return the module of a command."""
    return f"fedmed.cli.{name.replace('-', '_')}"
