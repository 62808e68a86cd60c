"""What the workers are given to do. Importable, and without an import of weight."""

from time import thread_time


def next_of(number):
    """The tiny task."""
    return number + 1


def use(milliseconds):
    """Use so much processor time; what others use of the core does not count."""
    end = thread_time() + milliseconds / 1000
    while thread_time() < end:
        pass
    return milliseconds


def mixed(count):
    """Return milliseconds from 1 to 30, each as often as the others, shuffled."""
    import random  # the caller's alone

    times = [1 + i % 30 for i in range(count)]
    random.Random(1).shuffle(times)
    return times
