"""Reports of runs: a self-contained HTML page, and pictures of the success matrix."""

from vla_cl.evaluation.report.comparison import compare_runs, write_comparison
from vla_cl.evaluation.report.figures import save_success_matrix_figure, success_matrix_figure
from vla_cl.evaluation.report.report import write_report

__all__ = [
    "compare_runs",
    "save_success_matrix_figure",
    "success_matrix_figure",
    "write_comparison",
    "write_report",
]
