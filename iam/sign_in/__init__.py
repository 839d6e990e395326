"""How people sign in: limits on guessing, known browsers, second factors, sessions, and what of it is recorded."""
