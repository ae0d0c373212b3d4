"""FedAvg in pfl-research 0.6.0, as its documentation recommends: simulated users under torchrun.

Run by the Python that has pfl-research, torch and monai, and nothing of fedmed:

    python -m torch.distributed.run --standalone --nproc_per_node=2 pfl_rounds.py TASK.json

TASK.json names the clients' pixels and labels, the network, local training and the rounds;
``engines.py`` writes it.
"""

import json
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops.selector import get_default_framework_module
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel


class Network(torch.nn.Module):
    """A network with the loss that pfl-research asks for."""

    def __init__(self, network):
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def loss(self, pixels, labels, is_eval=False):
        """Return the mean loss over the known labels."""
        self.train(not is_eval)
        logits = self.network(pixels.unsqueeze(1).float() / 127.5 - 1)
        known = ~labels.isnan()
        return F.binary_cross_entropy_with_logits(logits[known], labels[known])

    @torch.no_grad()
    def metrics(self, pixels, labels):
        """Return the loss as a metric."""
        return {"loss": Weighted(self.loss(pixels, labels, True).item(), 1)}


class Stopwatch(TrainingProcessCallback):
    """Notes when each iteration ended."""

    def __init__(self):
        self.ends = []

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """Note the time, and go on."""
        self.ends.append(time.perf_counter())
        return False, Metrics()


def main():
    """Run the task."""
    torch.set_num_threads(1)
    task = json.loads(Path(sys.argv[1]).read_text())
    data, how = np.load(task["data"]), task["client"]
    module, _, name = task["network"].pop("_target_").rpartition(".")
    network = Network(getattr(import_module(module), name)(**task["network"]))
    images = {k: len(data[f"labels/{k}"]) for k in range(len(data.files) // 2)}
    users = {k: user(data, k, how) for k in images}
    model = PyTorchModel(
        network,
        lambda parameters, lr: torch.optim.Adam(parameters, lr, fused=True),
        torch.optim.SGD(network.parameters(), lr=1.0),
    )
    training = FederatedDataset(users.__getitem__, MinimizeReuseUserSampler(list(users)))
    watch = Stopwatch()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(task["rounds"] + 1, 10**9, len(users), None),
        backend=SimulatedBackend(training, None),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=None if how["steps"] else how["epochs"],
            local_learning_rate=how["lr"],
            local_batch_size=how["batch_size"],
            local_num_steps=how["steps"],
        ),
        model_eval_params=NNEvalHyperParams(how["batch_size"]),
        callbacks=[watch],
        send_metrics_to_platform=False,
    )
    seconds = (watch.ends[-1] - watch.ends[0]) / task["rounds"]
    if get_default_framework_module().distributed.global_rank == 0:
        Path(task["out"]).write_text(json.dumps({"round_s": seconds}))


def user(data, k, how):
    """Return a client's data, repeated until it suffices for the steps: one pass is all it gets."""
    pixels, labels = torch.from_numpy(data[f"pixels/{k}"]), torch.from_numpy(data[f"labels/{k}"])
    passes = -(-(how["steps"] or 0) * how["batch_size"] // len(labels)) if how["steps"] else 1
    return Dataset((pixels.repeat(passes, 1, 1), labels.repeat(passes, 1)), user_id=str(k))


if __name__ == "__main__":
    main()
