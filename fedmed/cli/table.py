"""Make a table of runs: a figure with its errors in each cell, and what each was made of.

fedmed table runs                     # a row a strategy
fedmed table runs --rows strategy --columns partition.alpha --baseline strategy=fedavg
fedmed table runs --table strategies --out tables/strategies
fedmed table paper=flamby_heart runs

Keys are a group (strategy), a key of the configuration (partition.alpha) or of summary.json
(test.macro_auroc, test.auroc.Effusion, privacy.epsilon); audit.epsilon is the audited lower bound.
--rows strategy=fedavg,fedprox gives the values that are expected. --out writes Markdown, LaTeX, CSV
and STEM.cells.csv, which traces each cell to its runs and their hashes. paper=NAME compares the
runs of fedmed run -m +paper=NAME, in DIR or runs, with what was published.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed.cli.arguments import new_parser
from fedmed.core.errors import ConfigError

if TYPE_CHECKING:
    from fedmed.report.table import Settings, Table

SELECT = ("last", "best-validation", "oracle")
TESTS = ("bootstrap", "delong")


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("table", __doc__)
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="DIR", help="runs, their folder, or paper=NAME"
    )
    parser.add_argument("--table", metavar="NAME", help="settings of conf/table; options go first")
    for name in ("rows", "columns", "value"):
        parser.add_argument(f"--{name}", nargs="+", metavar="KEY")
    parser.add_argument("--where", nargs="+", metavar="KEY=VALUE", help="only these runs")
    parser.add_argument("--baseline", nargs="+", metavar="KEY=VALUE", help="test against it")
    parser.add_argument("--select", choices=SELECT, help="which round: the last")
    parser.add_argument("--test", choices=TESTS, help="the paired test: bootstrap")
    parser.add_argument("--out", type=Path, metavar="STEM", help="write files of this name")
    parser.add_argument("--wandb", choices=("offline", "online"), help="log it as a wandb Table")
    parser.add_argument("--project", default="fedmed", help="of wandb")
    return parser


def main(argv: Sequence[str]) -> None:
    """Print the table, and write it where that is asked for."""
    arguments = parser().parse_args(argv)
    if papers := [str(f) for f in arguments.folders if str(f).startswith("paper=")]:
        print(_paper(papers, arguments))
        return
    from fedmed.report.render import markdown, write
    from fedmed.report.table import build
    from fedmed.runs.run import find

    table = build(find(arguments.folders), _settings(arguments))
    written = write(table, arguments.out) if arguments.out else []
    print(markdown(table))
    if written:
        print("wrote", *written)
    if arguments.wandb:
        _log(table, arguments)


def _paper(papers: list[str], arguments: Namespace) -> str:
    """Return a paper's table. Raises ConfigError on options that it does not take."""
    given = ("table", "rows", "columns", "value", "baseline", "select", "test", "out", "wandb")
    if len(papers) > 1 or any(getattr(arguments, name) is not None for name in given):
        raise ConfigError(f"{papers[0]}: takes folders and --where, nothing else")
    from fedmed.report.published import compare, paper_of
    from fedmed.runs.run import find

    folders = [f for f in arguments.folders if str(f) != papers[0]] or [Path("runs")]
    where = _pairs("where", arguments.where or [])
    name = papers[0].removeprefix("paper=")
    return compare(name, paper_of(name), find(folders), where)


def _settings(arguments: Namespace) -> "Settings":
    """Return the named settings, changed by the command line's."""
    from pydantic import ValidationError

    from fedmed.report.table import Settings

    values: dict[str, Any] = _named(arguments.table) if arguments.table else {}
    for name in ("rows", "columns", "value", "select", "test"):
        if getattr(arguments, name) is not None:
            values[name] = getattr(arguments, name)
    for name in ("where", "baseline"):
        if getattr(arguments, name) is not None:
            values[name] = _pairs(name, getattr(arguments, name))
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{first['loc'][0]}: {first['msg'].lower()}") from None


def _named(name: str) -> dict[str, Any]:
    import yaml

    from fedmed.config import CONF

    path = CONF / "table" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(path.stem for path in path.parent.glob("*.yaml")))
        raise ConfigError(f"--table {name}: unknown; there are {known}")
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def _pairs(name: str, given: Sequence[str]) -> dict[str, str]:
    pairs = dict(item.partition("=")[::2] for item in given)
    if not all(pairs.values()):
        raise ConfigError(f"--{name}: takes KEY=VALUE")
    return pairs


def _log(table: "Table", arguments: Namespace) -> None:
    from fedmed.runs.tracking import log_table

    name = arguments.table or "table"
    folder = arguments.out.parent if arguments.out else Path()
    log_table(name, table.frame(), table.caption, arguments.wandb, arguments.project, folder)
