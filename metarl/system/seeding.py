"""Random streams: each is derived from the run's seed and its purpose.

No stream lives longer than an iteration, so a checkpoint stores none: the streams of iteration `i`
follow from `(seed, i)` alone, also in a run that was stopped and resumed.
"""

import zlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import UInt64
from numpy.random.bit_generator import ISeedSequence


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed that depends on `seed` and `purpose` alone, e.g. on ("tasks", 12)."""
    words = [zlib.crc32(p.encode()) if isinstance(p, str) else p for p in purpose]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0] >> 1)


def slot_generator(seed: int, slot: int) -> np.random.Generator:
    """The random stream of one slot."""
    return np.random.default_rng([seed, slot])


def slot_generators(seed: int, slots: Sequence[int]) -> list[np.random.Generator]:
    """`slot_generator` of many slots, in a tenth of the time; a stream does not depend on the
    number of slots."""
    states = _generated_states(seed, slots)
    return [np.random.Generator(np.random.PCG64(cast(Any, _SlotSeed(state)))) for state in states]


class _SlotSeed(ISeedSequence):
    """The state that a slot's PCG64 starts from."""

    def __init__(self, state: UInt64[np.ndarray, " 4"]) -> None:
        self._state = state

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> UInt64[np.ndarray, " 4"]:
        """The state; PCG64 asks for no other words."""
        assert (n_words, dtype) == (len(self._state), np.uint64)
        return self._state


def _generated_states(seed: int, slots: Sequence[int]) -> UInt64[np.ndarray, "N 4"]:
    """`SeedSequence([seed, slot]).generate_state(4, np.uint64)` for many slots at once.

    This is NumPy's algorithm (O'Neill 2015, "Developing a seed_seq alternative"), with an array
    over slots in the place of each word. NumPy guarantees that it stays the same.
    """
    size, every = 4, 0xFFFFFFFF
    words = [np.uint32(seed >> shift & every) for shift in range(0, max(seed.bit_length(), 1), 32)]
    entropy = [*words, np.array(slots, dtype=np.uint32)]
    entropy += [np.uint32(0)] * (size - len(entropy))
    constant = 0x43B0D7E5

    def hashed(value, factor=0x931E8875):
        nonlocal constant
        value = value ^ np.uint32(constant)
        constant = constant * factor & every
        value = value * np.uint32(constant)
        return value ^ value >> np.uint32(16)

    def mixed(one, other):
        value = np.uint32(0xCA01F9DD) * one - np.uint32(0x4973F715) * hashed(other)
        return value ^ value >> np.uint32(16)

    with np.errstate(over="ignore"):  # words that all slots share are scalars, which would warn
        pool = [hashed(word) for word in entropy[:size]]
        for source in range(size):
            for target in range(size):
                if target != source:
                    pool[target] = mixed(pool[target], pool[source])
        for word in entropy[size:]:
            pool = [mixed(one, word) for one in pool]
        constant = 0x8B51F9DD
        state = [hashed(pool[k % size], 0x58F38DED) for k in range(2 * size)]
    return np.stack(state, axis=1).astype("<u4").view("<u8").astype(np.uint64)


def torch_generator(seed: int, device: torch.device) -> torch.Generator:
    """A torch generator on `device` with the given seed."""
    return torch.Generator(device).manual_seed(seed)
