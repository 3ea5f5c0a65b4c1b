"""Test of a back end: draws a small scene in a process that `backends.probe` starts.

Exits with 0 if the picture is right, else with 1; the last printed line is then the reason.
"""

# pyright: reportAttributeAccessIssue=false
# Type checkers cannot see mujoco's C code.

from __future__ import annotations

import ctypes
import os
import sys

BALL = """<mujoco><worldbody>
  <light pos="0 0 3"/> <geom type="sphere" size=".3" rgba="1 .5 0 1"/>
</worldbody></mujoco>"""
LIBRARIES = {
    "egl": {
        "libEGL.so.1": "libegl1",
        "libGL.so.1": "libgl1",
        "libEGL_mesa.so.0": "libegl-mesa0",
    },
    "osmesa": {"libOSMesa.so.8": "libosmesa6"},  # needs no libGL
    "glfw": {"libX11.so.6": "libx11-6", "libGL.so.1": "libgl1"},
}
"""Shared libraries that each back end needs, with the Debian packages that contain them."""
DRIVERS = {"libEGL_mesa.so.0": "libEGL_nvidia.so.0"}
"""Substitutes for libraries."""


def main(backend: str) -> int:
    """Tests a back end; returns the exit code."""
    try:
        reason = failure()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    if not reason:
        return 0
    print(missing(backend) or reason)
    return 1


def failure() -> str:
    """Draws the scene; returns the reason of a failure, '' if the picture shows something."""
    import mujoco  # not at the top, as it fails if a library is missing

    model = mujoco.MjModel.from_xml_string(BALL)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, height=48, width=64) as renderer:
        renderer.update_scene(data)
        picture = renderer.render()
    return "" if picture.min() < picture.max() else "draws nothing"


def missing(backend: str) -> str:
    """Missing libraries or display of this machine, in words; '' if unknown."""
    if sys.platform != "linux":
        return ""
    lacking = {
        library: package
        for library, package in LIBRARIES[backend].items()
        if not loads(library) and not (library in DRIVERS and loads(DRIVERS[library]))
    }
    if lacking:
        packages = " ".join(lacking.values())
        return f"{', '.join(lacking)} missing: apt-get install {packages}"
    if backend == "glfw" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
        return "no display: neither DISPLAY nor WAYLAND_DISPLAY is set"
    return ""


def loads(library: str) -> bool:
    """True if the system can load a shared library and its dependencies."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    # Skips the interpreter's clean-up, in which a half-made OpenGL context can crash.
    os._exit(code)
