"""The report of one or several runs, as one self-contained HTML file."""

from vitune.report.methods_page import write_methods_report
from vitune.report.page import render, write_report
from vitune.report.profile_page import write_profile_report
from vitune.report.reading import read_run
from vitune.report.record import RunRecord

__all__ = ["RunRecord", "read_run", "render", "write_methods_report", "write_profile_report", "write_report"]
