"""The run: measure the price of safety, solve and certify the design, draw its curves, let builders learn, press it."""

import json
from collections.abc import Iterable, Sequence
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np

from rayworks.core.report import Report
from rayworks.core.run_directory import EXPORT
from rayworks.runtime.actor_pool import ActorPool
from rayworks.runtime.placement import worker_bundle, worker_options
from rayworks.runtime.system import Metrics, System
from rayworks.systems.regulation import SPEC
from rayworks.systems.regulation.actors import STRESSES, RegulationActor, training_options
from rayworks.systems.regulation.config import STAGES, Config
from rayworks.systems.regulation.design import Design, make_design, measure_design, value_law, write_design
from rayworks.systems.regulation.price_curve import PriceCurve, published_curve
from rayworks.systems.regulation.price_points import points_from_gaps
from rayworks.systems.regulation.reporting import build_report, design_card, design_report
from rayworks.systems.regulation.safety_training import read_table
