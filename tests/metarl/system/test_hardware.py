"""Without the packages for rollouts on a GPU, all else works; they are named where needed."""

import subprocess
import sys

import pytest
import torch

from envs.locomotion import LocomotionConfig
from envs.metaworld import MetaWorld
from metarl.doctor import Verdict, gpu_rollouts
from metarl.errors import UserError
from metarl.system import hardware as gpu_packages
from metarl.system.hardware import INSTALL, missing_packages


@pytest.fixture
def bare(monkeypatch):
    """Hides the packages for GPUs, if they are installed."""
    monkeypatch.setattr(gpu_packages, "_is_installed", lambda name: name == "numba-cuda")


@pytest.mark.usefixtures("bare")
def test_the_engine_says_what_to_install():
    benchmark = MetaWorld("ML1-reach-v3", num_goals=1, engine="warp")
    with pytest.raises(UserError, match="needs mujoco-warp and warp-lang") as error:
        benchmark.make_env(2)
    assert str(error.value).endswith(INSTALL)
    locomotion = LocomotionConfig(engine="warp").build()
    with pytest.raises(UserError, match="needs mujoco-warp and warp-lang"):
        locomotion.make_env(2)
    assert benchmark.make_env(1, engine="native").reset()[0].shape == (1, 39)


@pytest.mark.usefixtures("bare")
def test_the_doctor_says_what_to_install():
    found = gpu_rollouts()
    assert found.verdict is Verdict.OPTIONAL and found.what.endswith(INSTALL)


def test_a_gpu_needs_a_compiler_for_it(monkeypatch):
    monkeypatch.setattr(gpu_packages, "_is_installed", lambda name: name != "numba-cuda")
    assert missing_packages(torch.device("cpu")) == []
    assert missing_packages(torch.device("cuda", 0)) == ["numba-cuda"]


def test_the_toolkit_does_not_import_them():
    code = """
import sys, train, evaluate
from envs.metaworld import MetaWorld
MetaWorld("ML1-reach-v3", num_goals=1).make_env(1).reset()
print([name for name in ("warp", "mujoco_warp", "numba_cuda") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr
