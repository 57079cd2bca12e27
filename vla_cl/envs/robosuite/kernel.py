"""One control step of operational-space control, compiled: MuJoCo's own functions are called from machine code.

The law is robosuite's (`robosuite.controllers.parts.arm.osc`), after Khatib, "A unified approach for motion and force
control of robot manipulators: the operational space formulation", 1987, with translation and rotation decoupled and a
posture task in the null space:

    tau = J^T [Lp Fp; Lo Fo] + h + N^T M (kq (q0 - q) - 2 sqrt(kq) q'),    N = I - M^-1 J^T L J

with J the Jacobian of the grip site, M the arm's mass matrix, h its bias forces, L = (J M^-1 J^T)^-1, and Lp, Lo the
same for the translational and the rotational half of J alone. As N^T M = M - J^T L J, no inverse of M is formed: with
M = C C^T and X = C^-1 J^T, J M^-1 J^T is X^T X, and three small symmetric systems are left.

Importing this module imports numba; only `control` does so, when the first robosuite environment is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
from numba import njit, types

from vla_cl.envs.mujoco_import import import_mujoco

_POSTURE_STIFFNESS = 10.0  # 1/s^2, robosuite's `joint_kp`
_POSTURE_DAMPING = 2.0 * np.sqrt(_POSTURE_STIFFNESS)
_SINGULAR = 1e-13  # a pivot this small against its diagonal is rounding

_address = types.uintp
_mj_step1 = types.ExternalFunction("mj_step1", types.void(_address, _address))
_mj_step2 = types.ExternalFunction("mj_step2", types.void(_address, _address))
_mj_jac_site = types.ExternalFunction("mj_jacSite", types.void(_address, _address, _address, _address, types.int32))
_mj_full_m = types.ExternalFunction("mj_fullM", types.void(_address, _address, _address))


def load_library() -> None:
    """Let compiled code find MuJoCo's functions, in the very library that the `mujoco` package has loaded."""
    library = next(Path(str(import_mujoco().__file__)).parent.glob("libmujoco.so*"))
    llvmlite.binding.load_library_permanently(str(library))


@njit(cache=True)  # type: ignore[untyped-decorator]
def command(
    model: Any,
    data: Any,
    sparse_mass: Any,
    qpos: Any,
    qvel: Any,
    bias: Any,
    ctrl: Any,
    site: Any,
    site_position: Any,
    site_rotation: Any,
    positions: Any,
    velocities: Any,
    actuators: Any,
    limits: Any,
    goal_position: Any,
    goal_rotation: Any,
    stiffness: Any,
    damping: Any,
    posture: Any,
    jacobian_linear: Any,
    jacobian_angular: Any,
    mass: Any,
) -> None:
    """Write into `ctrl` the torques that draw the hand to a goal.

    Args:
        model, data, sparse_mass: Addresses of the `mjModel`, the `mjData` and the latter's `qM`.
        qpos, qvel, bias, ctrl: Views of the data's arrays, `bias` of `qfrc_bias`.
        site: Number of the grip site.
        site_position, site_rotation: Views (3,) and (9,) of its pose.
        positions, velocities, actuators: Indices (n,) of the arm's joints.
        limits: Of the actuators (n, 2).
        goal_position, goal_rotation: The pose to hold, (3,) in metres and (3, 3), in the world.
        stiffness, damping: Of the pose (6,), translation first.
        posture: Joint positions (n,) that the null space is drawn to.
        jacobian_linear, jacobian_angular, mass: Scratch space (3, nv), (3, nv), (nv, nv).
    """
    joints = len(velocities)
    jacobian = np.empty((6, joints))
    inertia = np.empty((joints, joints))
    wrench = np.empty(6)
    acceleration = np.empty(joints)
    _mj_jac_site(model, data, jacobian_linear.ctypes.data, jacobian_angular.ctypes.data, site)
    _mj_full_m(model, mass.ctypes.data, sparse_mass)
    for column in range(joints):
        for row in range(3):
            jacobian[row, column] = jacobian_linear[row, velocities[column]]
            jacobian[3 + row, column] = jacobian_angular[row, velocities[column]]
        for row in range(joints):
            inertia[row, column] = mass[velocities[row], velocities[column]]

    for axis in range(3):
        wrench[axis] = stiffness[axis] * (goal_position[axis] - site_position[axis])
        # half the sum of the cross products of the axes, as robosuite takes the error of a rotation
        second, third = (axis + 1) % 3, (axis + 2) % 3
        error = 0.0
        for column in range(3):
            error += site_rotation[3 * second + column] * goal_rotation[third, column]
            error -= site_rotation[3 * third + column] * goal_rotation[second, column]
        wrench[3 + axis] = stiffness[3 + axis] * 0.5 * error
    for row in range(6):
        for column in range(joints):
            wrench[row] -= damping[row] * jacobian[row, column] * qvel[velocities[column]]
    for joint in range(joints):
        acceleration[joint] = _POSTURE_STIFFNESS * (posture[joint] - qpos[positions[joint]])
        acceleration[joint] -= _POSTURE_DAMPING * qvel[velocities[joint]]

    mobility = _mobility(inertia, jacobian)
    force = _solve(mobility[:3, :3], wrench[:3])
    moment = _solve(mobility[3:, 3:], wrench[3:])
    task_acceleration = np.zeros(6)
    for row in range(6):
        for column in range(joints):
            task_acceleration[row] += jacobian[row, column] * acceleration[column]
    in_task_space = _solve(mobility, task_acceleration)

    for joint in range(joints):
        torque = bias[velocities[joint]]
        for row in range(3):
            torque += jacobian[row, joint] * (force[row] - in_task_space[row])
            torque += jacobian[3 + row, joint] * (moment[row] - in_task_space[3 + row])
        for column in range(joints):
            torque += inertia[joint, column] * acceleration[column]
        ctrl[actuators[joint]] = min(max(torque, limits[joint, 0]), limits[joint, 1])


