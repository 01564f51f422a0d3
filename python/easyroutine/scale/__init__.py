"""Work on many machines: the units of a run as tasks of a Ray cluster.

``model.extract_to_store(…, engine="ray")`` fills a run with a cluster. It builds on :func:`run_units`, which takes a
plan of units and a worker that does one. :func:`dataset` reads a run as a Ray data set. Needs the extra
``ray``: ``pip install 'easyroutine-rs[ray]'``.
"""

from easyroutine.scale.cluster import Ray, run_units
from easyroutine.scale.data import dataset

__all__ = ["Ray", "dataset", "run_units"]
