"""What kind of thing an item is: its type in the records and the topic of a page about it."""

from functools import lru_cache

from src.instructions.kg2instruction.index import KnowledgeIndex
from src.instructions.kg2instruction.vocabulary import INSTANCE_OF, SUBCLASS_OF, TEXT, Kind, Vocabulary

MAX_LEVELS = 10
UNKNOWN = Kind(TEXT, None, frozenset())


class Kinds:
    """Looks up the kinds of items by climbing from P31 through P279, level by level, to the nearest known class."""

    def __init__(self, index: KnowledgeIndex, vocabulary: Vocabulary) -> None:
        self._index = index
        self._kinds = vocabulary.kinds
        self.kind = lru_cache(maxsize=1 << 16)(self._kind)
        self._parents = lru_cache(maxsize=1 << 16)(lambda c: index.classes(c, SUBCLASS_OF))

    def _kind(self, item: int) -> Kind:
        """The kind of an item; `UNKNOWN` where no class above it is known."""
        level = set(self._index.classes(item, INSTANCE_OF)) or set(self._parents(item))  # a class is of its own kind
        seen: set[int] = set()
        for _ in range(MAX_LEVELS + 1):
            if not level:
                break
            for kind in self._kinds:
                if not kind.classes.isdisjoint(level):
                    return kind
            seen |= level
            level = {parent for one in level for parent in self._parents(one)} - seen
        return UNKNOWN
