"""The errors of reading data; each message names the place and the remedy. All but one are for a user to mend."""


class DataError(ValueError):
    """Something about the data, or about how they were asked for, is wrong."""


class WorkerKilledError(RuntimeError):
    """A decoding worker was killed from outside: no error of the user's, and the next attempt may go well."""


class CorruptImageError(DataError):
    """An encoded image that cannot be decoded to the last row, or that would be absurdly large."""


class ShardReadError(DataError):
    """A sample's bytes cannot be read."""


class CorruptShardError(ShardReadError):
    """A shard that ends before a sample does, or is gone."""


class RemoteError(ShardReadError):
    """Remote files that cannot be fetched, after all attempts."""


class CacheError(DataError):
    """The node's cache of remote shards cannot be kept: too small, not writable, not ours."""


class ShardIndexError(DataError):
    """Tars that cannot be understood as labelled images."""
