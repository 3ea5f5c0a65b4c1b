"""The kernels of all scenes compile for GPUs, which needs no GPU."""

from types import SimpleNamespace

import pytest
from numba import types

numba_cuda = pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: make test-gpu")

import numba.cuda.dispatcher  # noqa: E402
from numba import cuda  # noqa: E402

from envs.locomotion.native import OUTCOME, act, observe  # noqa: E402
from envs.metaworld.native import act as act_in_metaworld  # noqa: E402
from envs.metaworld.tasks import TASK_CLASSES  # noqa: E402
from envs.metaworld.tasks.interface import observe_function  # noqa: E402
from envs.warp_engine.worlds import WorldCode, world_kernels  # noqa: E402

FLAGS, INTS = types.boolean[::1], types.int32[::1]
SINGLE, DOUBLE = types.float32[:, ::1], types.float64[:, ::1]
COUNT = types.int64
SIGNATURES = {
    "act": (
        COUNT, INTS, SINGLE, DOUBLE, SINGLE, SINGLE, DOUBLE, DOUBLE, INTS, INTS, INTS, FLAGS,
    ),
    "observe": (
        COUNT, INTS, DOUBLE, DOUBLE, SINGLE, DOUBLE, FLAGS, FLAGS, FLAGS, DOUBLE, DOUBLE, DOUBLE,
        INTS, INTS, FLAGS, FLAGS, COUNT,
    ),
    "start": (
        COUNT, INTS, FLAGS, DOUBLE, DOUBLE, SINGLE, DOUBLE, DOUBLE, DOUBLE, DOUBLE, DOUBLE, INTS,
    ),
}  # fmt: skip


def compiled(code, capability, monkeypatch, *, observed=False, names=tuple(SIGNATURES)):
    """PTX of a scene's kernels."""
    # functions called by kernels are compiled for the current GPU, unless one is simulated
    feigned = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(numba.cuda.dispatcher, "get_current_device", lambda: feigned)
    kernels = world_kernels(code, observed=observed)
    return [
        cuda.compile_ptx(getattr(kernels, name), SIGNATURES[name], cc=capability)[0]
        for name in names
    ]


@pytest.mark.parametrize("env_name", TASK_CLASSES)
def test_meta_world(env_name, monkeypatch):
    function = observe_function(TASK_CLASSES[env_name])
    code = WorldCode(env_name.replace("-", "_"), act_in_metaworld, function)
    names = tuple(SIGNATURES) if env_name == "reach-v3" else ("observe",)  # others are the same
    for text in compiled(code, (8, 0), monkeypatch, names=names):
        assert ".target sm_80" in text and ".visible .entry" in text


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize("env_name", ["reach-v3", "stick-push-v3"])
def test_gpus(env_name, capability, monkeypatch):
    code = WorldCode(
        env_name.replace("-", "_"), act_in_metaworld, observe_function(TASK_CLASSES[env_name])
    )
    for text in compiled(code, capability, monkeypatch):
        assert f".target sm_{capability[0]}{capability[1]}" in text


def test_locomotion(monkeypatch):
    code = WorldCode("locomotion", act, observe, over=OUTCOME.index("fallen"))
    for text in compiled(code, (9, 0), monkeypatch, observed=True):
        assert ".visible .entry" in text
