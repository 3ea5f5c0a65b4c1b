"""Random streams: every one is derived from the run's seed and from what it is for.

No stream lives from one iteration to the next, so a checkpoint needs to store none: the streams of
iteration `i` follow from `(seed, i)`, however the run came there.
"""

import zlib

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed that is a function of `seed` and `purpose` alone, e.g. ("tasks", 12)."""
    words = [zlib.crc32(p.encode()) if isinstance(p, str) else p for p in purpose]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0] >> 1)


def slot_generator(seed: int, slot: int) -> np.random.Generator:
    """The stream of one slot."""
    return np.random.default_rng([seed, slot])


def slot_generators(seed: int, num_slots: int) -> list[np.random.Generator]:
    """One stream per slot; slot `i` gets the same one whatever the number of slots."""
    return [slot_generator(seed, slot) for slot in range(num_slots)]


def torch_generator(seed: int, device: torch.device) -> torch.Generator:
    """A generator on `device`."""
    return torch.Generator(device).manual_seed(seed)
