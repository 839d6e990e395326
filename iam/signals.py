"""What IAM tells the other apps."""

from django.dispatch import Signal

# Somebody's right to call endpoints changed (a revocation, a limit, a role): gateways must learn of it. Sent inside
# the transaction of the change; receivers act after its commit. No arguments.
access_changed = Signal()
