from allcores import arrays as arrays
from allcores import budget as budget
from allcores import executor as executor
from allcores import parallel as parallel
from allcores import pools as pools
from allcores import shared as shared
from allcores._workers import InitializerError as InitializerError
from allcores._workers import RemoteTraceback as RemoteTraceback
from allcores._workers import TaskTimeoutError as TaskTimeoutError
from allcores._workers import WorkerDiedError as WorkerDiedError
from allcores.arrays import sum as sum
from allcores.budget import Info as Info
from allcores.budget import counters as counters
from allcores.budget import cpu_count as cpu_count
from allcores.budget import get_num_threads as get_num_threads
from allcores.budget import info as info
from allcores.budget import set_budget as set_budget
from allcores.budget import threads as threads
from allcores.executor import Executor as Executor
from allcores.parallel import Parallel as Parallel
from allcores.parallel import delayed as delayed
from allcores.parallel import effective_n_jobs as effective_n_jobs
from allcores.parallel import parallel_backend as parallel_backend
from allcores.parallel import parallel_config as parallel_config
from allcores.parallel import register_joblib as register_joblib
from allcores.parallel import register_parallel_backend as register_parallel_backend
from allcores.pools import Pool as Pool
from allcores.pools import ThreadPool as ThreadPool
from allcores.shared import shared_array as shared_array

__version__: str
__all__ = [
    "Executor",
    "Info",
    "InitializerError",
    "Parallel",
    "Pool",
    "RemoteTraceback",
    "TaskTimeoutError",
    "ThreadPool",
    "WorkerDiedError",
    "__version__",
    "counters",
    "cpu_count",
    "delayed",
    "effective_n_jobs",
    "get_num_threads",
    "info",
    "parallel_backend",
    "parallel_config",
    "register_joblib",
    "register_parallel_backend",
    "set_budget",
    "shared_array",
    "sum",
    "threads",
]
