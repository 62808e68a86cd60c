from allcores import arrays as arrays
from allcores import budget as budget
from allcores.arrays import sum as sum
from allcores.budget import Info as Info
from allcores.budget import counters as counters
from allcores.budget import cpu_count as cpu_count
from allcores.budget import get_num_threads as get_num_threads
from allcores.budget import info as info
from allcores.budget import set_budget as set_budget
from allcores.budget import threads as threads

__version__: str
__all__ = [
    "__version__",
    "Info",
    "counters",
    "cpu_count",
    "get_num_threads",
    "info",
    "set_budget",
    "sum",
    "threads",
]
