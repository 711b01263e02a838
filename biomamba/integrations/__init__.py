"""Faces of the learner for other libraries, each an extra of its own: river, sklearn, hub."""
