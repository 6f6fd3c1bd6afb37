"""A training step against the bare loop: `python -m tests.benchmarks.steps bfloat16|float32|cuda`.

Both make the same steps on the same batch in one process: what is left is what geoseg adds.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS, WARM = 16, 3


def run_step(precision: str, width: int = 16, size: int = 256) -> dict[str, float]:
    """CPU milliseconds of a step of `geoseg train`, of the bare loop in the same precision, and of a plain one.

    The bare loop: forward, loss, backward, AdamW, with channels_last and autocast as geoseg has them. The plain one:
    the same in float32 without both.
    """
    import torch

    from geoseg.predict import tune_malloc
    from geoseg.training.journal import Journal

    tune_malloc()
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {"geoseg": [], "bare": [], "plain": []}
    loops: list[tuple[str, Any]] = []
    begun = [0.0]

    class Watch(Journal):
        """Between two steps of the run, one of each other loop."""

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_start(trainer, pl_module)
            dtype = torch.bfloat16 if precision == "bfloat16" else None
            loops.append(("bare", Loop(self.task, dtype, torch.channels_last)))
            loops.append(("plain", Loop(self.task, None, torch.contiguous_format)))

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            begun[0] = time.process_time()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            times["geoseg"].append(time.process_time() - begun[0])
            for name, loop in loops:
                start = time.process_time()
                loop(batch)
                times[name].append(time.process_time() - start)

    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), precision, width, size, Watch)
    return {name: 1000 * statistics.median(found[WARM:]) for name, found in times.items()}


def run_images(device: str = "cuda", width: int = 64, size: int = 512, batch_size: int = 16) -> dict[str, float]:
    """Images a second in bfloat16: `geoseg train`, samples cut anew, against the bare loop on one batch."""
    import torch

    from geoseg.training.journal import Journal

    epochs: list[Any] = []
    found: dict[str, float] = {}

    class Watch(Journal):
        """At the end of the run, the same number of steps without it."""

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            batch = next(iter(trainer.train_dataloader))
            batch = {name: batch[name].to(device) for name in ("image", "target")}
            loop = Loop(self.task, torch.bfloat16, torch.channels_last)
            for number in range(2):  # the first time, kernels are chosen
                begun = time.perf_counter()
                for _ in range(STEPS):
                    loop(batch)
                found["bare"] = STEPS * batch_size / (time.perf_counter() - begun)
                found["rounds"] = number + 1

    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), "bfloat16", width, size, Watch, device, batch_size, epochs)
    return {"geoseg": epochs[-1].samples_per_s, "bare": found["bare"]}


class Loop:
    """What people write themselves."""

    def __init__(self, task: Any, dtype: Any, layout: Any) -> None:
        import copy

        import torch

        self.network = copy.deepcopy(task.network).train().to(memory_format=layout)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=1e-2)
        self.loss, self.dtype, self.layout = task.objective.loss, dtype, layout
        self.mean, self.span = task.low, task.span

    def __call__(self, batch: Any) -> None:
        import torch

        image = ((batch["image"].float() - self.mean) / self.span).contiguous(memory_format=self.layout)
        self.optimizer.zero_grad()
        with torch.autocast(image.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits = self.network(image)
        loss = self.loss(logits.float(), batch["target"].long())
        loss.backward()
        self.optimizer.step()
        float(loss.detach())


def train(
    folder: Path, precision: str, width: int, size: int, journal: type, device: str = "cpu", batch_size: int = 8,
    epochs: list[Any] | None = None,
) -> None:  # fmt: skip
    """A run of some steps, all on one batch; or, with `epochs` to be told of, three times as many on fresh samples."""
    import torch

    import geoseg.training.fit as fit
    from geoseg.config import TrainConfig

    kept: dict[int, Any] = {}

    class Same(fit.Samples):
        def __getitem__(self, index: int) -> Any:
            place = index % batch_size
            if place not in kept:
                kept[place] = super().__getitem__(place)
            return kept[place] | {"index": torch.tensor(index)}

    before = fit.Journal, fit.Samples
    fit.Journal, fit.Samples = journal, Same if epochs is None else fit.Samples
    try:
        sources = [{"synthetic": 1, "size": 1024, "gsd_range": [0.3, 0.3], "split": "train"}]
        config = {
            "arch_args": {"width": width}, "data": {"sources": sources, "cache": str(folder / "cache")},
            "epochs": 1 if epochs is None else 3, "steps_per_epoch": STEPS, "batch_size": batch_size,
            "tile_size": size, "precision": precision,
        }  # fmt: skip
        hear = {} if epochs is None else {"on_epoch": epochs.append}
        fit.train_model(TrainConfig.model_validate(config), folder / "run", device=device, **hear)
    finally:
        fit.Journal, fit.Samples = before


if __name__ == "__main__":
    print(json.dumps(run_images() if sys.argv[1] == "cuda" else run_step(sys.argv[1])))
