"""Set-up, the processes of one machine, and what a person sees of them: `manage.py up` and `manage.py demo`.

Not called `supervisor`: that is the package whose engine starts and restarts the processes.
"""
