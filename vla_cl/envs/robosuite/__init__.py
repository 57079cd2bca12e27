"""The backend "robosuite": robosuite's arms and environments behind the environment contract, and faster.

`build` makes robosuite's own environment object; `control` is its OSC_POSE controller with every look-up done once and
its loop compiled (`kernel`); `env` is the `ManipulationEnv`. `wipe` keeps what one task hides outside the physics.
"""
