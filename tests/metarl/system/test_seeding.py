"""Random streams against NumPy's own seeding."""

import numpy as np
import pytest

from metarl.system.seeding import slot_generators


@pytest.mark.parametrize("bits", [1, 31, 32, 33, 63, 64, 96, 128, 160, 200])
def test_streams_of_many_slots_are_those_that_numpy_seeds_one_by_one(bits: int) -> None:
    """For seeds of one to seven words; NumPy mixes the first four words differently."""
    slots = [0, 1, 2, 999, 2**32 - 1]
    for seed in (2 ** (bits - 1), 2**bits - 1):
        for slot, rng in zip(slots, slot_generators(seed, slots), strict=True):
            theirs = np.random.default_rng([seed, slot])
            assert rng.bit_generator.state == theirs.bit_generator.state
            assert rng.normal() == theirs.normal()
    assert slot_generators(0, [3])[0].random() == np.random.default_rng([0, 3]).random()
