"""Campaigns: the same question asked a great many times, with another accident each time.

    python -m tests.campaigns.fuzz    --seconds 60 --seed 0     damaged inputs for every reader
    python -m tests.campaigns.kills   --seconds 60 --seed 0     runs killed at random moments, and gone on with
    python -m tests.campaigns.faults  --seconds 60 --seed 0     full disks, folders that go, two writers, wrong clocks
    python -m tests.campaigns.soak    --seconds 60 --seed 0     live streams that do not end

Each prints what it did, keeps the first input that failed in a folder, says how to run it again, and ends with 1.
A few seconds of each are among the default tests (tests/test_campaigns.py); numbers are in docs/reliability.md.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch's threads ask when it is loaded: on a busy machine those
os.environ.setdefault("OMP_NUM_THREADS", "1")  # that wait for each other by turning around take all of it
