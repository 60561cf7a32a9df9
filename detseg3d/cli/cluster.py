"""The engine of a command: worker processes of this machine, or the cluster that the user names with ``--cluster``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from detseg3d.cli.arguments import run_of
from detseg3d.system.run import Run

__all__ = ["network_resources", "opened_run"]


@contextmanager
def opened_run(
    options: argparse.Namespace,
    inputs: Sequence[str | Path] = (),
    outputs: Sequence[Path] = (),
    resources: dict[str, float] | None = None,
) -> Iterator[Run]:
    """Yield what runs the cases of a command. A cluster stays connected during the context.

    Parameters
    ----------
    options : Namespace
        With ``cluster``, ``no_progress`` and, if the command has the flag ``-np``, ``num_processes``.
    inputs : sequence of path
        Files and folders that the cases are read from. Each worker checks that it sees them.
    outputs : sequence of Path
        Folders that the cases are written to. They are created if there is a cluster.
    resources : dict, optional
        Resources that a case takes, see :class:`~detseg3d.system.cluster.ClusterRequest`.

    Yields
    ------
    Run

    Raises
    ------
    DetSeg3DError
        If the cluster cannot be used, see :func:`~detseg3d.system.cluster.opened_cluster`.
    """
    if options.cluster is None:
        yield run_of(options)
        return
    from detseg3d.system.cluster import ClusterRequest, opened_cluster

    request = ClusterRequest(options.cluster, tuple(map(Path, inputs)), tuple(outputs), resources or {})
    with opened_cluster(request) as engine:
        yield Run(show_progress=not options.no_progress, engine=engine)


def network_resources(device: str | None, memory_gb: float | None = None) -> dict[str, float]:
    """Return the resources of a case that runs a network.

    Parameters
    ----------
    device : str or None
        Device that the user names. A case takes one GPU, unless the device is not a GPU.
    memory_gb : float, optional
        Memory of a case, if the user limits it.

    Examples
    --------
    >>> network_resources(None, 4)
    {'GPU': 1, 'MEMORY': 4000000000.0}
    >>> network_resources("cpu")
    {}
    """
    resources: dict[str, float] = {"GPU": 1} if device is None or device.startswith("cuda") else {}
    return resources if memory_gb is None else {**resources, "MEMORY": memory_gb * 1e9}
