"""Evaluations of a finished run: one file makes one, and every reader then knows its answer."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from conftest import TINY, summary

from fedmed.audit.report import PrivacyAudit
from fedmed.cli.main import main
from fedmed.core.errors import FedmedError
from fedmed.evaluation.subgroups import subgroups
from fedmed.evaluations import EVALUATIONS, find
from fedmed.experiment.run import run as train
from fedmed.report.page import page
from fedmed.report.table import Settings, build
from fedmed.runs.console import Console
from fedmed.runs.evaluations import Attack, Evaluation, Section, evaluate
from fedmed.runs.run import Run

#: All that an explainability evaluation takes: this file.
SALIENCY = '''
    """How far the model looks at the border of an image, which shows no finding."""

    import torch

    from fedmed.runs.evaluations import Evaluation, Section


    class BorderSaliency(Evaluation):
        """The share of the gradient of the logits that lies on an image's border."""

        name = "border_saliency"

        def __call__(self, run):
            image = torch.linspace(-1, 1, 32 * 32).reshape(1, 1, 32, 32).requires_grad_()
            run.model()(image).sum().backward()
            weight = image.grad.abs()
            return {"border": 1 - float(weight[..., 2:-2, 2:-2].sum() / weight.sum())}

        def section(self, result):
            rows = [("border <of 2>", result["border"]), ("unknown", None)]
            return Section("Where the model looks", "Of |dlogit/dpixel|.", ["where", "share"], rows)
'''


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """A finished run, which the tests copy."""
    folder = tmp_path_factory.mktemp("evaluations") / "run"
    with Console() as console:
        train([*TINY, "rounds=1", f"store={store}"], folder, console)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    shutil.copytree(trained, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


def test_one_file_makes_an_evaluation(
    run: Run,
    call: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = tmp_path / "elsewhere"
    package.mkdir()
    (package / "saliency_of_mine.py").write_text(dedent(SALIENCY))
    monkeypatch.syspath_prepend(package)
    code, out, _ = call("evaluate", "saliency_of_mine.BorderSaliency", run.folder)
    assert code == 0
    file = run.folder / "evaluations" / "border_saliency.json"
    assert str(file) in out
    share = json.loads(file.read_text())["result"]["border"]
    assert 0 < share < 1
    monkeypatch.undo()
    del sys.modules["saliency_of_mine"]  # readers know the answer without the one who asked
    settings = Settings(rows=["strategy"], value=["border_saliency.border"])
    assert build([Run(run.folder)], settings).cells[0].text == f"{share:.3f}"
    shown = page([Run(run.folder)], [tmp_path])
    assert "<h3>Where the model looks</h3>" in shown
    assert f'<th scope="row">border &lt;of 2&gt;</th><td>{share:.3f}</td>' in shown
    assert '<th scope="row">unknown</th><td>–</td>' in shown


def test_subgroups_are_those_of_the_summary(
    run: Run, call: Callable[..., tuple[int, str, str]]
) -> None:
    assert call("evaluate", "subgroups", run.folder)[0] == 0
    mine = Run(run.folder).evaluations["subgroups"]
    told = run.summary["test"]["subgroups"]
    assert mine["result"]["by"].keys() == told["by"].keys()
    for name, found in told["by"].items():
        for key in ("macro_auroc", "worst", "gap", "findings"):
            assert mine["result"]["by"][name][key] == found[key]
    again = json.loads(json.dumps(subgroups(run.predictions, deals=mine["result"]["deals"])))
    assert mine["result"] == again
    assert [row[0] for row in mine["section"]["rows"]] == list(told["by"])


def test_the_audit_is_an_attack_with_its_access_beside_it(
    run: Run, call: Callable[..., tuple[int, str, str]]
) -> None:
    before = summary(run.folder)
    assert call("audit", run.folder)[0] == 0
    audited = Run(run.folder)
    assert audited.evaluations["audit"]["access"] == PrivacyAudit.access
    auc = audited.audit["membership"]["loss threshold"]["auc"]
    assert audited.result("audit.membership.loss threshold.auc") == auc
    shown = page([audited], [run.folder])
    assert "An attacker has the final model" in shown
    assert f'<th scope="row">loss threshold</th><td>{auc:.3f}</td>' in shown
    after = summary(run.folder)
    assert after["privacy"].pop("audited")["membership"]["loss threshold"]["auc"] == auc
    assert {k: v for k, v in after.items() if k != "sha256"} == {
        k: v for k, v in before.items() if k != "sha256"
    }


def test_all_that_come_with_fedmed_are_found() -> None:
    for name in EVALUATIONS:
        one = find(name)
        assert one.name == name
        assert not isinstance(one, Attack) or one.access


class Same(Evaluation):
    """Answers what it is given."""

    name = "same"

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer

    def __call__(self, run: Run) -> dict[str, Any]:
        return self.answer

    def section(self, result: Any) -> Section:
        return Section("Same", "of /home/me/x.png", ["a"], [["nih:12"], [3], [0.5]])


def test_what_is_not_finite_is_a_word_and_no_patient_is_named(run: Run) -> None:
    evaluate(Same({"a": {"b": float("inf")}, "c": float("nan")}), run)
    read = Run(run.folder)
    assert (read.result("same.a.b"), read.result("same.c")) == ("inf", None)
    shown = page([read], [run.folder])
    assert "nih:12" not in shown
    assert "x.png" not in shown
    assert '<th scope="row">3</th>' in shown


@pytest.mark.parametrize("name", ["test", "strategy", "Same", "../same", ""])
def test_a_name_that_is_taken_is_refused(
    name: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Same, "name", name)
    with pytest.raises(FedmedError, match="no name for an evaluation"):
        evaluate(Same({}), run)
    assert not (run.folder / "evaluations").exists()


def test_what_cannot_be_believed_is_refused(run: Run, tmp_path: Path) -> None:
    evaluate(Same({"a": 1}), run)
    file = run.folder / "evaluations" / "same.json"
    sound = json.loads(file.read_text())
    for wrong, message in (
        (sound | {"format": 2}, "upgrade fedmed"),
        (sound | {"model_sha256": "0" * 64}, "of another model"),
        ([], "no evaluation"),
    ):
        file.write_text(json.dumps(wrong))
        with pytest.raises(FedmedError, match=message) as error:
            _ = Run(run.folder).evaluations
        assert "\n" not in str(error.value)
    with pytest.raises(FedmedError, match="not begun"):
        evaluate(Same({}), Run(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("attention", "attention: unknown evaluation; there are audit, subgroups"),
        ("nowhere.at.All", "nowhere.at.All: cannot be imported"),
        ("pathlib.Path", "pathlib.Path: is no class over"),
    ],
)
def test_what_is_no_evaluation_is_refused(name: str, message: str) -> None:
    with pytest.raises(FedmedError, match=message) as error:
        find(name)
    assert "\n" not in str(error.value)
