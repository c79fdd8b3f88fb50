"""The report as one page: `report.html`, a single file that opens anywhere, without a network.

`write_page` makes it from what lies in a report's folder alone, so that it can be made again at any
time (`worldmodel page FOLDER`). `write_clips` leaves there, while blocks and scores are at hand,
what only an evaluation knows: one block of each kind as a video, and surprise over its time.
"""

from worldmodel.evaluation.page.assemble import PAGE_NAME, page_html, write_page
from worldmodel.evaluation.page.benchmark import benchmark_names, write_benchmark_page
from worldmodel.evaluation.page.clips import write_clips

__all__ = [
    "PAGE_NAME",
    "benchmark_names",
    "page_html",
    "write_benchmark_page",
    "write_clips",
    "write_page",
]
