"""Random streams: each is derived from the run's seed and its purpose.

No stream lives longer than an iteration, so a checkpoint stores none: the streams of iteration `i`
follow from `(seed, i)` alone, also in a run that was stopped and resumed.
"""

import zlib

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed that depends on `seed` and `purpose` alone, e.g. on ("tasks", 12)."""
    words = [zlib.crc32(p.encode()) if isinstance(p, str) else p for p in purpose]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0] >> 1)


def slot_generator(seed: int, slot: int) -> np.random.Generator:
    """The random stream of one slot."""
    return np.random.default_rng([seed, slot])


def slot_generators(seed: int, num_slots: int) -> list[np.random.Generator]:
    """One random stream per slot; that of slot `i` does not depend on the number of slots."""
    return [slot_generator(seed, slot) for slot in range(num_slots)]


def torch_generator(seed: int, device: torch.device) -> torch.Generator:
    """A torch generator on `device` with the given seed."""
    return torch.Generator(device).manual_seed(seed)
