"""The activator: holds requests to endpoints that sleep, has them woken, and lets the requests through.

A process of its own on the cold path alone: gateways send it only what has no ready replica. It imports neither Django
nor the apps; what it has to know the control plane tells it (`control`).
"""
