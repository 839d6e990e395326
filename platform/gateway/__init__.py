"""The gateway: Envoy, the agent that feeds and watches it, and what both need from the control plane.

Nothing in this package imports Django or the apps: selectors hand it the dataclasses of `targets`.
"""
