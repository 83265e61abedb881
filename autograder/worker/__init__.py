"""The worker process that runs student code: it receives inputs and returns raw arrays, without any verdict."""
