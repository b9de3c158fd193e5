"""Prepare data: from a folder of images to shuffled, checked shards with a manifest.

Made to run on machines without accelerator: nothing in here imports torch before it is needed, and nothing here
imports the rest of the project.
"""
