"""The verbs: parse, call, print. Everything else is in the rooms, imported when it is used."""
