"""Which vector, at the subject's last token, makes the model say the target: the step that ROME and its kin share.

Source: ROME, arXiv 2202.05262, section 3.1 (value), its code for the order of things; MEMIT, 2210.07229, uses the same
at the output of a block. All edits of a batch are optimised at once, each with its own vector, its own loss and its own
end, so that a batch gives what each edit would get alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from src.editing.anatomy import Anatomy
from src.editing.contexts import Contexts
from src.editing.edit import Edit
from src.editing.encoding import LABEL_NONE, Encoder
from src.editing.running import Ends, Row
from src.errors import UserError

ESSENCE = {"en": "{} is a", "zh": "{}是一个"}


@dataclass(frozen=True)
class ValueSettings:
    """Of the optimisation.

    steps: at most so many forward passes; one fewer steps of Adam.
    lr: Adam's.
    weight_decay: times ``|delta| / |init|²``, added to the loss.
    kl_factor: times the divergence of what the model says of the subject itself.
    clamp: the longest vector, as a multiple of the hidden state that it is added to.
    stop_loss: an edit below it is done.
    """

    steps: int = 25
    lr: float = 0.5
    weight_decay: float = 1e-3
    kl_factor: float = 0.0625
    clamp: float = 4.0
    stop_loss: float = 0.05


@dataclass(frozen=True)
class Values:
    """What was found, ``[edits, size]`` each.

    init: output of the module at the bare prompt, before.
    delta: what has to be added to it.
    losses: at the end, ``[edits]``.
    steps: that each edit took, ``[edits]``.
    """

    init: Tensor
    delta: Tensor
    losses: Tensor
    steps: Tensor

    @property
    def target(self) -> Tensor:
        return self.init + self.delta


class EditRows:
    """The rows of a batch of edits: each prompt in its contexts with the target, and the subject by itself.

    The rows of an edit stand together, the bare prompt first and the subject's own row last.

    Raises:
        UserError: an edit has no subject.
    """

    def __init__(
        self, model: PreTrainedModel, anatomy: Anatomy, encoder: Encoder, edits: Sequence[Edit], contexts: Contexts
    ) -> None:
        self.anatomy, self.edits = anatomy, edits
        rows: list[Row] = []
        self._labels: list[list[tuple[int, int]]] = []  # of each row: column, token
        self._edit_of: list[int] = []
        self.bare: list[int] = []
        for number, edit in enumerate(edits):
            if edit.subject is None:
                raise UserError(f"edit {edit.id} has no subject, which this method writes at: give one")
            self.bare.append(len(rows))
            for prompt in contexts.of(edit.prompt):
                found = encoder.encode(prompt, edit.target_new, edit.subject)
                start = found.subject_last or 0
                rows.append(Row(found.ids[:-1], start))
                pairs = zip(found.predictors, found.target_ids, strict=True)
                self._labels.append([(position - start, token) for position, token in pairs])
                self._edit_of.append(number)
            language = "zh" if any("\u4e00" <= letter <= "\u9fff" for letter in edit.prompt) else "en"
            essence = encoder.encode(ESSENCE[language].format(edit.subject), subject=edit.subject)
            rows.append(Row(essence.ids, essence.subject_last or 0))
            self._labels.append([])
            self._edit_of.append(number)
        self.ends = Ends(model, anatomy, rows, int(encoder.tokenizer.pad_token_id or 0))

    @cached_property
    def columns(self) -> list[int]:
        """Of the ends, where logits are needed."""
        return sorted({0} | {column for labels in self._labels for column, _ in labels})

    @cached_property
    def labels(self) -> Tensor:
        """Tokens that are wanted at `columns`, ``[rows, columns]``; -100 for none."""
        found = torch.full((len(self._labels), len(self.columns)), LABEL_NONE)
        place = {column: index for index, column in enumerate(self.columns)}
        for row, labels in enumerate(self._labels):
            for column, token in labels:
                found[row, place[column]] = token
        return found.to(self.ends.ids.device)

    @cached_property
    def edit_of(self) -> Tensor:
        """The edit of each row, ``[rows]``."""
        return torch.tensor(self._edit_of, device=self.ends.ids.device)

    @property
    def is_essence(self) -> Tensor:
        """Which rows are a subject by itself, ``[rows]``."""
        return (self.labels == LABEL_NONE).all(1)

    def mean_keys(self, layer: int, halves: bool = False) -> Tensor:
        """The input of a layer's last MLP matrix at the subject's last token, mean over contexts: ``[edits, size]``.

        Args:
            halves: the bare prompt counts as much as all others together (MEMIT) and not as one of them (ROME).
        """
        (keys,) = self.ends.seen([self._matrix(layer)], inputs=True, columns=slice(0, 1))
        found = []
        for number in range(len(self.edits)):
            mine = keys[(self.edit_of == number) & ~self.is_essence, 0]
            others = mine[1:].mean(0) if len(mine) > 1 else mine[0]
            found.append((mine[0] + others) / 2 if halves else mine.mean(0))
        return torch.stack(found)

    def bare_keys(self, layer: int) -> Tensor:
        """The same of the bare prompts, ``[edits, size]``."""
        (keys,) = self.ends.seen([self._matrix(layer)], inputs=True, columns=slice(0, 1))
        return keys[self.bare, 0]

    def outputs(self, module: str) -> Tensor:
        """What a module gives at the subject's last token of the bare prompts, ``[edits, size]``."""
        (found,) = self.ends.seen([module], columns=slice(0, 1))
        return found[self.bare, 0]

    def _matrix(self, layer: int) -> str:
        return f"{self.anatomy.layer(layer)}.{self.anatomy.mlp_out}"


