"""Ranks: the processes that share the batches of a run, started here or by torchrun, and what they tell each other.

Gradients are averaged once they are all there, not while they are made (as DistributedDataParallel does): a process
that runs out of memory half-way can then say so, and all make the step again, where its hooks would wait for ever.
"""

import os
import signal
import threading
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed, nn

PATIENCE = timedelta(days=1)
"""How long ranks wait for the first, which scores all of the validation ground."""


class Ranks:
    """All processes of a run, seen from one of them. A run of one process has nobody to talk to."""

    def __init__(self) -> None:
        """Read the environment, as torchrun sets it."""
        shared = "TORCHELASTIC_RUN_ID" in os.environ
        self.count = int(os.environ["WORLD_SIZE"]) if shared else 1
        self.own = int(os.environ["RANK"]) if shared else 0
        self.here = int(os.environ.get("LOCAL_WORLD_SIZE", self.count)) if shared else 1
        """How many are on this machine."""
        self.local = int(os.environ.get("LOCAL_RANK", self.own)) if shared else 0
        """This one's number among them."""
        self._stop = 0
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.own == 0

    @property
    def environment(self) -> ClusterEnvironment:
        """For the trainer: nothing is guessed from what a cluster's scheduler has set."""
        return TorchElasticEnvironment() if self.count > 1 else LightningEnvironment()

    def strategy(self, backend: str) -> DDPStrategy:
        """How the trainer sets up the processes of a run of several."""
        return _Together(cluster_environment=self.environment, process_group_backend=backend, timeout=PATIENCE)

    def all_well(self, well: bool, device: torch.device) -> bool:
        """Whether it went well on all ranks. Ends the run on all of them at once if one was told to stop.

        Raises:
            KeyboardInterrupt: After SIGINT or SIGTERM; or whatever the handlers that were there before raise.
        """
        if self.count == 1:
            return well
        flags = torch.tensor([not well, self._stop == signal.SIGINT, self._stop == signal.SIGTERM], device=device)
        flags = flags.int()
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        failed, interrupted, terminated = flags.tolist()
        if interrupted or terminated:
            self._leave(signal.SIGINT if interrupted else signal.SIGTERM)
        return not failed

    def average(self, network: nn.Module, values: Tensor) -> Tensor:
        """The mean of `values` over the ranks; gradients and running statistics of the network become theirs, too."""
        if self.count == 1:
            return values
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        statistics = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        tensors = [*gradients, *statistics, values]
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        means = (flat / self.count).split([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors[:-1], means, strict=False):
            tensor.copy_(mean.view(tensor.shape))
        return means[-1]

    def share_start(self, network: nn.Module) -> None:
        """Begin with the first rank's parameters everywhere."""
        if self.count > 1:
            for tensor in network.state_dict().values():
                distributed.broadcast(tensor, 0)

    def gather(self, item: Any) -> list[Any]:
        """What each rank has, by rank."""
        if self.count == 1:
            return [item]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, item)
        return found

    def tell(self, item: Any) -> Any:
        """What the first rank has."""
        if self.count == 1:
            return item
        told = [item]
        distributed.broadcast_object_list(told, 0)
        return told[0]

    def hold_signals(self) -> None:
        """From here on SIGINT and SIGTERM are kept until all ranks can leave between two steps, see `all_well`."""
        if self.count > 1 and threading.current_thread() is threading.main_thread():
            for number in self._handlers:
                signal.signal(number, self._note)

    def release_signals(self) -> None:
        """They are again those who had them before."""
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def heed_signal(self) -> None:
        """Leave now if one came after the last step."""
        if self._stop:
            self._leave(signal.Signals(self._stop))

    def close(self) -> None:
        """Nothing more is told."""
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._stop = number

    def _leave(self, number: signal.Signals) -> NoReturn:
        handler = self._handlers[number]
        if callable(handler):
            handler(number, None)
        raise KeyboardInterrupt


class _Together(DDPStrategy):
    """Processes without hooks on the gradients: `Ranks.average` does it."""

    def configure_ddp(self) -> None:
        """Leave the module as it is."""
