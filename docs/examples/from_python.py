"""The library without its command line: python from_python.py runs/NAME"""

import sys
from pathlib import Path

import numpy as np

import vla_cl
from vla_cl.checkpoint import evaluate_checkpoint, load_checkpoint
from vla_cl.config import observation_for
from vla_cl.data import ObservationBatch
from vla_cl.evaluation import EvaluationOptions, wilson_interval
from vla_cl.tasks import find_task

run = Path(sys.argv[1])

# An environment: any task is one. This one is stepped at random.
env = vla_cl.make("mw3/window-close", image_size=64)  # gymnasium.make("vla_cl/mw3.window-close-v0") is the same
observation, info = env.reset(seed=0)
for action in np.random.default_rng(0).uniform(-1, 1, (10, *env.action_space.shape)):
    observation, reward, terminated, truncated, info = env.step(action)
print("seen:", {camera: image.shape for camera, image in observation["pixels"].items()})
env.close()

# A policy in a task: the run's last checkpoint, one episode from the first held-out initial state.
loaded = load_checkpoint(run)
task = find_task("mw3/window-close")
env = task.environment(observation_for(loaded.policy.config))
observation, info = env.reset(seed=task.seeds.test[0])
steps, finished = 0, False
while not finished:
    seen = ObservationBatch.from_environments([observation], [task.instruction])
    (chunk,) = loaded.controller.act(seen, seeds=[steps])
    for action in chunk[: loaded.controller.execute]:
        observation, reward, terminated, truncated, info = env.step(action)
        steps, finished = steps + 1, terminated or truncated
        if finished:
            break
print(f"one episode: {'success' if info['success'] else 'failure'} after {steps} steps")
env.close()

# A success rate with its interval: many episodes, in processes, on the tasks that the run learned.
rows = evaluate_checkpoint(run, options=EvaluationOptions(episodes=10))
for name in dict.fromkeys(row.task for row in rows):
    successes = [row.success for row in rows if row.task == name]
    low, high = wilson_interval(sum(successes), len(successes))
    print(f"{name}: {sum(successes)} of {len(successes)}, 95 % interval {low:.2f} to {high:.2f}")
