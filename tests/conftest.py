"""Puts this folder on the import path, so that tests find shared helpers such as ``timm_reference``."""
