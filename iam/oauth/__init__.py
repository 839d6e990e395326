"""The OAuth2 server."""