def optimize_values(rows: EditRows, module: str, layer: int, settings: ValueSettings | None = None) -> Values:
    """What has to be added to a module's output at the subject's last token for each edit's target to follow.

    Args:
        module: its name; in ``layer`` or above.
        layer: what is below stays as it is.
    """
    settings = settings or ValueSettings()
    init = rows.outputs(module).float()
    count = len(rows.edits)
    delta = torch.zeros_like(init, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=settings.lr)
    losses, steps = init.new_zeros(count), torch.zeros(count, dtype=torch.long)
    longest = settings.clamp * init.norm(dim=1, keepdim=True)
    rows.ends.entering(layer)
    work = _Work(rows, module, layer, torch.arange(count))
    before: Tensor | None = None  # what the model says of each subject, log probabilities
    for step in range(settings.steps):
        found, essence = work.losses(delta)
        before = essence.detach() if before is None else before
        divergence = F.kl_div(essence, before[work.active], log_target=True, reduction="none").sum(-1)
        decay = delta[work.active].norm(dim=1) / init[work.active].norm(dim=1).square()
        total = found + settings.kl_factor * divergence + settings.weight_decay * decay
        losses[work.active], steps[work.active.cpu()] = total.detach(), step
        going = total.detach() >= settings.stop_loss
        if step == settings.steps - 1 or not going.any():
            break
        optimizer.zero_grad()
        total[going].sum().backward()
        held = delta.detach().clone()
        optimizer.step()
        with torch.no_grad():
            still = torch.zeros(count, dtype=torch.bool, device=delta.device)
            still[work.active[going]] = True
            delta[~still] = held[~still]  # Adam's momentum would move those that are done
            delta.mul_((longest / delta.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1))
        work = work.without(going)
    return Values(init, delta.detach(), losses, steps)


class _Work:
    """The rows of the edits that are not done yet."""

    def __init__(self, rows: EditRows, module: str, layer: int, active: Tensor, ends: Ends | None = None) -> None:
        self.rows, self.module, self.layer = rows, module, layer
        self.active = active.to(rows.edit_of.device)
        chosen = torch.isin(rows.edit_of, self.active)
        self.numbers = chosen.nonzero()[:, 0]
        self.ends = ends if ends is not None else rows.ends
        self.edit_of, self.labels = rows.edit_of[chosen], rows.labels[chosen]
        self.is_essence = rows.is_essence[chosen]
        self.slot = torch.searchsorted(self.active, self.edit_of)  # of each row, among the active edits

    def without(self, going: Tensor) -> "_Work":
        """Only the edits that go on, as soon as a quarter of them is done: until then it is not worth the copy."""
        if int(going.sum()) > 0.75 * len(going):
            return self
        active = self.active[going]
        keep = torch.isin(self.edit_of, active).nonzero()[:, 0].tolist()
        return _Work(self.rows, self.module, self.layer, active, self.ends.subset(keep))

    def losses(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of each active edit's target, ``[active]``, and what is said of its subject, ``[active, V]``."""
        added = delta[self.edit_of]

        def add(values: Tensor) -> Tensor:
            first = values[:, :1] + added[:, None].to(values.dtype)
            return torch.cat([first, values[:, 1:]], 1)

        logits = self.ends.logits(self.rows.columns, self.layer, {self.module: add})
        essence = torch.log_softmax(logits[self.is_essence, 0].float(), -1)
        wanted = self.labels != LABEL_NONE
        nll = torch.zeros(self.labels.shape, device=logits.device)
        nll[wanted] = F.cross_entropy(logits[wanted].float(), self.labels[wanted], reduction="none")
        of_row = nll.sum(1) / wanted.sum(1).clamp(min=1)
        prompts = ~self.is_essence
        total = torch.zeros(len(self.active), device=logits.device).index_add(0, self.slot[prompts], of_row[prompts])
        number = torch.bincount(self.slot[prompts], minlength=len(self.active))
        return total / number, essence
