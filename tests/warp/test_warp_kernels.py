"""Kernels around MuJoCo Warp's step, with numbers computed by hand."""

import numpy as np
import pytest

wp = pytest.importorskip("warp", reason="Warp is not installed: make test-gpu")

from envs.warp_engine import kernels  # noqa: E402


def array(values, dtype=float):
    return wp.array(np.asarray(values), dtype=dtype)


def test_needs_are_the_most_of_all_worlds_and_steps():
    needs = wp.zeros(kernels.NUM_NEEDS, dtype=int)
    for nefc, contacts, pairs in (([1, 5], 2, 3), ([4, 2], 1, 7)):
        inputs = [array(nefc, int), array([contacts], int), array([pairs], int)]
        wp.launch(kernels.note_needs, dim=2, inputs=inputs, outputs=[needs])
    assert needs.numpy().tolist() == [5, 2, 7]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e11])
def test_a_world_is_unstable_whose_state_is_not_finite_or_too_large(bad):
    for name in ("qpos", "qvel", "qacc"):
        state = {key: np.ones((3, 2)) for key in ("qpos", "qvel", "qacc")}
        state[name][1, 1] = bad
        stable = wp.zeros(3, dtype=bool)
        inputs = [array(values) for values in state.values()]
        wp.launch(kernels.check_stable, dim=3, inputs=inputs, outputs=[stable])
        assert stable.numpy().tolist() == [True, False, True], name


def test_readings_are_gathered_column_by_column():
    readings = wp.zeros((2, 4), dtype=wp.float64)
    source = array([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]])
    inputs = [source, array([2, 0], int), array([1, 3], int)]
    wp.launch(kernels.gather, dim=(2, 2), inputs=inputs, outputs=[readings])
    assert readings.numpy().tolist() == [[0.0, 2.0, 0.0, 0.0], [0.0, 12.0, 0.0, 10.0]]


def test_touches_are_sums_over_the_contacts_of_two_geoms_in_either_order():
    readings = wp.zeros((2, 3), dtype=wp.float64)
    geoms = wp.array([(4, 7), (7, 4), (4, 8), (4, 7), (4, 7), (4, 7)], dtype=wp.vec2i)
    worlds = array([0, 0, 0, 1, 1, 0], int)
    addresses = array([[0, 1], [2, 3], [1, 0], [0, 1], [-1, -1], [3, 0]], int)
    forces = array([[1.0, 20.0, 300.0, 4000.0], [5.0, 0.0, 0.0, 0.0]])
    pairs = wp.array([(7, 4)], dtype=wp.vec2i)
    wp.launch(
        kernels.add_touches,
        dim=(6, 1),
        inputs=[array([5], int), geoms, worlds, addresses, forces, pairs, array([2], int)],
        outputs=[readings],
    )
    # the sixth contact is beyond the number of contacts, the fifth has no constraint
    assert readings.numpy().tolist() == [[0.0, 0.0, 301.0], [0.0, 0.0, 5.0]]
    wp.launch(kernels.clear_touches, dim=(2, 1), inputs=[array([2], int)], outputs=[readings])
    assert not readings.numpy().any()


def test_contacts_are_weighed_by_the_bodies_of_their_geoms():
    # geom 1 is of body 2, which is welded to body 1; on the world's side both weights count as 0
    weights = wp.array([[(0.0, 0.0), (30.0, 0.0), (10.0, 0.0)]], dtype=wp.vec2)
    stiffness = array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    common = [
        array([2], int), wp.array([(0, 1), (0, 2)], dtype=wp.vec2i), array([0, 0], int),
        array([3, 3], int), array([[0, 1, 2, 0], [3, 4, 0, 0]], int),
    ]  # fmt: skip
    bodies = [array([0, 2, 1], int), array([0, 1, 1], int), weights]
    wp.launch(kernels.weigh_contacts, dim=2, inputs=[*common, True, *bodies], outputs=[stiffness])
    assert stiffness.numpy()[0].tolist() == [3.0, 6.0, 9.0, 4.0, 5.0]  # times 30 / 10


