"""What can be asked of a finished run: a file a question, its line below, and nothing else.

One of another package needs no line: ``fedmed evaluate`` takes its import path.
"""

from hydra.utils import get_object

from fedmed.config.messages import import_failure
from fedmed.core.errors import FedmedError
from fedmed.runs.evaluations import Evaluation

#: The evaluations that come with fedmed, by name.
EVALUATIONS = {
    "audit": "fedmed.audit.report.PrivacyAudit",
    "subgroups": "fedmed.evaluations.subgroups.Subgroups",
}


def find(name: str) -> Evaluation:
    """Return an evaluation by its name, or by the import path of its class.

    Raises:
        FedmedError: if there is none.
    """
    if "." not in name and name not in EVALUATIONS:
        raise FedmedError(
            f"{name}: unknown evaluation; there are {', '.join(EVALUATIONS)}, and your own as "
            "PACKAGE.MODULE.CLASS"
        )
    try:
        kind = get_object(EVALUATIONS.get(name, name))
    except Exception as error:  # whatever an import may raise
        raise FedmedError(f"{name}: cannot be imported: {import_failure(error)}") from None
    if not (isinstance(kind, type) and issubclass(kind, Evaluation)):
        raise FedmedError(f"{name}: is no class over fedmed.runs.evaluations.Evaluation")
    return kind()