@njit(cache=True)  # type: ignore[untyped-decorator]
def _mobility(inertia: Any, jacobian: Any) -> Any:
    """J M^-1 J^T (6, 6) of an inertia (n, n), which is positive definite, and a Jacobian (6, n)."""
    joints = len(inertia)
    lower = np.zeros((joints, joints))
    _factor(inertia, lower)
    whitened = jacobian.T.copy()
    for task in range(6):
        for row in range(joints):
            value = whitened[row, task]
            for inner in range(row):
                value -= lower[row, inner] * whitened[inner, task]
            whitened[row, task] = value / lower[row, row]
    mobility = np.zeros((6, 6))
    for first in range(6):
        for second in range(first + 1):
            for row in range(joints):
                mobility[first, second] += whitened[row, first] * whitened[row, second]
            mobility[second, first] = mobility[first, second]
    return mobility


@njit(cache=True)  # type: ignore[untyped-decorator]
def _factor(matrix: Any, lower: Any) -> Any:
    """Cholesky's factor of a symmetric matrix, written into `lower`; False if rounding leaves it indefinite."""
    for row in range(len(matrix)):
        for column in range(row + 1):
            value = matrix[row, column]
            for inner in range(column):
                value -= lower[row, inner] * lower[column, inner]
            if row > column:
                lower[row, column] = value / lower[column, column]
            elif value > _SINGULAR * matrix[row, row]:
                lower[row, row] = np.sqrt(value)
            else:
                return False
    return True


@njit(cache=True)  # type: ignore[untyped-decorator]
def _solve(matrix: Any, right: Any) -> Any:
    """Solve `matrix x = right` (k,); in a singular pose by the pseudo-inverse, which robosuite always takes."""
    size = len(right)
    lower = np.zeros((size, size))
    if not _factor(matrix, lower):
        return np.linalg.pinv(np.ascontiguousarray(matrix)) @ right
    solution = right.copy()
    for row in range(size):
        for inner in range(row):
            solution[row] -= lower[row, inner] * solution[inner]
        solution[row] /= lower[row, row]
    for row in range(size - 1, -1, -1):
        for inner in range(row + 1, size):
            solution[row] -= lower[inner, row] * solution[inner]
        solution[row] /= lower[row, row]
    return solution


@njit(cache=True)  # type: ignore[untyped-decorator]
def control_step(arm: Any, fingers: Any, finger_commands: Any, first: Any) -> None:
    """Hold a goal for some physics steps.

    It expects `mj_step1` to have run, and leaves the data with `mj_step1` done, so that positions, contacts and
    velocities are those of the present state.

    Args:
        arm: The arguments of `command`, in order.
        fingers: Indices (g,) of the fingers' actuators.
        finger_commands: What they are told in each physics step (physics_steps, g).
        first: Physics steps that are done already.
    """
    model, data, ctrl = arm[0], arm[1], arm[6]
    for step in range(first, len(finger_commands)):
        for finger in range(len(fingers)):
            ctrl[fingers[finger]] = finger_commands[step, finger]
        command(*arm)
        _mj_step2(model, data)
        _mj_step1(model, data)
