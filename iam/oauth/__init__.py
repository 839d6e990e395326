"""The OAuth2 server: service accounts exchange client_id and client_secret for short-lived JWTs (contract §2)."""
