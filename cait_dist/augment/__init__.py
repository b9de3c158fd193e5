"""What happens to a batch on the device, see `pipeline`. Imports nothing else of the project."""
