"""Running a decoder from the middle, on the ends of rows whose beginnings were read once.

What editing computes again and again differs only from one token on, the subject's last: a vector is added there, and
the model's answer is wanted after it. So the beginnings of all rows are read once into a cache of keys and values, and
the layers below the one that changes are run once on the rest; each step then costs a few tokens in the upper layers.
It is exact: the same numbers as the whole model on whole rows, up to rounding.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from src.editing.anatomy import Anatomy

Changer = Callable[[Tensor], Tensor]  # of a module's output, ``[rows, tokens, size]``


@dataclass(frozen=True)
class Row:
    """The tokens of a text, and from which of them on something changes."""

    ids: tuple[int, ...]
    start: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < len(self.ids):
            raise ValueError(f"a row of {len(self.ids)} tokens can't start at {self.start}")


class Ends:
    """The ends of rows, ready to be run from any layer on.

    Beginnings are padded on the left and ends on the right, so that every end begins in the same column.

    Args:
        rows: with ends of any length; ``row.start`` is column 0 of the end.

    Attributes:
        ids, mask: ``[rows, longest end]``; mask is 1 where there is a token.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, rows: Sequence[Row], pad_id: int) -> None:
        self.model, self.anatomy, self.rows = model, anatomy, rows
        device: Any = model.get_input_embeddings().weight.device
        before, after = max(row.start for row in rows), max(len(row.ids) - row.start for row in rows)
        ids = torch.full((len(rows), before + after), pad_id)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            begin = before - row.start
            ids[number, begin : begin + len(row.ids)] = torch.tensor(row.ids)
            mask[number, begin : begin + len(row.ids)] = 1
        # padding on the right may be attended to by padding alone; of a row without beginning, too
        self._attention = mask.clone()
        self._attention[:, before:] = 1
        self._attention = self._attention.to(device)
        self._positions = (mask.cumsum(1) - 1).clamp(min=0).to(device)
        self.before = before
        self.ids, self.mask = ids[:, before:].to(device), mask[:, before:].to(device)
        self._cache: DynamicCache | None = None
        self._entering: dict[int, Tensor] = {}
        self._gives_tuples = False
        if before:
            self._cache = DynamicCache(config=model.config)
            with torch.no_grad():
                model(
                    input_ids=ids[:, :before].to(device),
                    attention_mask=self._attention[:, :before],
                    position_ids=self._positions[:, :before],
                    past_key_values=self._cache,
                    use_cache=True,
                    logits_to_keep=1,
                )

    def subset(self, numbers: Sequence[int]) -> "Ends":
        """Some of the rows, without reading anything again."""
        chosen = torch.tensor(list(numbers), device=self.ids.device)
        mine = copy.copy(self)
        mine.rows = [self.rows[number] for number in numbers]
        mine.ids, mine.mask = self.ids[chosen], self.mask[chosen]
        mine._attention, mine._positions = self._attention[chosen], self._positions[chosen]
        mine._entering = {layer: each[chosen] for layer, each in self._entering.items()}
        mine._cache = _own(self._cache)
        if mine._cache is not None:
            mine._cache.batch_select_indices(chosen)
        return mine

    def entering(self, layer: int) -> Tensor:
        """Hidden states of the ends as they come into a layer, ``[rows, tokens, hidden_size]``; kept."""
        if layer not in self._entering:
            bottom = self.model.get_submodule(self.anatomy.layer(0))
            handle = bottom.register_forward_hook(self._note_tuples)
            with handle:
                self._entering[layer] = self.seen([self.anatomy.layer(layer)], inputs=True)[0]
        return self._entering[layer]

    def _note_tuples(self, module: nn.Module, args: Any, output: Any) -> None:
        self._gives_tuples = isinstance(output, tuple)

    def seen(self, modules: Sequence[str], inputs: bool = False, columns: slice | None = None) -> list[Tensor]:
        """What comes out of modules, or into them, in one pass without gradients: ``[rows, tokens, size]`` each.

        columns: of the ends that are wanted; all by default.
        """
        found: dict[str, Tensor] = {}

        def keep(name: str, value: Any) -> None:
            tensor = (value[0] if isinstance(value, tuple) else value).detach()
            tensor = tensor.reshape(len(self.rows), -1, tensor.shape[-1])  # OPT's MLP has all tokens in one row
            found[name] = tensor if columns is None else tensor[:, columns].clone()

        def hook(name: str) -> Callable[..., None]:
            if inputs:
                return lambda module, args, kwargs: keep(name, args[0] if args else kwargs["hidden_states"])
            return lambda module, args, kwargs, output: keep(name, output)

        with torch.no_grad(), ExitStack() as stack:
            for name in modules:
                module = self.model.get_submodule(name)
                if inputs:
                    handle = module.register_forward_pre_hook(hook(name), with_kwargs=True)
                else:
                    handle = module.register_forward_hook(hook(name), with_kwargs=True)
                stack.callback(handle.remove)
            self._forward(1)
        return [found[name] for name in modules]

    def logits(self, columns: Sequence[int], layer: int = 0, changes: dict[str, Changer] | None = None) -> Tensor:
        """Logits at columns of the ends, ``[rows, columns, vocabulary]``; gradients flow to what ``changes`` add.

        Args:
            layer: what is below is not computed again.
            changes: what to make of the outputs of modules, by name.
        """
        entering = self.entering(layer) if layer else None
        with ExitStack() as stack:
            if entering is not None:
                start = _starting_at(self.model, self.anatomy, layer, entering, self._gives_tuples)
                stack.enter_context(start)
            for name, change in (changes or {}).items():
                stack.enter_context(_changed(self.model.get_submodule(name), change, len(self.rows)))
            return self._forward(torch.tensor(list(columns), device=self.ids.device))

    def _forward(self, keep: int | Tensor) -> Tensor:
        return self.model(
            input_ids=self.ids,
            attention_mask=self._attention,
            position_ids=self._positions[:, self.before :],
            past_key_values=_own(self._cache),
            use_cache=self._cache is not None,
            logits_to_keep=keep,
        ).logits


def _own(cache: DynamicCache | None) -> DynamicCache | None:
    """The cache for one pass: what that adds is forgotten. Its tensors are shared."""
    if cache is None:
        return None
    mine = copy.copy(cache)
    mine.layers = [copy.copy(layer) for layer in cache.layers]
    return mine


@contextmanager
def _starting_at(
    model: nn.Module, anatomy: Anatomy, layer: int, entering: Tensor, gives_tuples: bool
) -> Iterator[None]:
    """Let the model pass over the layers below one, which is given ``entering``.

    gives_tuples: whether a layer gives its hidden states as a tuple's first entry.

    The model itself still makes masks and positions, so that each layer gets its own kind.
    """
    stack: Any = model.get_submodule(anatomy.layers)
    below = [stack[number] for number in range(layer)]
    had = [vars(each).get("forward") for each in below]

    def skip(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states,) if gives_tuples else hidden_states

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            return (entering, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": entering}

    handle = stack[layer].register_forward_pre_hook(enter, with_kwargs=True)
    try:
        for each in below:
            each.forward = skip
        yield
    finally:
        handle.remove()
        for each, former in zip(below, had, strict=True):
            if former is None:
                del each.forward
            else:
                each.forward = former


@contextmanager
def _changed(module: nn.Module, change: Changer, rows: int) -> Iterator[None]:
    def hook(_: nn.Module, args: Any, output: Any) -> Any:
        value = output[0] if isinstance(output, tuple) else output
        new = change(value.reshape(rows, -1, value.shape[-1])).reshape(value.shape)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
