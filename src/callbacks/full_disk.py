"""What a run writes beside its checkpoints costs it nothing when it can't be written."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)
_failing: set[str] = set()


@contextmanager
def going_on(what: str) -> Iterator[None]:
    """Take a failed write for a warning, the first of several in a row."""
    try:
        yield
    except OSError as error:
        if what not in _failing:
            log.warning("%s could not be written (%s): training goes on", what, error.strerror or error)
        _failing.add(what)
    else:
        _failing.discard(what)
