"""python_hot [SECONDS]: burns CPU time in the interpreter."""
import sys
import time


def hot(seconds):
    end = time.process_time() + seconds
    total = 0
    while time.process_time() < end:
        for i in range(1000):
            total += i * i
    return total


hot(float(sys.argv[1]) if len(sys.argv) > 1 else 1.5)
