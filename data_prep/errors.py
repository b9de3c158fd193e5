"""The error that a user of data preparation sees."""


class DataPrepError(ValueError):
    """Something about the images, the folders or the request is wrong; the message says what, where and what to do."""
