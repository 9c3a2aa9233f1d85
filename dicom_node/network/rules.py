"""What every module of an incoming association raises when its peer broke the standard."""


class BrokenRule(Exception):
    """The peer broke a rule of the standard, which `str()` names; it is aborted (PS3.8 9.3.8)."""
