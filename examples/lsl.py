"""Forecast a stream of the lab streaming layer and send the forecast back: python lsl.py NAME (pip install pylsl).

Each sample is predicted one step ahead, from those before it. Of the samples that are at hand the last is learned
from: each while the machine keeps up, fewer when it does not, so that the forecasts do not fall behind.
"""

import sys
import time
from collections.abc import Hashable, Iterator

from pylsl import StreamInfo, StreamInlet, StreamOutlet, local_clock, resolve_byprop

import biomamba

MOST = 16  # samples between two updates, at most


def forecast(name: str, outlet_name: str = "forecast", wait: float = 10.0) -> Iterator[float]:
    """Yield, for each sample of the stream, the seconds from its time stamp until its forecast was sent."""
    (source, *_) = resolve_byprop("name", name, timeout=wait) or [None]
    if source is None:
        raise TimeoutError(f"no stream {name!r} within {wait:g} s: start its source first")
    inlet, channels = StreamInlet(source, max_buflen=360), source.channel_count()
    sizes = {"d_model": 16, "d_state": 4, "horizon": MOST + 2, "threads": 1}
    learner = biomamba.regressor(inputs=channels, outputs=channels, **sizes)
    before = learner.snapshot()
    learner.learn_one([0.0] * channels, [0.0] * channels)  # has the kernels made before samples come
    learner.rollback(before)
    outlet = StreamOutlet(StreamInfo(outlet_name, "forecast", channels, source.nominal_srate(), "float32", name))
    correction, asked = inlet.time_correction(), list[Hashable]()
    while True:
        samples, stamps = inlet.pull_chunk(timeout=wait, max_samples=MOST, min_samples=1)
        if not samples:
            return
        for sample, stamp in zip(samples, stamps, strict=True):
            said = learner.predict(sample)
            outlet.push_sample(said.value, stamp + correction)
            yield local_clock() - (stamp + correction)
            asked = [*asked[-1:], said.id]
        if len(asked) == 2:
            learner.learn(asked[0], samples[-1])  # what the step before the last said would come


if __name__ == "__main__":
    for i, latency in enumerate(forecast(sys.argv[1])):
        if i % 250 == 0:
            print(f"{time.strftime('%X')}  {1e3 * latency:.1f} ms", flush=True)
