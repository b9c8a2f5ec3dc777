#!/usr/bin/env python
"""Train a language model.

``python train.py experiment=pretrain_demo`` and so on; ``python train.py --help`` lists what can be swapped.
"""

from omegaconf import DictConfig

from src.command import command, is_sweep_job
from src.errors import UserError


@command("train")
def main(cfg: DictConfig) -> float | None:
    if cfg.preflight.enabled:
        from src.preflight.preflight import preflight

        preflight(cfg)
        return None
    # torch and Lightning take ten seconds to import: only now, when the config is known to be one
    from src.strategies.launch import quiet_other_ranks
    from src.training import train

    if is_sweep_job() and starts_processes(cfg):
        from src.sweeps import run_apart

        return optimized(run_apart(), cfg.get("optimized_metric"))
    quiet_other_ranks()
    metrics = train(cfg)
    return optimized(metrics, cfg.get("optimized_metric"))


def starts_processes(cfg: DictConfig) -> bool:
    """Whether this process will start others of the run, because nobody else did."""
    from src.strategies.hardware import check_hardware
    from src.strategies.launch import find_launch

    hardware = check_hardware(cfg.trainer.accelerator, cfg.trainer.devices, cfg.trainer.num_nodes, cfg.get("needs", ""))
    return hardware.devices > 1 and find_launch() is None


def optimized(metrics: dict[str, float], name: str | None) -> float | None:
    """The value a sweep optimises."""
    if name is None:
        return None
    if name not in metrics:
        raise UserError(f"optimized_metric={name} was not logged; there are {', '.join(sorted(metrics))}")
    return metrics[name]


if __name__ == "__main__":
    main()
