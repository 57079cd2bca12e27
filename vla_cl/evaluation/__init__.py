"""Rollouts, the success matrix, continual-learning metrics and their statistics."""

from __future__ import annotations

from vla_cl.evaluation.aggregates import (
    interquartile_mean,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)
from vla_cl.evaluation.controller import Controller, PolicyController
from vla_cl.evaluation.learning_curves import (
    continual_world_forward_transfer,
    libero_area_under_curve,
    libero_forward_transfer,
)
from vla_cl.evaluation.matrix import (
    count_matrices,
    interval_matrix,
    stopped_matrix,
    success_matrix,
    summarise,
    trial_matrix,
)
from vla_cl.evaluation.metrics import (
    backward_transfer,
    final_average,
    forgetting,
    forward_transfer,
    learning_accuracy,
    mean_average_accuracy,
    negative_backward_transfer,
    plasticity_loss,
    recovery_steps,
    stability,
)
from vla_cl.evaluation.options import EvaluationOptions
from vla_cl.evaluation.paired import mcnemar_test, paired_outcomes, permutation_test
from vla_cl.evaluation.protocol import evaluate_stage, tasks_at_stage
from vla_cl.evaluation.remote import RemoteController
from vla_cl.evaluation.rollout import check_perturbed, check_task, rollout
from vla_cl.evaluation.rows import EpisodeRow, read_rows, write_rows
from vla_cl.evaluation.served import ServedPolicy
from vla_cl.evaluation.serving import PolicyServer
from vla_cl.evaluation.statistics import (
    bootstrap_interval,
    student_interval,
    studentised_interval,
    wilson_interval,
)
from vla_cl.evaluation.stopping import EarlyStop, confidence_sequence
from vla_cl.evaluation.totals import ledger_totals
from vla_cl.evaluation.video import write_video

__all__ = [
    "Controller",
    "EarlyStop",
    "EpisodeRow",
    "EvaluationOptions",
    "PolicyController",
    "PolicyServer",
    "RemoteController",
    "ServedPolicy",
    "backward_transfer",
    "bootstrap_interval",
    "check_perturbed",
    "check_task",
    "confidence_sequence",
    "continual_world_forward_transfer",
    "count_matrices",
    "evaluate_stage",
    "final_average",
    "forgetting",
    "forward_transfer",
    "interquartile_mean",
    "interval_matrix",
    "learning_accuracy",
    "ledger_totals",
    "libero_area_under_curve",
    "libero_forward_transfer",
    "mcnemar_test",
    "mean_average_accuracy",
    "negative_backward_transfer",
    "optimality_gap",
    "paired_outcomes",
    "performance_profile",
    "permutation_test",
    "plasticity_loss",
    "probability_of_improvement",
    "read_rows",
    "recovery_steps",
    "rollout",
    "stability",
    "stopped_matrix",
    "stratified_interval",
    "student_interval",
    "studentised_interval",
    "success_matrix",
    "summarise",
    "tasks_at_stage",
    "trial_matrix",
    "wilson_interval",
    "write_rows",
    "write_video",
]