def test_contacts_of_capsules_on_planes_follow_the_capsule():
    # a capsule along (3, 0, 4) / 5, steep on the plane z = 0, and a sphere, which stays unchanged
    turned = np.stack([np.eye(3), np.eye(3), np.eye(3)])
    turned[1, :, 2] = 0.6, 0.0, 0.8
    before = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], dtype=float)
    frames = wp.array([before, before], dtype=wp.mat33)
    wp.launch(
        kernels.align_with_capsules,
        dim=2,
        inputs=[
            array([2], int), wp.array([(0, 1), (0, 2)], dtype=wp.vec2i), array([0, 0], int),
            array([0, 3, 2], int), 0, 3, wp.array(turned[None], dtype=wp.mat33),
        ],
        outputs=[frames],
    )  # fmt: skip
    np.testing.assert_allclose(frames.numpy()[0], [[0, 0, 1], [1, 0, 0], [0, 1, 0]], atol=1e-6)
    np.testing.assert_array_equal(frames.numpy()[1], before)


def test_starts_are_restored_where_the_mask_says_so():
    def state(value):
        return [
            *(array(np.full((2, size), value)) for size in (3, 2)),
            *([array(np.full((2, 2), value))] if value == 9.0 else []),  # qacc has no start
            array(np.full((2, 2), value)), array(np.full((2, 1), value)),
            wp.array(np.full((2, 1, 3), value), dtype=wp.vec3),
            wp.array(np.full((2, 1, 4), value), dtype=wp.quat),
        ]  # fmt: skip

    starts, now = state(1.0), state(9.0)
    forces = wp.array(np.full((2, 1, 6), 9.0), dtype=wp.spatial_vector)
    time = array([9.0, 9.0])
    mask = wp.array([False, True], dtype=bool)
    wp.launch(kernels.restore, dim=2, inputs=[mask, *starts], outputs=[*now, forces, time])
    for part in (*now, forces, time):
        assert (part.numpy()[0] == 9.0).all()
        assert np.isin(part.numpy()[1], (0.0, 1.0)).all()
    assert (now[0].numpy()[1] == 1.0).all() and (now[2].numpy()[1] == 0.0).all()
    assert (forces.numpy()[1] == 0.0).all() and time.numpy()[1] == 0.0


def draw(seeds, *, times, slots=None, normal=False, size=200):
    count = len(seeds)
    drawn = wp.zeros(count, dtype=int)
    qpos, qvel = (wp.zeros((count, size), dtype=float) for _ in range(2))
    slots = array(range(count) if slots is None else slots, int)
    for _ in range(times):
        qpos.zero_()
        qvel.zero_()
        inputs = [wp.ones(count, dtype=bool), slots, array(seeds, wp.uint32), drawn, 0.1, normal]
        wp.launch(kernels.add_noise, dim=count, inputs=inputs, outputs=[qpos, qvel])
    return qpos.numpy(), qvel.numpy()


def test_noise_follows_from_a_slots_seed_and_how_often_it_drew():
    first, second = (draw([5, 6], times=times)[0] for times in (1, 2))
    assert np.isclose(first, second).mean() < 0.05
    assert np.isclose(first[0], first[1]).mean() < 0.05
    np.testing.assert_array_equal(draw([5, 6], times=2)[0], second)
    np.testing.assert_array_equal(draw([6], times=2)[0][0], second[1])  # regardless of other slots
    swapped, _ = draw([5, 6], times=1, slots=[1, 0])
    np.testing.assert_array_equal(swapped[::-1], first)


def test_noise_is_as_large_as_gymnasiums():
    qpos, qvel = draw([1, 2, 3], times=1, size=4000)
    for values in (qpos, qvel):
        assert np.abs(values).max() <= 0.1
        assert abs(values.mean()) < 0.003 and abs(values.std() - 0.1 / 3**0.5) < 0.002
    _, normal = draw([1, 2, 3], times=1, size=4000, normal=True)
    assert abs(normal.std() - 0.1) < 0.003 and np.abs(normal).max() > 0.25
