"""Errors of the model package; the docstring is the sentence, the attributes are the facts."""


class ModelError(Exception):
    """The model cannot do what was asked."""

    def __init__(self, detail: str = "", **facts: object) -> None:
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)
        sentence = (type(self).__doc__ or "").strip()
        super().__init__(f"{detail}: {sentence}" if detail else sentence)


class FrameTooSmall(ModelError):
    """The frame has too few pixels to hold a breast image; send the full-size image."""


class FrameInvalid(ModelError):
    """The frame must be a grey image of type uint8 and shape (height, width)."""


class SizeUnsupported(ModelError):
    """The generator takes images whose sides are multiples of 16."""


class SpecInvalid(ModelError):
    """The specification cannot be used; correct the named field."""


class ColorMapUnknown(ModelError):
    """No colour map has this name and version; update the program, or use another bundle."""


class ColorMapInvalid(ModelError):
    """A colour map is a table of 256 RGB colours of 8 bits, the hard end first."""


class BundleInvalid(ModelError):
    """The bundle is not complete and unchanged; copy it again from where it was published."""


class DeviceUnavailable(ModelError):
    """The configured device cannot be used on this machine; choose "auto" or "cpu", or repair its driver."""


class ResultInvalid(ModelError):
    """The network gave values that are not numbers; no result was made of them."""


class SelfTestFailed(ModelError):
    """The model did not give the result stored with it, so none of its results can be trusted here."""


class SelfCheckFailed(ModelError):
    """The two heads of the model contradict each other, so no result was made of what they gave."""
