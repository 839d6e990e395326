"""How allauth's OpenID Connect provider behaves here."""

from allauth.idp.oidc.adapter import DefaultOIDCAdapter


class OIDCAdapter(DefaultOIDCAdapter):
    """Tokens for service accounts."""
