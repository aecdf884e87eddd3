"""Characters, their cards and lorebooks, and personas: files that writers keep and exchange."""
