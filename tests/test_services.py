"""The examples that serve a learner, with real clients, streams and brokers."""

import asyncio
import json
import math
import runpy
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_many_clients_over_http_learn_each_its_own() -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed: pip install fastapi")
    pytest.importorskip("httpx", reason="httpx is not installed, which fastapi's test client needs: pip install httpx")
    from fastapi.testclient import TestClient

    http = TestClient(runpy.run_path(str(EXAMPLES / "http_service.py"))["app"])
    late, steps, clients = 3, 60, ("anna", "bert", "cleo")

    def go_on(client: str) -> list[bool]:
        """Feed a client whose class is a sign, turned round for every other; answers come three steps late."""
        turn, right = clients.index(client) % 2, []
        truth = ["up" if (i % 2) ^ turn else "down" for i in range(steps)]
        for i in range(steps):
            said = http.post(f"/{client}/predict", json={"id": str(i), "x": [2.0 * (i % 2) - 1]}).json()
            right.append(said["prediction"] == truth[i])
            if i >= late:
                told = http.post(f"/{client}/learn", json={"id": str(i - late), "y": truth[i - late]}).json()
                assert told["learned"], told
        return right

    with ThreadPoolExecutor(3) as pool:
        scores = list(pool.map(go_on, clients))
    assert all(sum(score[-20:]) >= 18 for score in scores)
    again = http.post("/anna/learn", json={"id": "3", "y": "up"}).json()
    assert not again["learned"] and "was answered" in again["reason"]
    assert http.post("/nobody/learn", json={"id": "3", "y": "up"}).json()["reason"] == "nothing was predicted"
    assert http.post("/anna/predict", json={"id": "x", "x": "no"}).status_code == 422


def test_a_stream_of_the_lab_streaming_layer_comes_back_forecast() -> None:
    pylsl = pytest.importorskip("pylsl", reason="pylsl is not installed: pip install pylsl", exc_type=Exception)
    forecast = runpy.run_path(str(EXAMPLES / "lsl.py"))["forecast"]
    name, rate, samples, channels = f"test-{time.time_ns()}", 50, 150, 2
    outlet = pylsl.StreamOutlet(pylsl.StreamInfo(name, "EEG", channels, rate, "float32", name))
    latencies: list[float] = []
    reader = threading.Thread(target=lambda: latencies.extend(forecast(name, f"{name}-back", wait=10.0)))
    reader.start()
    assert outlet.wait_for_consumers(180)
    (back,) = pylsl.resolve_byprop("name", f"{name}-back", timeout=120)
    inlet = pylsl.StreamInlet(back)
    inlet.open_stream(timeout=120)
    sent, got = list[list[float]](), list[list[float]]()
    for i in range(samples):
        sent.append([5 + math.sin(0.3 * i), math.cos(0.3 * i)])
        outlet.push_sample(sent[-1])
        time.sleep(1 / rate)
    while len(got) < samples and reader.is_alive():  # its outlet lives for some seconds after the last sample
        pulled, _ = inlet.pull_sample(timeout=0.5)
        got += [] if pulled is None else [pulled]
    reader.join()
    assert len(got) == len(latencies) == samples  # none is lost
    assert all(latency > 0 for latency in latencies)
    ahead = [abs(said[0] - truth[0]) for said, truth in zip(got[-40:-1], sent[-39:], strict=True)]
    mean = [abs(truth[0] - 5) for truth in sent[-39:]]
    assert sum(ahead) < 0.8 * sum(mean)  # better than the mean of the signal


def test_answers_and_predictions_go_over_mqtt() -> None:
    pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed: pip install paho-mqtt")
    broker = pytest.importorskip("amqtt.broker", reason="amqtt is not installed, the broker here: pip install amqtt")
    import paho.mqtt.client as mqtt

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    loop, ready = asyncio.new_event_loop(), threading.Event()
    config: dict[str, Any] = {"listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}}
    config |= {"plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}}

    async def serve() -> None:
        own = broker.Broker(config)
        await own.start()
        ready.set()
        while ready.is_set():
            await asyncio.sleep(0.05)
        await own.shutdown()

    server = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    server.start()
    assert ready.wait(30)
    learner = runpy.run_path(str(EXAMPLES / "mqtt.py"))["client"]("127.0.0.1", port, ["flow"])
    learner.loop_start()
    said: dict[int, float] = {}

    def heard(told: dict[str, Any]) -> None:
        said[told["id"]] = told["value"]

    source = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    source.on_message = lambda own, _, message: said.update(
        {(told := json.loads(message.payload))["id"]: told["value"]}
    )
    source.connect("127.0.0.1", port)
    source.subscribe("plant/prediction", 1)
    source.loop_start()
    try:
        until = time.monotonic() + 120
        for i in range(80):
            while i not in said and time.monotonic() < until:
                source.publish("plant/x", json.dumps({"id": i, "x": {"flow": float(i % 2)}}), qos=1).wait_for_publish(
                    10
                )
                for _ in range(40):
                    if i in said:
                        break
                    time.sleep(0.05)
            source.publish("plant/y", json.dumps({"id": i, "y": 10.0 + i % 2}), qos=1)
        assert sorted(said) == list(range(80))
        assert all(abs(said[i] - (10 + i % 2)) < 0.5 for i in range(70, 80))
    finally:
        for own in (source, learner):
            own.loop_stop()
            own.disconnect()
        ready.clear()
        server.join(30)
        loop.close()
