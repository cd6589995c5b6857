"""Flower apps on Ray in one call.

>>> import rayworks.federation
>>> rayworks.federation.run("my_app.server:app", "my_app.client:app", num_supernodes=10)  # doctest: +SKIP

The whole system is :mod:`rayworks.systems.federation`.
"""

from rayworks.systems.federation.app_actors import run

__all__ = ["run"]
