"""Which environment variables a user may give to a container."""

from __future__ import annotations

import re

from django.utils.translation import gettext as _

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
# NVIDIA_*: its hook reads NVIDIA_VISIBLE_DEVICES and would hand over every GPU of the machine, whoever owns it.
# LD_*, PATH, HOME and HOSTNAME decide what the image's own program is; BERTH_* speaks to our own servers.
_RESERVED_PREFIXES = ("NVIDIA_", "LD_", "BERTH_")
_RESERVED = frozenset(
    {"PATH", "HOME", "HOSTNAME", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES"}
)


def is_reserved(name: str) -> bool:
    """Whether the platform or the engine sets this variable itself."""
    upper = name.upper()
    return upper in _RESERVED or upper.startswith(_RESERVED_PREFIXES)


def refusal(name: str) -> str:
    """Why a variable can't have this name, "" if it can."""
    if not _NAME.fullmatch(name):
        return _("“%(key)s” is no variable name: use letters, digits and _.") % {"key": name[:60]}
    if is_reserved(name):
        return _("%(key)s is set by the platform and can't be given.") % {"key": name[:60]}
    return ""
