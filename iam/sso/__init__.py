"""Single sign-on with one OpenID Connect provider, which the environment names (BERTH_OIDC_…). It needs no rows."""
