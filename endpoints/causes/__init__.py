"""Why a replica failed: rules as data (rules.toml) on exit code, engine's text, last lines and open ports."""

from endpoints.causes.diagnosis import HINT_AFTER_S, Diagnosis, Facts, diagnose, early_hint, misplaced
from endpoints.causes.rules import Rule, rules

__all__ = ["HINT_AFTER_S", "Diagnosis", "Facts", "Rule", "diagnose", "early_hint", "misplaced", "rules"]
