"""`compare.html`: any set of runs on one page that filters, sorts and needs no network."""

from __future__ import annotations

from vla_cl.evaluation.report.compare.page import write_compare_page

__all__ = ["write_compare_page"]
