"""``report.html``: all results of a folder on one page that needs no network and runs no foreign script."""

from __future__ import annotations

from .page import write_report

__all__ = ["write_report"]
