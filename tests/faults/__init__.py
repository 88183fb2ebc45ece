"""The fault campaign: broken clips, damaged files, kills, full disks, crowds and starved exits,
all drawn from a seed.

    make faults                                              all of it, about half an hour on two cores
    python -m tests.faults --only kills --share 0.1          a tenth of one campaign
    python -m tests.faults --only clips --seed 1 --number 7  one case alone, as a loss names it

Real files, processes and servers, on this machine alone, in temporary folders. Each module has `run(bench,
seed, numbers)`, which returns a Row; a case depends on its campaign's name, the seed and its number only.
tests/test_faults.py runs a few of each.
"""
