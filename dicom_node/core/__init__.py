"""Pure rules and states: standard library only, time is an argument."""
