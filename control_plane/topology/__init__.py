"""Topology: what `topology/*.yaml` declares, how the cluster differs from it, and making it so.

topology = load_topology("topology").with_bundle(bundle)
async with PulsarAdmin(url) as admin:
    changes = diff(topology, await read_actual(admin, topology))
    await apply(admin, changes)
"""

from __future__ import annotations

from collections.abc import Mapping

from control_plane.topology.actual import read_actual
from control_plane.topology.apply import ApplyError, Event, apply
from control_plane.topology.broker_settings import warnings as broker_warnings
from control_plane.topology.bundle import BundleError, build_bundle
from control_plane.topology.diff import Attribute, Change, destruction, diff, summary
from control_plane.topology.grow import Grower, GrowError, Growth, grown_texts, growth
from control_plane.topology.loader import load_topology
from control_plane.topology.model import Actual, Bundle, FunctionSpec, FunctionState, Topology
from control_plane.topology.source import TopologyError

__all__ = [
    "Actual",
    "ApplyError",
    "Attribute",
    "Bundle",
    "BundleError",
    "Change",
    "Event",
    "FunctionSpec",
    "FunctionState",
    "GrowError",
    "Grower",
    "Growth",
    "Topology",
    "TopologyError",
    "apply",
    "broker_warnings",
    "build_bundle",
    "desired_functions",
    "destruction",
    "diff",
    "grown_texts",
    "growth",
    "load_topology",
    "read_actual",
    "summary",
]


def desired_functions(topology: Topology) -> Mapping[str, FunctionSpec]:
    """The functions that should be deployed, by their full name."""
    return topology.functions
