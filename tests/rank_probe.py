"""For tests/test_ranks.py, under torchrun: trains and writes down what each process ends an epoch with.

    torchrun --nproc-per-node 2 tests/rank_probe.py CONFIG RUN FOLDER

Memory is scarce in the second process alone.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch

import geoseg.training.fit as fit
from geoseg.config import load_config
from geoseg.training.task import Segmentation


def digest(network: torch.nn.Module) -> str:
    sha256 = hashlib.sha256()
    for tensor in network.state_dict().values():
        sha256.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def main(config: str, run: str, folder: str) -> None:
    torch.set_num_threads(1)
    rank, seen, sizes = int(os.environ["RANK"]), [], []
    step, answers, close = Segmentation.training_step, Segmentation._answers, fit.Journal.on_train_epoch_end

    def noted(self, batch, index):
        seen.append(batch["index"].tolist())
        return step(self, batch, index)

    def scarce(self, image):
        sizes.append(len(image))
        if rank == 1 and len(image) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return answers(self, image)

    def closed(self, trainer, module):
        close(self, trainer, module)
        about = {"network": digest(self.task.network), "average": digest(self.task.average.network), "seen": seen,
                 "sizes": sizes, "pool": self.samples.pool, "writes": self.folder is not None}  # fmt: skip
        Path(folder, f"{rank}-{trainer.current_epoch}.json").write_text(json.dumps(about))

    Segmentation.training_step, Segmentation._answers, fit.Journal.on_train_epoch_end = noted, scarce, closed
    fit.train_model(load_config(config), run, device="cpu")


if __name__ == "__main__":
    main(*sys.argv[1:])
