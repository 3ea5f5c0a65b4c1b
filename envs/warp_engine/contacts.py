"""Contacts of bodies that are welded to a moving one, as stiff as they are in MuJoCo.

Up to its version 3.13 at least, MuJoCo Warp takes the inverse weight of the body that a geom's body
is welded to, where MuJoCo takes that of the geom's body. Where these differ much, things fall
through tables: the stick of Meta-World's stick-push is a thousand times too soft.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# Type checkers see nothing of mujoco's C code, and Warp is not where they look.

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
def weighed_contacts() -> Iterator[None]:
    """While this lasts, MuJoCo Warp's passes, however they integrate, weigh contacts that way."""
    with patch.object(constraint, "make_constraint", _make_weighed_constraint):
        yield


def _make_weighed_constraint(model: mjw.Model, data: mjw.Data) -> None:
    _make_constraint(model, data)
    contact = data.contact
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
