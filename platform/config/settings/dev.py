"""A laptop: what `make up` and `make demo` run with. Everything embedded, on loopback."""

from config.settings.base import *
