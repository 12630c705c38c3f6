//! The router without I/O.
