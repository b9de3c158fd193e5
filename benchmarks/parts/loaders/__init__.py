"""The comparison of input pipelines: the images, the pipelines, the picture."""
