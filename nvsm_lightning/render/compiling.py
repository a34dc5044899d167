"""How kernels are compiled: by numba, without the interpreter lock, once per machine.

Compiled code is kept by ``cache=True``; numba itself moves the cache to a user folder where the package is read-only.
It looks at the file of a kernel only, not at those of the kernels it calls: after a change of one of these in a working
copy, ``make clean`` (an installation makes all files new).
Kernels are spread over plain threads: numba's own parallel layers neither survive a fork (data loader workers) nor
allow two callers at a time.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch

Array = np.ndarray  # of a kernel; its shape and type are said in the docstring


def compiled(kernel: Callable) -> Any:
    """The kernel compiled; without a cache where numba finds no folder at all to write one to.

    Below it a kernel needs ``@no_type_check`` itself, as shape checkers must not wrap what numba compiles.
    """
    return _compiled(kernel, False)


def compiled_sum(kernel: Callable) -> Any:
    """As :func:`compiled`, for long sums whose order may be changed so that they are done several terms at a time."""
    return _compiled(kernel, {"reassoc", "contract", "nsz"})


def _compiled(kernel: Callable, fastmath: bool | set[str]) -> Any:
    try:
        return numba.njit(kernel, nogil=True, error_model="numpy", fastmath=fastmath, cache=True)
    except RuntimeError:
        return numba.njit(kernel, nogil=True, error_model="numpy", fastmath=fastmath)


def in_threads(work: Callable[[int, int], None], items: int, least: int = 1) -> None:
    """``work(first, last)`` for consecutive shares of ``items``, of at least ``least`` each, in as many threads as
    torch may use (``torch.get_num_threads``).
    """
    threads = min(torch.get_num_threads(), items // least)
    if threads <= 1:
        work(0, items)
        return
    bounds: Sequence[int] = [items * k // threads for k in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))
