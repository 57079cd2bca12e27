"""One episode under the policy of a server: python remote_loop.py ws://127.0.0.1:8765 mw5/push"""

import sys
from collections import deque
from dataclasses import replace

from vla_cl.data import ObservationBatch
from vla_cl.evaluation import RemoteController
from vla_cl.tasks import find_task

task = find_task(sys.argv[2])
with RemoteController(sys.argv[1]) as policy:
    env = task.environment(policy.observation)  # any robot does that gives such observations and takes such actions
    observation, info = env.reset(seed=0)
    seen = deque([observation] * policy.history, maxlen=policy.history)
    finished, steps = False, 0
    while not finished:
        *past, present = (ObservationBatch.from_environments([each], [task.instruction]) for each in seen)
        (chunk,) = policy.act(replace(present, past=tuple(past)), seeds=[steps])
        for action in chunk[: policy.execute]:
            observation, reward, terminated, truncated, info = env.step(action)
            seen.append(observation)
            steps, finished = steps + 1, terminated or truncated
            if finished:
                break
sys.stdout.write(f"{'success' if info['success'] else 'failure'} after {steps} steps\n")
