"""Django's own commands that make people or change passwords, on record."""
