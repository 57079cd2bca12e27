"""What the numbers of a run mean: names, directions and one-line definitions for tables."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

HIGHER, LOWER = "higher is better", "lower is better"


@dataclass(frozen=True)
class Definition:
    """How a metric is presented.

    Args:
        key: Its key in `metrics.json`.
        title: Its name in a table.
        meaning: One line, with the formula where there is one; R_ij is the success on task j after learning task i,
            tasks counted from 1 to T, 0 standing for zero-shot.
        direction: `HIGHER` or `LOWER`.
    """

    key: str
    title: str
    meaning: str | Markup
    direction: str


METRICS = (
    Definition(
        "learning_accuracy",
        "Learning accuracy",
        Markup("Success on each task right after learning it: mean of R<sub>ii</sub>."),
        HIGHER,
    ),
    Definition(
        "final_average",
        "Final average",
        Markup("Success on all tasks after the last one: mean of R<sub>Tj</sub>."),
        HIGHER,
    ),
    Definition(
        "mean_average_accuracy",
        "Mean average accuracy",
        "Success on the tasks seen so far, averaged over the stages.",
        HIGHER,
    ),
    Definition(
        "forgetting",
        "Forgetting",
        "Best success before the last stage minus final success, over all tasks but the last.",
        LOWER,
    ),
    Definition(
        "backward_transfer",
        "Backward transfer",
        Markup("What later tasks did to earlier ones: mean of R<sub>Tj</sub> − R<sub>jj</sub>, j &lt; T."),
        HIGHER,
    ),
    Definition(
        "forward_transfer",
        "Forward transfer",
        Markup(
            "What earlier tasks gave a task not yet trained on: mean of R<sub>j−1,j</sub> − R<sub>0j</sub>, j &gt; 1."
        ),
        HIGHER,
    ),
    Definition(
        "negative_backward_transfer",
        "NBT (LIBERO, over T)",
        Markup("Drop from R<sub>kk</sub> averaged over all later stages; the last task counts as 0."),
        LOWER,
    ),
    Definition(
        "negative_backward_transfer_without_last",
        "NBT (over T − 1)",
        "The same without the last task, as other papers print it.",
        LOWER,
    ),
    Definition(
        "libero_area_under_curve",
        "AUC (LIBERO)",
        Markup("Success on each task from learning it to the end, averaged; its learning curve is R<sub>kk</sub>."),
        HIGHER,
    ),
    Definition(
        "zero_shot_average",
        "Zero-shot average",
        Markup("Success on all tasks before any training: mean of R<sub>0j</sub>."),
        HIGHER,
    ),
)

NEEDS = {
    "task_id_at_test": "task identity at test time",
    "raw_data": "demonstrations of earlier tasks",
    "teacher": "a copy of an earlier policy",
    "lora": "a policy with low-rank adapters",
    "prompts": "a policy that takes soft prompts",
}
"""What a strategy may declare that it needs."""

LEDGER_BYTES = {
    "policy_bytes": "Policy",
    "strategy_bytes": "Strategy memory",
}
"""Sizes after a stage; the last stage's are what the run ended with."""

LEDGER_COUNTS = {
    "trainable_parameters": "Trainable parameters",
    "extra_parameters": "Parameters that the strategy added",
}
"""Numbers of parameters after a stage."""

LEDGER_PASSES = {
    "extra_passes": "Forward passes of a training step",
    "acting_passes": "Forward passes of a decision",
}
"""What a strategy declares, beyond the one pass that all make."""

LEDGER_SECONDS = {
    "collect_seconds": "Collecting demonstrations",
    "train_seconds": "Training",
    "evaluate_seconds": "Evaluation",
}
"""Times of a stage; a run spent their sum."""

LEDGER_STEPS = {
    "collect_steps": "Collecting demonstrations, failed attempts included",
    "evaluate_steps": "Evaluation",
}
"""Control steps of simulators; demonstrations cost them whoever collected them."""

LEDGER_JOULES = {
    "collect_joules": "Collecting demonstrations",
    "train_joules": "Training",
    "evaluate_joules": "Evaluation",
}
"""Energy of what the machine tells, which is in `environment.json`: whole processors, and the run's GPU."""

ACTING_SECONDS = "Acting, in evaluation"
"""The part of evaluation in which the policy decided."""

ACTING_TIME = "A decision, its batch shared"
"""Time of a decision in the last evaluation; decisions of the episodes that run at the same time are one batch."""
