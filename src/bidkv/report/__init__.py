"""The report: a verdict in words, and one self-contained HTML page.

:func:`~bidkv.report.verdict.judge` needs the standard library alone. The page
(:func:`bidkv.report.page.write_report`) needs the `[report]` extra and is imported from its
module, so that nobody pays for a chart library who only wants the sentence.
"""

from bidkv.report.verdict import Verdict, judge

__all__ = ["Verdict", "judge"]
