"""What is to be done: tasks with their instructions, suites of tasks, and the experts that demonstrate them."""

from __future__ import annotations

from vla_cl.tasks import libero_declaration as _libero_declaration  # noqa: F401  lets .bddl files be plug-ins
from vla_cl.tasks import meta_world_suites as _meta_world_suites  # noqa: F401  registers the built-in suites
from vla_cl.tasks.contact_sheet import contact_sheet
from vla_cl.tasks.declaration import READERS, load_declarations
from vla_cl.tasks.dimensions import Dimensions, common_dimensions, dimensions_of
from vla_cl.tasks.expert import EXPERTS, Expert, make_expert
from vla_cl.tasks.gymnasium_ids import gymnasium_id, make, register_gymnasium_ids
from vla_cl.tasks.register import add_task, register_task
from vla_cl.tasks.suite import SUITES, TaskSuite, available_suites, find_task, get_suite, register_suite
from vla_cl.tasks.task import SeedSplit, Task

__all__ = [
    "EXPERTS",
    "READERS",
    "SUITES",
    "Dimensions",
    "Expert",
    "SeedSplit",
    "Task",
    "TaskSuite",
    "add_task",
    "available_suites",
    "common_dimensions",
    "dimensions_of",
    "contact_sheet",
    "find_task",
    "get_suite",
    "gymnasium_id",
    "load_declarations",
    "make",
    "make_expert",
    "register_gymnasium_ids",
    "register_suite",
    "register_task",
]
