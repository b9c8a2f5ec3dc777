"""What Lightning is told about the processes of a run, for every launcher alike (see `src.strategies.launch`).

Lightning 2.6.6 has an environment for each launcher, but none for deepspeed's, and the one for Slurm takes any shell in
an allocation for a launched process, requeues the job by itself and warns on each machine that has ``srun``.
"""

from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment

from src.strategies.launch import Launch, find_launch


class LaunchedEnvironment(ClusterEnvironment):
    """One process of a launch: all that is asked for is known."""

    def __init__(self, launch: Launch) -> None:
        super().__init__()
        self.launch = launch

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.launch.address

    @property
    def main_port(self) -> int:
        return self.launch.port

    @staticmethod
    def detect() -> bool:
        return find_launch() is not None

    def world_size(self) -> int:
        return self.launch.world_size

    def set_world_size(self, size: int) -> None:
        """The launcher has decided; `check_hardware` compares."""

    def global_rank(self) -> int:
        return self.launch.rank

    def set_global_rank(self, rank: int) -> None:
        """The launcher has decided."""

    def local_rank(self) -> int:
        return self.launch.local_rank

    def node_rank(self) -> int:
        return self.launch.node_rank


def cluster_environment() -> ClusterEnvironment:
    """The launch this process belongs to, or Lightning's own way of starting processes on this machine."""
    launch = find_launch()
    return LaunchedEnvironment(launch) if launch is not None else LightningEnvironment()
