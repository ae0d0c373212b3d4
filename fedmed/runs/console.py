"""What a person sees: live progress while it runs, and a readable table at its end."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console as RichConsole
from rich.console import Group
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fedmed.config import Config
from fedmed.core.records import MetricRow
from fedmed.core.texts import MOST, printable
from fedmed.core.units import named
from fedmed.evaluation.metrics import FEW
from fedmed.evaluation.subgroups import gap_beside_chance

REFUTED = "THE CLAIM IS REFUTED"
UNTESTED = "none: parameters stay with the clients, and nobody else has a whole model"


class Console:
    """The terminal of the main process. Without one (a pipe, a log) it prints a line a round."""

    def __init__(self) -> None:
        self.rich = RichConsole(highlight=False)
        self._progress = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.rich,
        )
        self._tasks: dict[str, Any] = {}
        self._note = ""

    def __enter__(self) -> "Console":
        if self.rich.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.rich.is_terminal:
            self._progress.stop()

    def say(self, text: str, style: str = "") -> None:
        """Print a line, of whose characters none is a command to the terminal."""
        lines = [printable(line, MOST) for line in text.split("\n")]
        self.rich.print(Text("\n".join(lines), style), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a line that should be seen."""
        self.say(text, "yellow")

    def show(self, what: str, done: int, total: int, note: str = "") -> None:
        """Move the bar of ``what``."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, note=note)
        self._progress.update(self._tasks[what], completed=done, total=total, note=note)

    def client_done(self, client: int) -> None:
        """Note that a client has answered."""
        if "rounds" in self._tasks:
            task = self._tasks["rounds"]
            self._progress.update(task, note=f"{self._note}  client {client} answered")

    def round(self, round_: int, rounds: int, rows: Sequence[MetricRow], seconds: float) -> None:
        """Show a round's figures."""
        note = self._note = _note(rows)
        self.show("rounds", round_, rounds, note)
        if not self.rich.is_terminal:
            self.say(f"round {round_}/{rounds}  {seconds:6.1f} s  {note}")

    def report(self, summary: dict[str, Any]) -> None:
        """Print the result of a run, below the bars."""
        self._progress.stop()
        test, val, spent = summary["test"], summary["val"], summary["privacy"]
        facts = Table.grid(padding=(0, 2))
        if test and test["without_both_classes"]:
            facts.add_row(
                "not scored", _text(", ".join(test["without_both_classes"]) + " (one class only)")
            )
        unseen = not (val["clients"] or val["left_out"])
        private = spent["unit"] and named(spent["unit"]).rows  # what a client's training protects
        withheld = private and unseen
        facts.add_row("clients", "scores withheld" if withheld else _spread(val))
        facts.add_row("test", _text(_tested(test) if test else UNTESTED))
        if test and len(test["by_site"]) > 1:
            facts.add_row("sites", _text(_sites(test)))
        for name, value in _guarantees(spent):
            facts.add_row(name, _text(value, "red" if value == REFUTED else ""))
        if summary["aggregation"]["hides"]:
            kind = summary["aggregation"]["kind"]
            facts.add_row("server", _text(f"sees sums of updates alone ({kind})"))
        facts.add_row(
            "moved", f"{_size(summary['bytes_up'])} up, {_size(summary['bytes_down'])} down"
        )
        time = summary["time"]
        facts.add_row(
            "time",
            f"{time['rounds_s']:.1f} s in {summary['rounds_done']} rounds "
            f"({time['per_round_s']:.2f} s each), {time['setup_s']:.1f} s to set up",
        )
        facts.add_row("weights", f"sha256 {summary['model_sha256'][:16]}…")
        facts.add_row("record", _text(_recorded(summary["record"])))
        facts.add_row("run", _text(str(summary["run_dir"])))
        whose = "test" if test else "validation"
        title = _text(f"{summary['name']} · {whose} patients · {summary['status']}")
        shown = Group(_scores(test), "", facts) if test else facts
        self.rich.print(Panel(shown, title=title, expand=False))


def _recorded(record: dict[str, Any]) -> str:
    signed = "signed" if record["signed_by"] else "unsigned"
    kept = record["anchored"]
    anchored = "not anchored" if kept is None else f"anchored at {kept}"
    return f"head {record['size']}:{record['root'][:16]}…, {signed}, {anchored}"


def _scores(test: dict[str, Any]) -> Table:
    """Return a row a finding, and their means."""
    scores = Table(box=None, pad_edge=False)
    scores.add_column("finding")
    scores.add_column("AUROC", justify="right")
    scores.add_column("AUPRC", justify="right")
    scores.add_column("patients with", justify="right")
    for target, value in test["auroc"].items():
        ill = f"{test['patients_with'][target]:,}"
        scores.add_row(_text(target), f"{value:.3f}", f"{test['auprc'][target]:.3f}", ill)
    scores.add_section()
    scores.add_row(
        "[bold]macro",
        f"[bold]{_number(test['macro_auroc'])}",
        _number(test["macro_auprc"]),
        f"{len(test['auroc'])} findings",
    )
    return scores


