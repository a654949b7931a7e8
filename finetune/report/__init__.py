"""HTML pages: of a run folder, and of conversations with their trained tokens marked. Reads files only."""

from finetune.report.page import write_report, write_texts

__all__ = ["write_report", "write_texts"]
