"""Warp kernels around MuJoCo Warp's step: starts, readings and checks.

MuJoCo Warp computes in float32; readings are converted to float64, in which tasks compute.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportInvalidTypeForm=false
# pyright: reportCallIssue=false
# Kernels are not Python: type checkers take `wp.array(...)` in a signature for a call.

from typing import no_type_check  # also at run time, where tests check the types of calls

import warp as wp

wp.set_module_options({"enable_backward": False})

MOST_NEFC, MOST_NACON, MOST_COLLISIONS, NUM_NEEDS = range(4)
TOO_LARGE = wp.constant(1.0e10)  # mjMAXVAL: MuJoCo calls a state unstable from there on


@wp.kernel
@no_type_check
def restore(
    mask: wp.array(dtype=bool),
    start_qpos: wp.array2d(dtype=float),
    start_qvel: wp.array2d(dtype=float),
    start_warmstart: wp.array2d(dtype=float),
    start_ctrl: wp.array2d(dtype=float),
    start_mocap_pos: wp.array2d(dtype=wp.vec3),
    start_mocap_quat: wp.array2d(dtype=wp.quat),
    qpos: wp.array2d(dtype=float),
    qvel: wp.array2d(dtype=float),
    qacc: wp.array2d(dtype=float),
    warmstart: wp.array2d(dtype=float),
    ctrl: wp.array2d(dtype=float),
    mocap_pos: wp.array2d(dtype=wp.vec3),
    mocap_quat: wp.array2d(dtype=wp.quat),
    cfrc_ext: wp.array2d(dtype=wp.spatial_vector),
    time: wp.array(dtype=float),
):
    """Resets the masked worlds to their starts."""
    world = wp.tid()
    if not mask[world]:
        return
    for k in range(qpos.shape[1]):
        qpos[world, k] = start_qpos[world, k]
    for k in range(qvel.shape[1]):
        qvel[world, k] = start_qvel[world, k]
        qacc[world, k] = 0.0
        warmstart[world, k] = start_warmstart[world, k]
    for k in range(ctrl.shape[1]):
        ctrl[world, k] = start_ctrl[world, k]
    for k in range(mocap_pos.shape[1]):
        mocap_pos[world, k] = start_mocap_pos[world, k]
        mocap_quat[world, k] = start_mocap_quat[world, k]
    for k in range(cfrc_ext.shape[1]):
        cfrc_ext[world, k] = wp.spatial_vector()  # clears forces of the last episode
    time[world] = 0.0


@wp.kernel
@no_type_check
def add_noise(
    mask: wp.array(dtype=bool),
    slots: wp.array(dtype=int),
    seeds: wp.array(dtype=wp.uint32),
    drawn: wp.array(dtype=int),
    scale: float,
    normal_velocities: bool,
    qpos: wp.array2d(dtype=float),
    qvel: wp.array2d(dtype=float),
):
    """Adds noise to the starts of the masked worlds, from each slot's seed and number of draws.

    The noise of positions is uniform within ± scale; that of velocities is uniform or normal.
    """
    world = wp.tid()
    slot = slots[world]
    if slot < 0 or not mask[world]:
        return
    state = wp.rand_init(int(seeds[slot]), drawn[slot])
    drawn[slot] = drawn[slot] + 1
    for k in range(qpos.shape[1]):
        qpos[world, k] = qpos[world, k] + scale * wp.randf(state, -1.0, 1.0)
    for k in range(qvel.shape[1]):
        if normal_velocities:
            qvel[world, k] = qvel[world, k] + scale * wp.randn(state)
        else:
            qvel[world, k] = qvel[world, k] + scale * wp.randf(state, -1.0, 1.0)


@wp.kernel
@no_type_check
def note_needs(
    nefc: wp.array(dtype=int),
    nacon: wp.array(dtype=int),
    ncollision: wp.array(dtype=int),
    needs: wp.array(dtype=int),
):
    """Updates the largest number of constraints per world, and of contacts and pairs in total."""
    world = wp.tid()
    wp.atomic_max(needs, MOST_NEFC, nefc[world])
    if world == 0:
        wp.atomic_max(needs, MOST_NACON, nacon[0])
        wp.atomic_max(needs, MOST_COLLISIONS, ncollision[0])


@wp.kernel
@no_type_check
def check_stable(
    qpos: wp.array2d(dtype=float),
    qvel: wp.array2d(dtype=float),
    qacc: wp.array2d(dtype=float),
    stable: wp.array(dtype=bool),
):
    """Checks that all numbers of a world's state are finite and within MuJoCo's bound."""
    world = wp.tid()
    fine = wp.bool(True)  # so that Warp takes it for a variable, not a constant
    for k in range(qpos.shape[1]):
        fine = fine and wp.abs(qpos[world, k]) < TOO_LARGE  # False for NaN
    for k in range(qvel.shape[1]):
        fine = fine and wp.abs(qvel[world, k]) < TOO_LARGE
        fine = fine and wp.abs(qacc[world, k]) < TOO_LARGE
    stable[world] = fine


@wp.kernel
@no_type_check
def gather(
    source: wp.array2d(dtype=float),
    columns: wp.array(dtype=int),
    places: wp.array(dtype=int),
    readings: wp.array2d(dtype=wp.float64),
):
    """Copies columns of one array of `mjData` to their columns of the readings."""
    world, k = wp.tid()
    readings[world, places[k]] = wp.float64(source[world, columns[k]])


@wp.kernel
@no_type_check
def clear_touches(places: wp.array(dtype=int), readings: wp.array2d(dtype=wp.float64)):
    """Zeroes the readings in which `add_touches` accumulates."""
    world, k = wp.tid()
    readings[world, places[k]] = wp.float64(0.0)


@wp.kernel
@no_type_check
def add_touches(
    num_contacts: wp.array(dtype=int),
    geoms: wp.array(dtype=wp.vec2i),
    worlds: wp.array(dtype=int),
    addresses: wp.array2d(dtype=int),
    forces: wp.array2d(dtype=float),
    pairs: wp.array(dtype=wp.vec2i),
    places: wp.array(dtype=int),
    readings: wp.array2d(dtype=wp.float64),
):
    """Adds each contact's first constraint force (N) to the reading of its pair of geoms."""
    contact, k = wp.tid()
    if contact >= num_contacts[0]:
        return
    address = addresses[contact, 0]
    if address < 0:  # a contact without a constraint exerts no force
        return
    pair, wanted = geoms[contact], pairs[k]
    if (pair[0] == wanted[0] and pair[1] == wanted[1]) or (
        pair[0] == wanted[1] and pair[1] == wanted[0]
    ):
        world = worlds[contact]
        wp.atomic_add(readings, world, places[k], wp.float64(forces[world, address]))


