"""Forecast a stream of the lab streaming layer and send the forecast back: python lsl.py NAME (pip install pylsl).

Each sample is predicted from those before it, one step ahead, and learned from as soon as the next one is there.
"""

import sys
import time
from collections.abc import Iterator

from pylsl import StreamInfo, StreamInlet, StreamOutlet, local_clock, resolve_byprop

import biomamba


def forecast(name: str, outlet_name: str = "forecast", wait: float = 10.0) -> Iterator[float]:
    """Yield, for each sample of the stream, the seconds from its time stamp until its forecast was sent."""
    (source, *_) = resolve_byprop("name", name, timeout=wait) or [None]
    if source is None:
        raise TimeoutError(f"no stream {name!r} within {wait:g} s: start its source first")
    inlet, channels = StreamInlet(source, max_buflen=360), source.channel_count()
    learner = biomamba.regressor(inputs=channels, outputs=channels, d_model=16, d_state=4, threads=1)
    before = learner.snapshot()
    learner.learn_one([0.0] * channels, [0.0] * channels)  # has the kernels made before samples come
    learner.rollback(before)
    outlet = StreamOutlet(StreamInfo(outlet_name, "forecast", channels, source.nominal_srate(), "float32", name))
    correction, last = inlet.time_correction(), None
    while True:
        sample, stamp = inlet.pull_sample(timeout=wait)
        if sample is None:
            return
        said = learner.predict(sample)
        outlet.push_sample(said.value, stamp + correction)
        yield local_clock() - (stamp + correction)
        if last is not None:
            learner.learn(last, sample)  # what the step before said would come
        last = said.id


if __name__ == "__main__":
    for i, latency in enumerate(forecast(sys.argv[1])):
        if i % 250 == 0:
            print(f"{time.strftime('%X')}  {1e3 * latency:.1f} ms", flush=True)
