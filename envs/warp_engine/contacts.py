"""Corrections that give MuJoCo Warp's contacts the values of MuJoCo.

Up to version 3.13 at least, MuJoCo Warp uses the inverse weight of the body to which a geom's body
is welded; MuJoCo uses that of the geom's body. If they differ much, objects fall through tables:
the stick of Meta-World's stick-push is a thousand times too soft. Also, its friction pyramids do
not follow capsules that stand steeply on a plane, as the legs of Gymnasium's robots do.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# Type checkers cannot see into mujoco's C code, and Warp is not in their environment.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import mujoco
import mujoco_warp as mjw
import warp as wp
from mujoco_warp._src import constraint

from envs.warp_engine import kernels

_make_constraint = constraint.make_constraint


@contextmanager
def mujocos_contacts() -> Iterator[None]:
    """Context in which MuJoCo Warp uses MuJoCo's contacts, with any integrator."""
    with patch.object(constraint, "make_constraint", _make_mujocos_constraint):
        yield


def _make_mujocos_constraint(model: mjw.Model, data: mjw.Data) -> None:
    contact = data.contact
    wp.launch(
        kernels.align_with_capsules,
        dim=data.naconmax,
        inputs=[
            data.nacon, contact.geom, contact.worldid, model.geom_type,
            int(mujoco.mjtGeom.mjGEOM_PLANE), int(mujoco.mjtGeom.mjGEOM_CAPSULE), data.geom_xmat,
        ],
        outputs=[contact.frame],
    )  # fmt: skip
    _make_constraint(model, data)
    wp.launch(
        kernels.weigh_contacts,
        dim=data.naconmax,
        inputs=[
            data.nacon, contact.geom, contact.worldid, contact.dim, contact.efc_address,
            model.opt.cone == mujoco.mjtCone.mjCONE_ELLIPTIC, model.geom_bodyid,
            model.body_weldid, model.body_invweight0,
        ],
        outputs=[data.efc.D],
    )  # fmt: skip
