"""The loaders of a training run: what its configuration says about data, made into batches."""

import contextlib

import jax

from data_pipeline.dataset_kinds import Spec
from data_pipeline.loader import Loader
from data_pipeline.packing import PackingConfig
from gpst_jax.config import RunConfig
from gpst_jax.objectives import Objective


class RunLoaders(contextlib.ExitStack):
    """Makes the loader of a split, as `train.train` asks for it; closes all in the end.

    Args:
        config: the run.
        spec: of its dataset.
        objective: whose rows they are.
    """

    def __init__(self, config: RunConfig, spec: Spec, objective: Objective):
        super().__init__()
        data = config.data
        self._data, self._spec = data, spec
        self._packing = PackingConfig(
            row_length=data.row_length,
            frame_budget=data.frame_budget,
            crop_seconds=data.crop_seconds,
            deduplicate=data.deduplicate,
            positions=data.positions,
            join_speakers=data.join_speakers,
            seed=data.seed,
            arrangement=getattr(objective, "arrangement", "interleaved"),
        )

    def make(self, split: str) -> Loader | None:
        """The loader of a split on this host; None where the dataset has no such split."""
        if split not in self._spec.splits:
            return None
        loader = Loader(
            self._data.path,
            split,
            self._packing,
            self._data.rows,
            host=jax.process_index(),
            num_hosts=jax.process_count(),
            num_workers=self._data.workers if split == "train" else 0,
            repeat=split == "train",  # an evaluation never sees a record twice
        )
        self.callback(loader.close)
        return loader
