"""Reports of runs: self-contained HTML pages, tables, and pictures of the success matrix."""

from vla_cl.evaluation.report.compare import write_compare_page
from vla_cl.evaluation.report.comparison import compare_runs
from vla_cl.evaluation.report.figures import save_success_matrix_figure, success_matrix_figure
from vla_cl.evaluation.report.formats import write_comparison
from vla_cl.evaluation.report.report import write_report

__all__ = [
    "compare_runs",
    "save_success_matrix_figure",
    "success_matrix_figure",
    "write_compare_page",
    "write_comparison",
    "write_report",
]
