"""How a number is taken: clock, protocol, memory and environment."""
