"""LIBERO's tasks: their files, their scenes, their rules, on today's robosuite and MuJoCo."""
