"""Processes of one machine that end together.

Lightning's launcher starts one process for each further rank and ends them all when one of them fails. Nothing ends
them when the first one is killed: on a GPU they would wait in a collective operation until its timeout, half an hour.
So each asks the kernel to be killed with the process that started it (``man 2 prctl``, PR_SET_PDEATHSIG; Linux only).
"""

import ctypes
import os
import signal
import sys

_STARTER = "KNOWLM_STARTED_BY"
_PR_SET_PDEATHSIG = 1


def end_with_starter() -> None:
    """Be killed when the process that started this one ends; for processes that Lightning's launcher starts."""
    if not sys.platform.startswith("linux"):
        return
    starter = os.environ.get(_STARTER)
    if starter is not None and any(argument.startswith("hydra.job.name=train_ddp_process_") for argument in sys.argv):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(starter):  # it ended before we asked
            os.kill(os.getpid(), signal.SIGKILL)
    else:
        os.environ[_STARTER] = str(os.getpid())  # for processes started later
