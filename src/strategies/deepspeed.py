"""DeepSpeed ZeRO through Lightning (Rajbhandari et al. 2019, arXiv:1910.02054), without its silent faults.

With lightning 2.6.6, deepspeed 0.19.8 and transformers 5.23 three things train the wrong model without a word:

- gradients are divided by the accumulation steps twice, once by Lightning and once by DeepSpeed (`ZeroStrategy`);
- a model built inside ``zero.Init`` gets wrong initial weights unless transformers knows of it, and pretrained weights
  fail to load (`partition_while_loading`);
- peft's adapters are not zero at the start when made inside ``zero.Init`` (`outside_partitioning`).

DeepSpeed is imported only when a run uses it: the import takes seconds.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy, Strategy
from torch import Tensor


class ZeroStrategy(DeepSpeedStrategy):
    """`DeepSpeedStrategy` whose gradients are divided by the accumulation steps once.

    With the optimizer in host memory it accepts PyTorch's AdamW, which DeepSpeed refuses unless told not to.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        assert isinstance(self.config, dict)
        self.config["zero_force_ds_cpu_optimizer"] = False

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)


@contextmanager
def partition_while_loading(strategy: Strategy | None) -> Iterator[Any]:
    """Let transformers build and load a model that ZeRO-3 partitions on the way: no rank ever holds all of it.

    Yields an object that must stay alive as long as the model does; None where nothing is partitioned.
    """
    if not isinstance(strategy, DeepSpeedStrategy) or not strategy.zero_stage_3:
        yield None
        return
    from transformers.integrations import HfDeepSpeedConfig

    assert isinstance(strategy.config, dict)
    yield HfDeepSpeedConfig({**strategy.config, "train_micro_batch_size_per_gpu": 1})


@contextmanager
def outside_partitioning() -> Iterator[None]:
    """Build small dense parameters, such as adapters, inside a model that is being partitioned."""
    partitioning = sys.modules.get("deepspeed.runtime.zero.partition_parameters")
    if partitioning is None or not partitioning.zero_init_context:
        yield
        return
    partitioning.shutdown_init_context()
    try:
        yield
    finally:
        partitioning.restore_init_context()
