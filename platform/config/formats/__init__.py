"""How languages write dates and numbers, where Django does not say it well."""
