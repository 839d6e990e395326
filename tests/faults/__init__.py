"""Faults, injected into a whole platform at named steps, and what must hold afterwards (`make faults SEEDS=n`).

A seed is one scenario (`plan`). The world (`world`) is the real stack: an engine, a platform and an image registry of
our own, that may be killed. The checker reads engine, database and gateway by itself and shares no code with the
reconciler.
"""
