"""The doctor's report is right, helpful and fast."""

import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from metarl import doctor
from metarl.doctor import Finding, Verdict, compiler, examine, packages, physics, rendering_with
from metarl.visual.rendering import attempt, backends
from metarl.visual.rendering.backends import BACKENDS, Probe

ROOT = Path(__file__).parents[2]


def found_in(text: str) -> dict[str, tuple[str, str]]:
    """Verdict and text of each finding, by name."""
    line = re.compile(r"(.+?): (works|optional|FAILS): (.+)")
    return {name: (verdict, what) for name, verdict, what in line.findall(text)}


def test_it_says_what_works_and_ends_soon() -> None:
    started = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "metarl.doctor"], cwd=ROOT, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    taken = time.monotonic() - started
    found = found_in(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
    needed = {"Python", "packages", "physics", "compiler", "processors", "disk"}
    optional = {"CUDA", "GPU rollouts", "video", "tools", "rendering"}
    optional |= {f"rendering: {backend}" for backend in BACKENDS}
    assert set(found) == needed | optional
    assert all(found[name][0] in ("works", "optional") and found[name][1] for name in found)
    assert metadata.version("mujoco") in found["packages"][1]
    assert taken < 30  # 10 on an idle machine


def test_a_wrong_version_fails_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["numpy>=99", "nowhere-to-be-found", "rich>=13", 'pytest<1; extra == "dev"']
    monkeypatch.setattr(metadata, "requires", lambda _: asked)
    found = packages()
    assert found.verdict is Verdict.FAILS
    assert f"numpy is {metadata.version('numpy')}, not >=99" in found.what
    assert "nowhere-to-be-found is not installed" in found.what
    assert "rich" not in found.what and "pytest" not in found.what
    missing = doctor.tools()
    assert missing.verdict is Verdict.OPTIONAL and "pytest" in missing.what


def test_what_a_broken_package_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Finding:
        raise ImportError("libcudart.so:\nno such file")

    monkeypatch.setattr(doctor, "cuda", broken)
    monkeypatch.setattr(doctor, "physics", broken)
    monkeypatch.setattr(doctor, "probe", lambda *_: Probe(works=False, reason="broken"))
    monkeypatch.setattr(backends, "probe", lambda *_: Probe(works=False, reason="broken"))
    found = {one.name: one for one in examine()}
    assert found["CUDA"] == Finding(
        "CUDA", Verdict.OPTIONAL, "ImportError: libcudart.so: no such file"
    )
    assert found["physics"].verdict is Verdict.FAILS
    assert found["rendering"].verdict is Verdict.OPTIONAL
    assert "libosmesa6" in found["rendering"].what


@pytest.mark.parametrize(("verdict", "code"), [(Verdict.OPTIONAL, 0), (Verdict.FAILS, 1)])
def test_only_what_is_needed_decides(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verdict: Verdict,
    code: int,
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: iter([Finding("this", verdict, "[so] it is")]))
    assert doctor.main() == code
    assert capsys.readouterr().out == f"this: {verdict.value}: [so] it is\n"


def test_a_variable_that_keeps_mujoco_from_starting_is_named() -> None:
    check = "from metarl.doctor import physics; print(physics())"
    run = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, env={"MUJOCO_GL": "nonsense"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert "FAILS" in run.stdout and "MUJOCO_GL=nonsense" in run.stdout, run.stderr


def test_a_cache_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "file" / "cache"))
    found = compiler()
    assert found.verdict is Verdict.OPTIONAL and "METARL_CACHE" in found.what
    assert physics().verdict is Verdict.WORKS


def test_only_packages_that_help_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """OSMesa draws without libGL, which EGL and GLFW need."""
    monkeypatch.setattr(attempt, "loads", lambda _: False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert attempt.missing("osmesa") == "libOSMesa.so.8 missing: apt-get install libosmesa6"
    assert attempt.missing("egl").endswith("apt-get install libegl1 libgl1 libegl-mesa0")
    monkeypatch.setattr(attempt, "loads", lambda library: library != "libGL.so.1")
    assert attempt.missing("osmesa") == ""


def test_a_back_end_has_its_line() -> None:
    works = rendering_with("egl", Probe(works=True, reason=""))
    assert (works.verdict, works.what) == (Verdict.WORKS, "draws")
    missing = "libOSMesa.so.8 missing: apt-get install libosmesa6"
    lacks = rendering_with("osmesa", Probe(works=False, reason=missing))
    assert (lacks.verdict, lacks.what) == (Verdict.OPTIONAL, missing)
