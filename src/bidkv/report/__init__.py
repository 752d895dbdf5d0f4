"""The report: a verdict in words, and one self-contained HTML page.

:func:`~bidkv.report.verdict.judge` needs the standard library alone. The page
(:func:`bidkv.report.page.write_report`) needs the `[report]` extra. It is imported from its own module, so
that the verdict does not load a chart library.
"""

from bidkv.report.verdict import RunVerdict, find_growths, judge

__all__ = ["RunVerdict", "find_growths", "judge"]
