"""A learner for each client, behind HTTP: uvicorn http_service:app (pip install fastapi uvicorn).

POST /anna/predict {"id": "7", "x": [0.1, 0.2]}   ->  {"id": "7", "prediction": "calm", "probabilities": {...}}
POST /anna/learn   {"id": "7", "y": "calm"}       ->  {"learned": true}      at once, late, in any order, or never
"""

from threading import Lock
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

import biomamba

app, learners, locks = FastAPI(), dict[str, biomamba.Learner](), dict[str, Lock]()


class Row(BaseModel):
    """A step."""

    id: str
    x: list[float]


class Answer(BaseModel):
    """What a step turned out to be."""

    id: str
    y: str


@app.post("/{client}/predict")
def predict(client: str, row: Row) -> dict[str, Any]:
    """Predict a step of one client's stream."""
    with locks.setdefault(client, Lock()):  # the steps of a client one after the other, those of others beside them
        if client not in learners:
            learners[client] = biomamba.classifier(inputs=len(row.x), classes=8, threads=1)
        said = learners[client].predict(row.x, row.id)
    return {"id": said.id, "prediction": said.value, "probabilities": said.probabilities}


@app.post("/{client}/learn")
def learn(client: str, answer: Answer) -> dict[str, Any]:
    """Learn what a step turned out to be."""
    with locks.setdefault(client, Lock()):
        learned = learners[client].learn(answer.id, answer.y) if client in learners else None
    return {"learned": bool(learned), "reason": "nothing was predicted" if learned is None else learned.reason}
