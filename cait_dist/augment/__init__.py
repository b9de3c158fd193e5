"""What happens to a batch on the device: normalisation, mixup and cutmix. Imports nothing else of the project."""
