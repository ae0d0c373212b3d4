"""A table as Markdown, LaTeX and CSV."""

import re
from pathlib import Path

from fedmed.core.texts import MOST, printable
from fedmed.report.table import Table
from fedmed.runs.directory import safe

_MARKUP = re.compile(r"[\\`*<|]|(?<=\])[(]")
_SPECIAL = re.compile(r"[&%$#_{}]")
_MACROS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "ε": r"$\varepsilon$",
    "–": "--",
}


def markdown(table: Table) -> str:
    """Return the table and its caption as Markdown."""
    frame = table.frame()
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    body = "".join(f"| {' | '.join(map(escape, line))} |\n" for line in lines)
    return f"{body}\n{' '.join(table.caption)}\n"


def latex(table: Table) -> str:
    """Return the table as a LaTeX table; it takes the package booktabs."""
    frame = table.frame()
    keys = len(table.cells[0].row)
    form = "l" * keys + "r" * (len(frame.columns) - keys)
    lines = [" & ".join(map(_tex, line)) + r" \\" for line in frame.to_numpy().tolist()]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_tex(' '.join(table.caption))}}}",
            rf"\begin{{tabular}}{{{form}}}",
            r"\toprule",
            " & ".join(map(_tex, frame.columns)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def write(table: Table, stem: Path) -> list[Path]:
    """Write ``STEM.md``, ``STEM.tex``, ``STEM.csv`` and ``STEM.cells.csv``, its runs and hashes."""
    paths = [stem.with_name(stem.name + end) for end in (".md", ".tex", ".csv", ".cells.csv")]
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths[0].write_text(markdown(table), encoding="utf-8")
    paths[1].write_text(latex(table), encoding="utf-8")
    safe(table.frame()).to_csv(paths[2], index=False)
    safe(table.trace()).to_csv(paths[3], index=False)
    return paths


def escape(text: str) -> str:
    """Return a text as Markdown that shows it and does nothing else."""
    return _MARKUP.sub(lambda match: "\\" + match[0], printable(str(text), MOST))


def _tex(text: str) -> str:
    parts = (_MACROS.get(c) or _SPECIAL.sub(r"\\\g<0>", c) for c in printable(str(text), MOST))
    return "".join(parts)
