"""The report page: a study's results as one HTML file that opens anywhere and asks for nothing."""

from retnet_bench.report.page.page import write

__all__ = ["write"]
