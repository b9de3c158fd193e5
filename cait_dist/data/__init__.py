"""From shards on a disk to batches of pixels: sample order, reading, decoding, cropping, loading."""
