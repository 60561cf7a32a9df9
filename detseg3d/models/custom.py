"""Networks and mask losses that a user names on the command line as ``module:function``.

The plans of a training record the names, so that a later command can name the flags that it needs. A recorded name is
never imported. Code runs only if the user names it in the command itself, because the plans may come from another
person.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detseg3d.core.errors import DetSeg3DError
from detseg3d.models.detseg import DetSeg3D
from detseg3d.planning.plans import Plans

__all__ = ["CustomCode", "check_network_is_named", "load_function"]


@dataclass(frozen=True)
class CustomCode:
    """A custom network and a custom mask loss.

    Attributes
    ----------
    network : str or None
        ``module:function`` of a function from :class:`~detseg3d.planning.plans.Plans` to a
        :class:`~detseg3d.models.detseg.DetSeg3D`, usually a subclass. ``None`` for DetSeg3D itself.
    mask_loss : str or None
        ``module:function`` of a loss of the masks, see :func:`~detseg3d.models.objectives.losses.roi_mask_loss`.
        ``None`` for that loss.
    """

    network: str | None = None
    mask_loss: str | None = None

    def check(self) -> None:
        """Import both functions.

        Raises
        ------
        DetSeg3DError
            If a name is not of the form ``module:function``, or the function cannot be imported.
        """
        for name in (self.network, self.mask_loss):
            if name is not None:
                load_function(name)

    def build(self, plans: Plans) -> DetSeg3D:
        """Make the network of the plans.

        Returns
        -------
        DetSeg3D

        Raises
        ------
        DetSeg3DError
            If the plans record a network that is not named here, if a function cannot be imported, or if the network
            function fails or does not return a DetSeg3D.
        """
        if self.network is None:
            check_network_is_named(plans)
            model = DetSeg3D(plans)
        else:
            model = _call(self.network, plans)
        if self.mask_loss is not None:
            model.mask_loss = load_function(self.mask_loss)
        return model


def check_network_is_named(plans: Plans) -> None:
    """Raise an error if the plans record a custom network. Callers that build DetSeg3D itself check this first.

    Raises
    ------
    DetSeg3DError
        If the plans record a custom network. The error names the flag that is needed.
    """
    if plans.training.network is not None:
        raise DetSeg3DError(
            "this model was trained with a custom network, which is not named in this command",
            value=plans.training.network,
            remedy=f"if you trust that code, name it with --network {plans.training.network}",
        )


def load_function(name: str) -> Callable[..., Any]:
    """Import a function by its name.

    The current folder is searched after the installed packages.

    Parameters
    ----------
    name : str
        ``module:function``, for example ``my_package.networks:build``.

    Returns
    -------
    callable

    Raises
    ------
    DetSeg3DError
        If the name has another form, the module cannot be imported, or it has no such function.

    Examples
    --------
    >>> load_function("math:sqrt")(4.0)
    2.0
    """
    module_name, separator, function_name = name.partition(":")
    if not (separator and module_name and function_name.isidentifier()):
        raise DetSeg3DError("the name of a function cannot be read", value=name, expected="module:function")
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise DetSeg3DError(
            f"the module {module_name} cannot be imported ({type(error).__name__}: {error})",
            value=name,
            expected="module:function of an installed package or of a file in the current folder",
            remedy="check the name, and that the package is installed or the current folder is the right one",
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise DetSeg3DError(
            f"the module {module_name} has no function {function_name}",
            file=getattr(module, "__file__", None),
            value=name,
        )
    result: Callable[..., Any] = function
    return result


def _call(name: str, plans: Plans) -> DetSeg3D:
    try:
        model = load_function(name)(plans)
    except DetSeg3DError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise DetSeg3DError(f"the network function failed ({type(error).__name__}: {error})", value=name) from error
    if not isinstance(model, DetSeg3D):
        raise DetSeg3DError(
            f"the network function returned an object of type {type(model).__name__}",
            value=name,
            expected="a DetSeg3D, or an object of a subclass",
        )
    return model
