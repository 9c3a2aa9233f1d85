"""Errors of the training pipeline; the docstring is the sentence, the attributes are the facts."""


class TrainingError(Exception):
    """Training cannot go on."""

    def __init__(self, detail: str = "", **facts: object) -> None:
        self.facts = facts
        self.__dict__.update(facts)
        sentence = (type(self).__doc__ or "").strip()
        super().__init__(f"{detail}: {sentence}" if detail else sentence)


class PairFolderInvalid(TrainingError):
    """The folder does not hold pairs that this version can read."""


class PairInvalid(TrainingError):
    """The file is not a pair of B-mode and strain on the same pixels."""


class ConfigInvalid(TrainingError):
    """The training configuration cannot be used."""


class CheckpointInvalid(TrainingError):
    """The checkpoint does not belong to this run; use another --out, or the configuration it began with."""


class NothingToResume(TrainingError):
    """No run began in this folder; check --out, or leave --resume away to begin one."""


class TooFewPairs(TrainingError):
    """There are not enough pairs; simulate more, or point at the folder that holds them."""


class NotFinite(TrainingError):
    """The loss is no longer a finite number; resume from the last checkpoint with a lower learning rate."""


class StillsInvalid(TrainingError):
    """The folder does not hold B-mode stills with masks and labels in the form of docs/training.md."""


class StillInvalid(TrainingError):
    """The still cannot be read with its masks; mend the file, or take its line out of index.csv."""


class RefereeUnavailable(TrainingError):
    """The second simulator needs a finite-element library that is not installed here."""


class OnlyForJudging(TrainingError):
    """These pairs judge models; a model that has seen them could not be judged by them."""


class ScoresDiffer(TrainingError):
    """Two models can only be compared on the same pairs; score both on the same folders."""


class PictureNotWritten(TrainingError):
    """The picture could not be encoded as PNG."""


class ArgumentsInvalid(TrainingError):
    """The arguments do not say what to do; see --help."""


class TooFewStills(TrainingError):
    """There are not enough stills with lesions; take another --side, or a larger folder."""


class SettingsInvalid(TrainingError):
    """The settings of `prepare` cannot be used."""


class ScreensInvalid(TrainingError):
    """There is nothing to prepare."""


class ScreenNotReadNow(TrainingError):
    """This machine cannot read a screen now; once it can, the same call goes on where it ended."""


class TooFewFrames(TrainingError):
    """There are not enough frames to tell what is familiar; add frames, or leave their folder out."""