@wp.kernel
@no_type_check
def align_with_capsules(
    num_contacts: wp.array(dtype=int),
    geoms: wp.array(dtype=wp.vec2i),
    worlds: wp.array(dtype=int),
    geom_type: wp.array(dtype=int),
    plane: int,
    capsule: int,
    geom_xmat: wp.array2d(dtype=wp.mat33),
    frames: wp.array(dtype=wp.mat33),
):
    """Aligns the first tangent of capsule-plane contacts with the capsule.

    MuJoCo Warp does so only if the capsule is at less than 60 degrees to the plane.
    """
    contact = wp.tid()
    if contact >= num_contacts[0]:
        return
    pair = geoms[contact]
    if geom_type[pair[0]] != plane or geom_type[pair[1]] != capsule:
        return
    turned, frame = geom_xmat[worlds[contact], pair[1]], frames[contact]
    axis = wp.vec3(turned[0, 2], turned[1, 2], turned[2, 2])
    normal = wp.vec3(frame[0, 0], frame[0, 1], frame[0, 2])
    along = axis - normal * wp.dot(normal, axis)
    if wp.length(along) < 1.0e-6:  # an upright capsule
        return
    along = wp.normalize(along)
    across = wp.cross(normal, along)
    frames[contact] = wp.mat33(
        normal[0], normal[1], normal[2],
        along[0], along[1], along[2],
        across[0], across[1], across[2],
    )  # fmt: skip


@wp.kernel
@no_type_check
def weigh_contacts(
    num_contacts: wp.array(dtype=int),
    geoms: wp.array(dtype=wp.vec2i),
    worlds: wp.array(dtype=int),
    dimensions: wp.array(dtype=int),
    addresses: wp.array2d(dtype=int),
    elliptic: bool,
    geom_bodyid: wp.array(dtype=int),
    body_weldid: wp.array(dtype=int),
    body_invweight0: wp.array2d(dtype=wp.vec2),
    efc_d: wp.array2d(dtype=float),
):
    """Rescales the stiffness of contacts to the inverse weights of their geoms' bodies.

    MuJoCo Warp uses the inverse weights of the bodies to which these are welded.
    """
    contact = wp.tid()
    if contact >= num_contacts[0] or addresses[contact, 0] < 0:
        return
    world, pair = worlds[contact], geoms[contact]
    body1, body2 = geom_bodyid[pair[0]], geom_bodyid[pair[1]]
    row = world % body_invweight0.shape[0]
    own = body_invweight0[row, body1][0] + body_invweight0[row, body2][0]
    taken = (
        body_invweight0[row, body_weldid[body1]][0] + body_invweight0[row, body_weldid[body2]][0]
    )
    if own <= 0.0 or own == taken:
        return
    rows = dimensions[contact]
    if not elliptic and rows > 1:
        rows = 2 * (rows - 1)
    for k in range(rows):
        address = addresses[contact, k]
        efc_d[world, address] = efc_d[world, address] * taken / own
