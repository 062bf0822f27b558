"""Work that threads share: all of it is done once, and none goes on after an error."""

from __future__ import annotations

import _thread
import threading
import time

import pytest

from rhodec.bitstream.kernel_settings import share


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_every_part_is_computed_once(threads: int, count: int) -> None:
    done: list[int] = []
    share(range(count), done.append, threads)
    assert sorted(done) == list(range(count))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_nothing_goes_on_after_an_error(error: type[BaseException]) -> None:
    begun: list[int] = []
    done: list[int] = []

    def compute(part: int) -> None:
        if threading.current_thread() is threading.main_thread():
            time.sleep(0.05)  # and whatever Ctrl-C cuts off here is at an end
            return
        begun.append(part)
        time.sleep(0.05)
        if begun[1:2] == [part]:
            if error is MemoryError:
                raise MemoryError
            _thread.interrupt_main()
        time.sleep(0.2)
        done.append(part)

    with pytest.raises(error):
        share(range(400), compute, 4)
    ended = list(begun)
    assert len(ended) < 100
    assert len(ended) - len(done) == (error is MemoryError)
    time.sleep(0.3)
    assert begun == ended
