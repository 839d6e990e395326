"""IAM's console pages."""
