"""What AutoGPTQ and AutoAWQ share: packages of an older time."""
