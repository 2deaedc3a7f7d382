//! Files as written, and their way to consistent types.
