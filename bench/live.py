"""A live stream of the lab streaming layer, learned while it comes: python -m bench.live --seconds 180.

A process sends `channels` at `rate` with a counter in the time stamps; examples/lsl.py forecasts each sample and learns
from the next; another process receives the forecasts. Printed: samples sent, forecast and received, latency from a
sample's time stamp until its forecast was sent, and the load of the machine (needs pylsl).
"""

import argparse
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SOURCE = """
import math, sys, time
import pylsl
name, rate, channels, seconds = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
outlet = pylsl.StreamOutlet(pylsl.StreamInfo(name, "EEG", channels, rate, "float32", name))
while not outlet.wait_for_consumers(60):
    pass
time.sleep(2)
began, sent = pylsl.local_clock(), 0
while sent < seconds * rate:
    due = began + sent / rate
    time.sleep(max(0.0, due - pylsl.local_clock()))
    outlet.push_sample([math.sin(0.05 * sent * (i + 1)) + 0.1 * math.sin(1e3 * sent * i) for i in range(channels)], due)
    sent += 1
print(sent, flush=True)
time.sleep(60)
"""
SINK = """
import sys
import pylsl
(found,) = pylsl.resolve_byprop("name", sys.argv[1], timeout=120)
inlet, got = pylsl.StreamInlet(found, max_buflen=360), 0
while inlet.pull_sample(timeout=12.0)[0] is not None:
    got += 1
print(got, flush=True)
"""


def main() -> None:
    """Run the stream and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--rate", type=float, default=250)
    parser.add_argument("--channels", type=int, default=8)
    own = parser.parse_args()
    name = f"bench-{os.getpid()}"
    forecast = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "lsl.py"))["forecast"]
    words = [str(each) for each in (own.rate, own.channels, own.seconds)]
    source = subprocess.Popen([sys.executable, "-c", SOURCE, name, *words], stdout=subprocess.PIPE, text=True)  # noqa: S603
    sink = subprocess.Popen([sys.executable, "-c", SINK, f"{name}-back"], stdout=subprocess.PIPE, text=True)  # noqa: S603
    cpu, began, loads = time.process_time(), time.perf_counter(), [os.getloadavg()[0]]
    latencies = list[float]()
    for latency in forecast(name, f"{name}-back", 10.0):
        latencies.append(latency)
        if len(latencies) % int(30 * own.rate) == 0:
            loads.append(os.getloadavg()[0])
            print(f"{len(latencies):,} forecast, last {1e3 * latency:.1f} ms, load {loads[-1]:.1f}", flush=True)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - began
    sent, got = (int(process.communicate()[0]) for process in (source, sink))
    p50, p99, most = (1e3 * float(np.quantile(latencies, share)) for share in (0.5, 0.99, 1.0))
    print(
        f"{own.channels} channels at {own.rate:g} Hz, {own.seconds:g} s: {sent:,} sent, {len(latencies):,} forecast and"
    )
    print(f"learned, {got:,} received; latency p50 {p50:.2f} ms, p99 {p99:.2f} ms, largest {most:.2f} ms")
    print(f"{cpu:.0f} s of CPU in {wall:.0f} s; {os.cpu_count()} cores, load {min(loads):.1f} to {max(loads):.1f}")


if __name__ == "__main__":
    main()