def _note(rows: Sequence[MetricRow]) -> str:
    values = {(row.scope, row.metric): row.value for row in rows if row.client < 0}
    losses = [row.value for row in rows if (row.scope, row.metric) == ("train", "loss")]
    parts = []
    if losses:
        parts.append(f"loss {sum(losses) / len(losses):.3f}")
    if ("test", "macro_auroc") in values:
        parts.append(f"test AUROC {values['test', 'macro_auroc']:.3f}")
    if ("privacy", "epsilon") in values:
        parts.append(f"ε {values['privacy', 'epsilon']:.2f}")
    return "  ".join(parts)


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text, MOST), style)


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def _spread(val: dict[str, Any]) -> str:
    left_out = len(val["left_out"])
    if not val["clients"]:
        if left_out:
            return f"not compared: no finding has both classes at all of {left_out} clients"
        return "no client has patients for validation"
    without = f"; {left_out} left out, who have too few patients with a finding" if left_out else ""
    return (
        f"validation AUROC {_number(val['mean'])} on average, {_number(val['worst'])} at the worst "
        f"of {val['clients']}, spread (sd) {_number(val['sd'])}, over the "
        f"{_findings(val['findings'], val['positives'])}{without}"
    )


def _findings(count: int, positives: int) -> str:
    """Return over how many findings a mean is, and how many patients the rarest has."""
    few = f" (fewer than {FEW}: mostly chance)" if positives < FEW else ""
    what = "finding that all share" if count == 1 else "findings that all share"
    return f"{count} {what}, patients with the rarest: at least {positives}{few}"


def _tested(test: dict[str, Any]) -> str:
    intervals = test["intervals"]
    low, high = intervals["macro_auroc"]
    text = (
        f"macro AUROC {_number(test['macro_auroc'])} [{_number(low)}, {_number(high)}], "
        f"{intervals['level']:.0%} over {intervals['patients']:,} patients"
    )
    worst, gap = test["subgroups"]["worst"], test["subgroups"]["gap"]
    if worst and gap:
        text += (
            f"; worst subgroup {_number(worst['macro_auroc'])} ({worst['by']}: {worst['group']}), "
            f"widest gap {gap_beside_chance(gap)}"
        )
    return text


def _sites(test: dict[str, Any]) -> str:
    by_site = {site: v for site, v in test["by_site"].items() if v is not None and v == v}
    if not by_site:
        return "not compared: no finding has both classes at all of them"
    best_first = sorted(by_site, key=lambda site: -by_site[site])
    shown = best_first if len(best_first) <= 6 else [best_first[0], best_first[-1]]
    text = "test AUROC " + ", ".join(f"{by_site[site]:.3f} {site}" for site in shown)
    least = min(test["by_site_positives"].values())
    text += f", over the {_findings(len(test['by_site_findings']), least)}"
    left_out = [site for site in test["by_site"] if site not in by_site]
    if left_out:
        text += f"; left out: {', '.join(left_out)}"
    return f"{text}; clients.csv has each client's on-domain and off-domain"


def _guarantees(spent: dict[str, Any]) -> list[tuple[str, str]]:
    """Return rows: the guarantee of each unit, and all that they rest on."""
    audited = _audited(spent)
    if spent["unit"] is None:
        return [("privacy", "none: no noise was added, no guarantee is given"), *audited]
    rows = [("privacy", _guarantee(one)) for one in (spent, *spent["also"])]
    rows += [("", f"[red]{caveat}") for caveat in spent.get("caveats", [])]
    rows += audited
    if spent["stopped"]:
        rounds = ", ".join(f"{client} before round {r}" for client, r in spent["stopped"].items())
        rows.append(("", f"clients stopped, their budget being spent: {rounds}"))
    rows.append(("", f"noise {spent['noise']}"))
    return rows + [("assumed" if i == 0 else "", a) for i, a in enumerate(spent["assumptions"])]


def _guarantee(spent: dict[str, Any]) -> str:
    checks = "".join(f", {_epsilon(e)} by {name}" for name, e in spent["cross_checks"].items())
    implied = "".join(
        f"; of {other['of']} {_epsilon(other['epsilon'])}" for other in spent.get("implied", [])
    )
    return (
        f"ε = {_epsilon(spent['epsilon'])} at δ = {spent['delta']:g}, unit {spent['unit']}, "
        f"{spent['neighbouring']}, {spent['releases']} releases, "
        f"{spent['accountant']}{checks}{implied}"
    )


def _audited(spent: dict[str, Any]) -> list[tuple[str, str]]:
    """Return rows: what an audit of the finished run has found, if there was one."""
    if "audited" not in spent:
        return []
    found = spent["audited"]
    bounds = [
        f"ε ≥ {_epsilon(b['epsilon'])} ({b['access']}, {b['method']}, {b['canaries']} canaries, "
        f"{b['confidence']:.0%})"
        for b in found["bounds"]
    ]
    attacks = [f"AUC {a['auc']:.3f} by {name}" for name, a in found["membership"].items()]
    rows = [("audited" if i == 0 else "", text) for i, text in enumerate([*bounds, *attacks])]
    return [*rows, ("", REFUTED)] if found["refuted"] else rows


def _epsilon(value: float | str | None) -> str:
    if value is None:
        return "unknown"
    return "∞" if isinstance(value, str) else f"{value:.2f}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def config_line(config: Config) -> str:
    """Return what is about to run, in a line."""
    return (
        f"{config.name}: {config.dataset.target.rpartition('.')[2]}, "
        f"{config.protocol.target.rpartition('.')[2]}, "
        f"{config.strategy.server.target.rpartition('.')[2]}, "
        f"{config.model.network.target.rpartition('.')[2]}, seed {config.seed}"
    )
