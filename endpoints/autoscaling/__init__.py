"""How many replicas an endpoint should have, and why. The policy is pure; the rest measures, decides and records."""
