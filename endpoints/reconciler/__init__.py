"""Level-triggered reconciliation: observe what runs, plan what is missing, apply it. See run.reconcile."""
