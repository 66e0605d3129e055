"""Device, threads and block sizes."""
