"""Measure what a private step costs over a plain one, side by side, and whether memory stays put.

Each way takes the same images through forward, backward and optimizer step, in a process of its own
as in training: in one process, what the ways leave of each other's memory costs some of them up to
a tenth. The C library keeps what is freed, as it happens to in workers: a process that does nothing
but steps may give it back after each and fetch it again, which costs as much. The ways take turns,
so that a machine that is busy is equally busy for all. A turn opens with a step that is not timed.
Seconds are of one core's processor time.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from rich.table import Table
from torch import Tensor, nn

from fedmed import config as cfg
from fedmed import models
from fedmed.privacy.noise import source
from fedmed.training.dpsgd.clipping import ClippedSum, image_losses
from fedmed.training.sgd import masked_bce, optimizer_of

Step = Callable[[Tensor, Tensor], None]
Way = Callable[[cfg.Config], Step]
SIZE = 64
BAR = 1.6
STEPS = 3  # timed in a row
KEPT = {f"MALLOC_{kind}_THRESHOLD_": str(2**30) for kind in ("TRIM", "MMAP")}  # glibc's malloc
UNEVEN = [1, 1, 2, 1, 3, 1, 1, 6]  # 16 images, so that no patient lies across chunks


def plain(config: cfg.Config) -> Step:
    """Return the step of ``privacy=none``."""
    network = _network(config, "batch")
    optimizer = optimizer_of(network, config.client)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        masked_bce(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def private(config: cfg.Config, sizes: list[int], physical: int) -> Step:
    """Return the step of ``privacy=dpsgd`` when units have as many images, again and again."""
    network = _network(config, "group")
    optimizer = optimizer_of(network, config.client)
    clipped = ClippedSum(network, 1.0)

    def step(images: Tensor, labels: Tensor) -> None:
        clipped.total.zero_()
        unit = np.repeat(np.arange(len(images)), np.resize(sizes, len(images)))[: len(images)]
        for i in range(0, len(images), physical):
            part = slice(i, i + physical)
            clipped.add_units(images[part], labels[part], unit[part])
        draws = source(0, torch.device("cpu"), False, clipped.total)
        clipped.total.add_(draws.normal(len(clipped.total))).div_(unit[-1] + 1)
        clipped.write()
        optimizer.step()

    return step


def opacus(config: cfg.Config, ghost: bool) -> Step:
    """Return Opacus's own step: hooks, or ghost clipping. Its hooks bear no in-place layers."""
    network = _network(config, "group")
    for layer in network.modules():
        if hasattr(layer, "inplace"):
            layer.inplace = False  # type: ignore[assignment]
    inner = optimizer_of(network, config.client)
    how = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": 1}
    if not ghost:
        whole = GradSampleModule(network)
        optimizer = DPOptimizer(inner, **how)

        def step(images: Tensor, labels: Tensor) -> None:
            optimizer.zero_grad()
            image_losses(whole(images), labels).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step
    module = GradSampleModuleFastGradientClipping(
        network, max_grad_norm=1.0, use_ghost_clipping=True
    )
    fast = DPOptimizerFastGradientClipping(inner, **how)
    criterion = _PerImage()
    loss = DPLossFastGradientClipping(module, fast, criterion, "mean")

    def ghost_step(images: Tensor, labels: Tensor) -> None:
        fast.zero_grad()
        loss(module(images), labels).backward()
        fast.step()

    return ghost_step


class _PerImage(nn.Module):
    """The loss in the shape that Opacus wants."""

    reduction = "mean"

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = image_losses(logits, labels)
        return losses if self.reduction == "none" else losses.mean()


def peak(config: cfg.Config, batch: int, physical: int) -> float:
    """Return the peak memory, in MB, of a process that takes one private step."""
    with _process(_peak, config, batch, physical) as answers:
        return float(answers.recv())


