"""The few error types of this package. Each message says what was found, where, and what to do."""


class NVSMError(Exception):
    """Base of all own errors: the command line prints its message without a traceback."""


class DataError(NVSMError):
    """A picture, label, list or folder is missing or wrong."""


class WeightsError(NVSMError):
    """A weight file or checkpoint is missing or does not fit the model."""


class EngineError(NVSMError):
    """A renderer engine was asked for that this machine does not have."""


class ConfigError(NVSMError):
    """Settings contradict each other or the data."""
