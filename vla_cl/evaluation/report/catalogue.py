"""What the numbers of a run mean: names, directions and one-line definitions for tables."""

from __future__ import annotations

from dataclasses import dataclass

HIGHER, LOWER = "higher is better", "lower is better"


@dataclass(frozen=True)
class Definition:
    """How a number is presented.

    Args:
        key: Its key in `metrics.json`, or in an entry of `ledger.json`.
        title: Its name in a table.
        meaning: One line, with the formula where there is one; R_ij is the success on task j after learning task i,
            tasks counted from 1 to T, 0 standing for zero-shot.
        direction: `HIGHER` or `LOWER`.
    """

    key: str
    title: str
    meaning: str
    direction: str


METRICS = (
    Definition(
        "learning_accuracy",
        "Learning accuracy",
        "Success on each task right after learning it: mean of R_ii.",
        HIGHER,
    ),
    Definition(
        "final_average",
        "Final average",
        "Success on all tasks after the last one: mean of R_Tj.",
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
        "What later tasks did to earlier ones: mean of R_Tj − R_jj, j < T.",
        HIGHER,
    ),
    Definition(
        "forward_transfer",
        "Forward transfer",
        "What earlier tasks gave a task before it was trained on: mean of R_j−1,j − R_0j, j > 1.",
        HIGHER,
    ),
    Definition(
        "negative_backward_transfer",
        "NBT (LIBERO, over T)",
        "Drop from R_kk averaged over all later stages; the last task counts as 0.",
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
        "Success on each task from learning it to the end, averaged; its learning curve is R_kk.",
        HIGHER,
    ),
    Definition(
        "zero_shot_average",
        "Zero-shot average",
        "Success on all tasks before any training: mean of R_0j.",
        HIGHER,
    ),
)

NEEDS = {
    "task_id_at_test": "task identity at test time",
    "raw_data": "demonstrations of earlier tasks",
    "teacher": "a copy of an earlier policy",
    "lora": "a policy with low-rank adapters",
}
"""What a strategy may declare that it needs."""

LEDGER_BYTES = {
    "policy_bytes": "Policy",
    "strategy_bytes": "Strategy memory",
}
"""Sizes after a stage; the last stage's are what the run ended with."""

LEDGER_SECONDS = {
    "collect_seconds": "Collecting demonstrations",
    "train_seconds": "Training",
    "evaluate_seconds": "Evaluation",
}
"""Times of a stage; a run spent their sum."""