@contextmanager
def _process(does: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """Start a process that speaks through the connection which is its last argument."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=does, args=(*arguments, there))
    process.start()
    there.close()  # so that a process which dies is noticed
    try:
        yield here
    finally:
        here.close()
        process.join()


def _peak(config: cfg.Config, batch: int, physical: int, answers: Connection) -> None:
    torch.set_num_threads(1)
    network = _network(config, "group")
    clipped = ClippedSum(network, 1.0)
    for i in range(0, batch, physical):  # what a client does: images are loaded chunk by chunk
        images, labels = _batch(min(physical, batch - i), config)
        clipped.add_units(images, labels, np.arange(len(images)))
    answers.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _network(config: cfg.Config, norm: Any) -> nn.Module:
    network = models.build(config.model, 0, norm).train()
    return network.to(memory_format=torch.channels_last)


def _batch(n: int, config: cfg.Config) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    targets = len(config.dataset.arguments["targets"])
    labels = torch.randint(0, 2, (n, targets), generator=rng).float()
    return torch.randn(n, 1, SIZE, SIZE, generator=rng), labels


def _take_turns(build: Way, config: cfg.Config, n: int, turns: Connection) -> None:
    """Answer that the way runs or why it does not; then each call with the seconds of a step."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    batch = _batch(n, config)
    try:
        step = build(config)
        step(*batch)
        turns.send("")
    except Exception as error:
        turns.send(str(error).strip().splitlines()[0])
        return
    with suppress(EOFError):
        while turns.recv():
            step(*batch)
            started = time.process_time()
            for _ in range(STEPS):
                step(*batch)
            turns.send((time.process_time() - started) / STEPS)


def by_turns(ways: dict[str, Way], config: cfg.Config, n: int, repeats: int) -> dict[str, Any]:
    """Return each way's seconds a step of n images, by turns, or why it does not run."""
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        turns = {}
        for name, build in ways.items():
            turn = stack.enter_context(_process(_take_turns, build, config, n))
            found[name] = turn.recv() or []
            if not found[name]:
                turns[name] = turn
        for _ in range(repeats):
            for name, turn in turns.items():
                turn.send("go")
                found[name].append(turn.recv())
    return found


def measure(arguments: argparse.Namespace) -> tuple[Table, dict[str, Any]]:
    """Measure what a private step costs over a plain one, and its memory."""
    config = cfg.compose([f"model={arguments.model}", f"dataset.size={SIZE}"])
    ways: dict[str, Way] = {
        "plain": plain,
        "image": partial(private, sizes=[1], physical=arguments.physical),
        "patient, 2 images each": partial(private, sizes=[2], physical=arguments.physical),
        "patient, 1 to 6 images each": partial(private, sizes=UNEVEN, physical=arguments.physical),
        "Opacus hooks": partial(opacus, ghost=False),
        "Opacus ghost clipping": partial(opacus, ghost=True),
    }
    os.environ.update(KEPT)
    found = by_turns(ways, config, arguments.batch, arguments.repeats)
    title = f"{arguments.model}, {arguments.batch} images of {SIZE} px, processor seconds a step"
    table = Table("what", "median", "over plain", f"bar {BAR}", title=title)
    ratios = {}
    for name, seconds in found.items():
        if isinstance(seconds, str):
            table.add_row(name, "does not run", seconds[:60], "")
            continue
        pairs = zip(seconds, found["plain"], strict=True)
        ratios[name] = statistics.median(a / b for a, b in pairs)
        met = "met" if ratios[name] <= BAR else "missed"
        table.add_row(name, f"{statistics.median(seconds):.3f}", f"{ratios[name]:.2f}", met)
    memory = {n: peak(config, n, arguments.physical) for n in arguments.memory}
    for n, peaked in memory.items():
        table.add_row(f"peak memory, logical batch {n}", f"{peaked:.0f} MB")
    return table, {"seconds": found, "ratios": ratios, "memory_mb": memory}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be chosen."""
    parser.add_argument("--model", default="densenet121")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--physical", type=int, default=32)
    parser.add_argument("--memory", type=int, nargs="*", default=[64, 256])
