"""How the OpenAPI schema tells of bearer tokens."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension


class ServiceAccountScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """HTTP bearer, a JWT from the token call."""

    target_class = "iam.api_auth.ServiceAccountAuthentication"
    name = "accessToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        """OpenAPI 3's security scheme object."""
        return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
