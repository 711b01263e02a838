"""A learner on MQTT: python mqtt.py HOST PORT (pip install paho-mqtt).

plant/x    {"id": 7, "x": {"flow": 0.1, "heat": 21.5}}    ->  plant/prediction  {"id": 7, "value": 3.1}
plant/y    {"id": 7, "y": 3.0}                                late, in any order, or never
"""

import json
import sys
from typing import Any

import paho.mqtt.client as mqtt

import biomamba


def client(host: str, port: int, inputs: list[str]) -> mqtt.Client:
    """Return a connected client that answers rows and learns from what they turned out to be."""
    learner = biomamba.regressor(inputs=inputs, threads=1)

    def on_connect(own: mqtt.Client, *_: Any) -> None:
        own.subscribe([("plant/x", 1), ("plant/y", 1)])

    def on_message(own: mqtt.Client, _: Any, message: mqtt.MQTTMessage) -> None:
        told = json.loads(message.payload)
        if message.topic == "plant/x":
            said = learner.predict(told["x"], told["id"])
            own.publish("plant/prediction", json.dumps({"id": said.id, "value": said.value}), qos=1)
        else:
            learner.learn(told["id"], told["y"])

    own = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    own.on_connect, own.on_message = on_connect, on_message
    own.connect(host, port)
    return own


if __name__ == "__main__":
    client(sys.argv[1], int(sys.argv[2]), ["flow", "heat"]).loop_forever()
