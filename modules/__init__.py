"""The application. `errors`, `options` and `events` are its words; everything else imports downwards."""
