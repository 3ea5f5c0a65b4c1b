"""Memories: what carries experience through a trial.

A memory maps inputs `N T D` and a state `N S` to outputs `N T H` and the state after them. One pass
over many steps equals as many passes over one step; an empty memory is all zeros.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from metarl.config import Config, Width
from metarl.errors import UserError
from metarl.nn.memories.attention import HEADS as ATTENTION_HEADS
from metarl.nn.memories.attention import Attention
from metarl.nn.memories.linear_attention import HEADS as LINEAR_HEADS
from metarl.nn.memories.linear_attention import LinearAttention
from metarl.nn.memories.recurrence import Recurrence
from metarl.nn.memories.recurrent import GRU, LSTM
from metarl.nn.memories.retention import HALF_LIVES, Retention
from metarl.nn.memories.stack import Mixer, Stack

MemoryKind = Literal[
    "gru", "lstm", "recurrence", "retention", "linear_attention", "mixed", "transformer"
]


class MemoryConfig(Config):
    """The memory of an agent."""

    memory: MemoryKind = "gru"
    """Carries experience through a trial: `gru`, `lstm`, or residual blocks of a gated linear
    `recurrence`, of `retention`, of both by turns (`mixed`), of `linear_attention`, or of a causal
    `transformer`."""
    layers: Annotated[int, Field(ge=1, le=64)] = 1
    """Blocks of the memory; `gru` and `lstm` have one layer."""
    window: Annotated[int, Field(ge=2, le=4096)] = 128
    """Steps that a transformer looks back, its own included."""
    hidden_size: Width = 128
    """Units of the memory."""


SIZES = {
    "gru": (1, 1),
    "lstm": (1, 1),
    "recurrence": (1, 2),
    "retention": (len(HALF_LIVES), 4 * len(HALF_LIVES)),
    "linear_attention": (LINEAR_HEADS, 4 * LINEAR_HEADS),
    "mixed": (len(HALF_LIVES), 4 * len(HALF_LIVES)),
    "transformer": (2 * ATTENTION_HEADS, 2 * ATTENTION_HEADS),
}
"""What the number of units must be divisible by, and its least: heads share the units, and a
normalized head of one or two units would hold nothing."""


class Memory(Protocol):
    """A memory: an `nn.Module` with these sizes."""

    state_size: int
    """S, numbers of a slot's state."""
    output_size: int
    """H, numbers of an output."""

    def initialize(self) -> None:
        """Draws the initial weights."""
        ...

    def __call__(
        self, x: Float[Tensor, "N T D"], state: Float[Tensor, "N S"]
    ) -> tuple[Float[Tensor, "N T H"], Float[Tensor, "N S"]]:
        """Outputs at each step, and the state after the last."""
        ...


def build_memory(
    kind: MemoryKind, input_size: int, size: int, *, layers: int, window: int
) -> GRU | LSTM | Stack:
    """A memory of this kind.

    Raises:
        UserError: `layers` or `size` do not fit the kind.
    """
    check_memory_size(kind, size, layers=layers)
    if kind in ("gru", "lstm"):
        return (GRU if kind == "gru" else LSTM)(input_size, size)
    mixers: list[Mixer] = []
    for number in range(layers):
        if kind == "recurrence" or (kind == "mixed" and number % 2):
            mixers.append(Recurrence(size))
        elif kind == "linear_attention":
            mixers.append(LinearAttention(size))
        elif kind == "transformer":
            mixers.append(Attention(size, window=window))
        else:
            mixers.append(Retention(size))
    return Stack(input_size, size, mixers)


def check_memory_size(kind: MemoryKind, size: int, *, layers: int) -> None:
    """Checks that a memory of this kind can have that many units and blocks.

    Raises:
        UserError: it cannot.
    """
    if kind in ("gru", "lstm") and layers > 1:
        raise UserError(f"agent.memory {kind} has one layer; leave out agent.layers {layers}")
    if kind == "mixed" and layers == 1:
        raise UserError(
            "agent.memory mixed is retention and recurrence; give agent.layers 2 or more"
        )
    multiple, least = SIZES[kind]
    if size % multiple or size < least:
        raise UserError(
            f"agent.memory {kind} needs an agent.hidden_size of at least {least}, a multiple of "
            f"{multiple}, not {size}"
        )
