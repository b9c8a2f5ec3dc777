"""What a run writes beside its checkpoints costs it nothing when it can't be written."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)
_said: set[str] = set()


@contextmanager
def going_on(what: str) -> Iterator[None]:
    """Take a failed write for a warning, one for each kind of thing that could not be written."""
    try:
        yield
    except OSError as error:
        if what not in _said:
            _said.add(what)
            log.warning("%s could not be written (%s): training goes on", what, error.strerror or error)
