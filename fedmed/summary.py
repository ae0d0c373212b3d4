"""What ``summary.json`` and ``clients.csv`` say of a finished run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedmed import models
from fedmed.checkpoint import Checkpoint, Row
from fedmed.config import Config
from fedmed.data import Data
from fedmed.metrics import macro
from fedmed.privacy import Ledger
from fedmed.rundir import versions
from fedmed.runner.local import workers
from fedmed.workplace import device


def with_scores(clients: pd.DataFrame, rows: Sequence[Row], last: int) -> pd.DataFrame:
    """Add each client's validation scores after the last round."""
    scores = {
        metric: {row[2]: row[4] for row in rows if row[:2] == (last, "val") and row[3] == metric}
        for metric in ("loss", "macro_auroc")
    }
    return clients.assign(
        **{f"val_{name}": clients["client"].map(values) for name, values in scores.items()}
    )


def summarise(
    config: Config, data: Data, state: Checkpoint, ledger: Ledger | None, setup: float
) -> dict[str, Any]:
    """Return the result of a finished run, but for its name; ``setup`` is in seconds."""
    last = [row for row in state.metrics if row[0] == config.rounds]
    test = {metric: value for _, scope, _, metric, value in last if scope == "test"}
    targets = config.dataset.arguments["targets"]
    auroc = {t: test[f"auroc/{t}"] for t in targets if f"auroc/{t}" in test}
    auprc = {t: test[f"auprc/{t}"] for t in targets if f"auprc/{t}" in test}
    val = np.array([row[4] for row in last if row[1] == "val" and row[3] == "macro_auroc"])
    val = val[~np.isnan(val)]
    return {
        "status": "finished",
        **data.hashes,
        "model_sha256": models.arrays_sha256(state.arrays),
        "seed": config.seed,
        "rounds_done": state.round,
        "patients": {role: int(n) for role, n in data.assigned["role"].value_counts().items()},
        "images": {split: int(n) for split, n in data.store.table["split"].value_counts().items()},
        "unreadable_images": len(data.store.unreadable),
        "test": {
            "macro_auroc": macro(auroc),
            "macro_auprc": macro(auprc),
            "loss": test["loss"],
            "auroc": auroc,
            "auprc": auprc,
            "without_both_classes": [t for t in targets if t not in auroc],
        },
        "val": {
            "clients": len(val),
            "mean": float(val.mean()) if len(val) else None,
            "worst": float(val.min()) if len(val) else None,
            "sd": float(val.std()) if len(val) else None,
        },
        "privacy": ledger.statement() if ledger else {"unit": None, "epsilon": None, "delta": None},
        "time": {
            "setup_s": setup,
            "rounds_s": state.seconds,
            "per_round_s": state.seconds / state.round,
        },
        "bytes_up": state.bytes_up,
        "bytes_down": state.bytes_down,
        "device": device(config.runner).type,
        "workers": workers(config.runner),
        "versions": versions(),
    }
