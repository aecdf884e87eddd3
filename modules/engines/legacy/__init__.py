"""What AutoGPTQ and AutoAWQ share: unmaintained packages that need their own, older dependencies."""
