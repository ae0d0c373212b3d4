"""The test split is scored here, whatever engine trains: in shards, over the pool there is."""

from pathlib import Path
from typing import Self, cast

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from fedmed.client.context import context_of
from fedmed.core.errors import FedmedError
from fedmed.engines.contents import Contents, content_of
from fedmed.engines.pool import DEAD, Pool, WorkerDied
from fedmed.engines.waiting import Say, Waiting
from fedmed.evaluation.metrics import Floats
from fedmed.federation.messages import ARRAYS, RunContext

SHARD = 512  # test images a task; fixed, so that scores do not depend on the number of workers


class TestScorer:
    """Scores the test images under the global arrays.

    Args:
        run: where the files are that the server knows of.
        images: size of the test split.
        pool: where the shards are scored; it is closed by whoever opened it.
        say: called with a line for a person who waits.
    """

    __test__ = False  # no test, whatever pytest makes of the name

    def __init__(self, run: RunContext, images: int, pool: Pool, say: Say) -> None:
        self._run, self._images, self._pool, self._say = run, images, pool, say
        self._contents = Contents()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._contents.close()

    def __call__(self, arrays: ArrayRecord) -> Floats:
        """Return the probabilities, N×T, of the test images under ``arrays``.

        Raises:
            FedmedError: if a worker process dies.
        """
        content = RecordDict({ARRAYS: arrays})
        with self._contents.shared([content]) as files:
            file = files[id(content)]
            shards = [
                self._pool.submit(score_shard, self._run, file, start, start + SHARD)
                for start in range(0, self._images, SHARD)
            ]
            waiting = Waiting("the scores of the test images", self._say)
            try:
                return np.concatenate([self._pool.wait(one, None, waiting) for one in shards])
            except WorkerDied:
                raise FedmedError(f"scoring the test images: {DEAD}") from None


def score_shard(run: RunContext, content: Path, start: int, stop: int) -> Floats:
    """Return the probabilities of the test images from ``start`` to ``stop``, (stop - start)×T.

    Args:
        run: of the process that scores.
        content: the file of the global arrays.
        start: place of the first in the test split.
        stop: place after the last.
    """
    own = context_of(run)
    own.receive(cast(ArrayRecord, content_of(content)[ARRAYS]))
    return own.score(start, stop)
